#include "container/manifest.h"

#include <gtest/gtest.h>

#include <array>
#include <nlohmann/json.hpp>

#include "checksum/crc32c.h"
#include "container/file_format.h"
#include "container_helpers.h"

namespace ostraca {
namespace {

using std::string_literals::operator""s;

Manifest sample() {
  Manifest m;
  m.id = test_id();
  m.step = 1000;
  m.created = "2026-11-20T12:00:00Z";
  m.writer = "ostraca 0.1.0 \"quoted\"\n";
  m.process_count = 2;
  m.logical_bytes = UINT64_MAX;
  m.stored_bytes = 123;
  m.arrays = 4;
  m.chunks = 5;
  m.seconds = 1.5;
  m.stall_seconds = 0.1;
  m.metadata = R"({"z": 1, "a": [1.50, {"$int": "9007199254740993"}], "z2": "\u00e9", "deep": {"crc32c": "x"}})";
  m.index = {index_file_name(m.id), 1000, 0xDEADBEEF};
  m.files = {{data_file_name(0, m.id), 5000, 1}, {data_file_name(1, m.id), 6000, 2}};
  return m;
}

// The text with a right CRC, whatever was done to it.
std::string resealed(std::string text) {
  const std::size_t at = text.size() - 12;
  char digits[16];
  std::snprintf(digits, sizeof digits, "%08x",
                static_cast<unsigned>(crc32c(as_bytes(std::string_view(text).substr(0, at)))));
  return text.replace(at, 8, digits, 8);
}

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  const std::size_t at = text.find(what);
  EXPECT_NE(at, std::string::npos) << what;
  return resealed(text.replace(at, what.size(), with));
}

TEST(Manifest, RoundTrips) {
  const Manifest m = sample();
  const auto text = encode_manifest(m);
  ASSERT_TRUE(text.ok()) << text.status().message();
  const auto d = decode_manifest(*text);
  ASSERT_TRUE(d.ok()) << d.status().message();
  EXPECT_EQ(d->id, m.id);
  EXPECT_EQ(d->step, m.step);
  EXPECT_EQ(d->writer, m.writer);
  EXPECT_EQ(d->logical_bytes, m.logical_bytes);
  EXPECT_EQ(d->stall_seconds, m.stall_seconds);
  EXPECT_EQ(d->metadata, m.metadata);  // to the letter
  EXPECT_EQ(d->index.footer_crc, 0xDEADBEEF);
  ASSERT_EQ(d->files.size(), 2u);
  EXPECT_EQ(d->files[1].name, m.files[1].name);
  EXPECT_EQ(*encode_manifest(*d), *text);
}

TEST(Manifest, EndsAsTheFormatSays) {
  const std::string text = *encode_manifest(sample());
  const std::size_t digits = text.size() - 12;
  EXPECT_EQ(text.substr(digits - 11, 11), "\"crc32c\": \"");
  EXPECT_EQ(text.substr(digits + 8), "\"\n}\n");
  EXPECT_EQ(resealed(text), text);
  const auto json = nlohmann::ordered_json::parse(text);
  EXPECT_EQ(std::prev(json.end()).key(), "crc32c");
  EXPECT_EQ(json["format"], "ostraca");
  EXPECT_EQ(json["features"], "0000000000000000");
  EXPECT_EQ(json["index"]["footer_crc32c"], "deadbeef");
  EXPECT_NE(text.find("\n    {\"file\": \"p00001-"), std::string::npos);
}

TEST(Manifest, EveryBitFlipAndTruncationIsRefused) {
  std::string text = *encode_manifest(sample());
  for (std::size_t bit = 0; bit < 8 * text.size(); ++bit) {
    text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << bit % 8));
    EXPECT_FALSE(decode_manifest(text).ok()) << bit;
    text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << bit % 8));
  }
  for (std::size_t n = 0; n < text.size(); ++n) EXPECT_FALSE(decode_manifest(text.substr(0, n)).ok()) << n;
}

TEST(Manifest, WrongMembersAreRefusedByName) {
  const std::string text = *encode_manifest(sample());
  const auto refusal = [&](const std::string& what, const std::string& with) {
    const auto result = decode_manifest(replaced(text, what, with));
    return result.ok() ? "" : result.status().message();
  };
  const std::vector<std::array<std::string, 3>> cases = {
      {"\"format\": \"ostraca\"", "\"format\": \"other\"", "'format'"},
      {"\"version\": 1", "\"version\": 2", "version: expected 1, found 2"},
      {"\"version\": 1", "\"version\": 1.0", "'version'"},
      {"\"features\": \"0000000000000000\"", "\"features\": \"0000000000000001\"", "'base'"},
      {"\n  \"features\": \"0000000000000000\"", "\n  \"features\": \"0000000000000002\"", "'parts'"},
      {"\n  \"features\": \"0000000000000000\"", "\n  \"features\": \"0000000000000004\"", "features"},
      {"\"compatible_features\": \"0000000000000000\"", "\"compatible_features\": \"8000000000000000\"", "ok"},
      {"\"compatible_features\": \"0000000000000000\"", "\"compatible_features\": \"8\"", "'compatible_features'"},
      {"\"compatible_features\": \"0000000000000000\"", "\"compatible\": null", "ok"},
      {"p00001-", "p00000-00001-", "files"},
      {"p00001-", "p00000-00002-", "files[1]"},
      {"p00001-", "p00000-1-", "files[1]"},
      {"\"features\": \"0000000000000000\"", "\"features\": \"0\"", "'features'"},
      {"\"step\": 1000", "\"step\": 9223372036854775808", "'step'"},
      {"\"step\": 1000", "\"step\": 1.5", "'step'"},
      {"\"step\": 1000", "\"other\": 1", "'step'"},
      {"\"created\": \"2026-", "\"created\": \"20266", "'created'"},
      {"\"created\": \"2026-11-20", "\"created\": \"2026-02-31", "'created'"},
      {"\"created\": \"2026-", "\"created\": \"2300-", "'created'"},
      {"\"created_nanoseconds\": 0", "\"created_nanoseconds\": 1000000000", "'created_nanoseconds'"},
      {"\"parent\": null", "\"parent\": \"../../home\"", "'parent'"},
      {"\"process_count\": 2", "\"process_count\": 0", "'process_count'"},
      {"\"process_count\": 2", "\"process_count\": 1048577", "'process_count'"},
      {"\"process_count\": 2", "\"process_count\": 3", "'files'"},
      {"\"stored_bytes\": 123", "\"stored_bytes\": -123", "'stored_bytes'"},
      {"\"stored_bytes\": 123", "\"stored_bytes\": 18446744073709551616", "'stored_bytes'"},
      {"\"seconds\": 1.5", "\"seconds\": -1.5", "'seconds'"},
      {"\"seconds\": 1.5", "\"seconds\": 1e999", "malformed"},
      {"\"base\": null", "\"base\": {\"directory\": \"a\", \"id\": \"" + test_id().hex() + "\"}", "'base'"},
      {"\"base\": null", "\"base\": {\"directory\": \"..\", \"id\": \"" + test_id().hex() + "\"}", "'directory'"},
      {"\"base\": null", "\"base\": {\"directory\": \"a/b\", \"id\": \"" + test_id().hex() + "\"}", "'directory'"},
      {"\"metadata\"", "\"metadat\"", "'metadata'"},
      {"\"files\": [\n    {", "\"files\": [1], \"x\": [\n    {", "'files'"},
      {"p00000-", "p00001-", "files[0]"},
      {"p00001-", "p00002-", "files[1]"},
      {"p00000-", "p000000-", "files[0]"},
      {"p00000-", "../../p-", "files[0]"},
      {"\"index-", "\"indey-", "index"},
      {"\"bytes\": 5000", "\"bytes\": 159", "'bytes'"},
      {"deadbeef", "DEADBEEF", "'footer_crc32c'"},
      {"{\n", "{\"a\": 1}\0{"s + "\n", "zero byte"},
      {"{\n", "\xEF\xBB\xBF{\n", "byte order"},
      {"{\n", "{\"\xFF\": 1,\n", "malformed"},
      {"{\n", "{\"unknown\": {\"format\": 3}, \"unknown\": 4,\n", "ok"},
      {"{\n", "{\"format\": \"ostraca\",\n", "found more"},
      {"{\n", "{\"metadata\": 1,\n", "found more"},
      {"{\n", " \n{", "ok"},
  };
  for (const auto& [what, with, expected] : cases) {
    const std::string message = refusal(what, with);
    if (expected == "ok") {
      EXPECT_EQ(message, "") << with;
    } else {
      EXPECT_NE(message.find(expected), std::string::npos) << with << " -> " << message;
    }
  }
}

TEST(Manifest, BombsAreRefusedOrCheap) {
  const std::string text = *encode_manifest(sample());
  const auto decode = [&](const std::string& metadata) {
    return decode_manifest(replaced(text, "\"metadata\": {", "\"metadata\": " + metadata + ", \"x\": {"));
  };
  EXPECT_TRUE(decode(std::string(511, '[') + std::string(511, ']')).ok());
  for (std::size_t depth : {512u, 100'000u, 10'000'000u}) {
    EXPECT_FALSE(decode(std::string(depth, '[') + std::string(depth, ']')).ok());
    EXPECT_FALSE(decode(std::string(depth, '[')).ok());
  }
  std::string wide = "{\"\":0";  // as many members as fit: linear, not quadratic
  while (wide.size() < 8'000'000) wide += ",\"k" + std::to_string(wide.size()) + "\":0";
  EXPECT_TRUE(decode(wide + "}").ok());
  EXPECT_FALSE(decode_manifest(std::string((64 << 20) + 1, ' ')).ok());
}

TEST(Manifest, BadMetadataIsAnInvalidArgument) {
  for (const char* metadata :
       {"", "{", "NaN", "1 2", "'a'", "{\"a\":1,}", "1, \"step\": 2", "\"\xFF\"", "1e999", "// c\n1"}) {
    Manifest m = sample();
    m.metadata = metadata;
    EXPECT_EQ(encode_manifest(m).status().code(), Code::kInvalidArgument) << metadata;
  }
  for (const char* metadata : {"null", "0", "-1.25e-7", "\"}, {\\\"\"", "[[], {}, \"]\"]"}) {
    Manifest m = sample();
    m.metadata = metadata;
    const auto text = encode_manifest(m);
    ASSERT_TRUE(text.ok()) << metadata;
    EXPECT_EQ(decode_manifest(*text)->metadata, metadata);
  }
}

TEST(Manifest, UnreadableOnesAreNotWritten) {
  Manifest m = sample();
  m.created = "yesterday";
  EXPECT_EQ(encode_manifest(m).status().code(), Code::kInvalidArgument);
  m = sample();
  m.seconds = -1;
  EXPECT_FALSE(encode_manifest(m).ok());
  m = sample();
  std::swap(m.files[0], m.files[1]);
  EXPECT_FALSE(encode_manifest(m).ok());
  m = sample();
  m.step.reset();
  EXPECT_EQ(decode_manifest(*encode_manifest(m))->step, std::nullopt);
}

TEST(Manifest, SaysWhenToTheNanosecondAndWhatCameBefore) {
  Manifest m = sample();
  m.parent = CheckpointId::random();
  set_created(&m, 1'795'000'000'123'456'789);
  const std::string text = *encode_manifest(m);
  const auto d = decode_manifest(text);
  ASSERT_TRUE(d.ok()) << d.status().message();
  EXPECT_EQ(d->created, "2026-11-18T11:06:40Z");
  EXPECT_EQ(d->created_nanoseconds, 123'456'789u);
  EXPECT_EQ(d->parent, m.parent);
  // Manifests of before have neither.
  std::string old = replaced(text, "  \"created_nanoseconds\": 123456789,\n", "");
  old = replaced(old, "  \"parent\": \"" + m.parent->hex() + "\",\n", "");
  const auto before = decode_manifest(old);
  ASSERT_TRUE(before.ok()) << before.status().message();
  EXPECT_EQ(before->created_nanoseconds, 0u);
  EXPECT_EQ(before->parent, std::nullopt);
}

// What is refused for another reason may still say which base it has; but not if that cannot be believed.
TEST(Manifest, ABaseIsKnownWhereTheRestIsRefused) {
  Manifest m = sample();
  const std::string full = *encode_manifest(m);
  m.features = kFeatureIncremental;
  m.base_directory = "keyframe";
  m.base_id = CheckpointId::random();
  const std::string delta = *encode_manifest(m);
  const std::string features = "\"features\": \"0000000000000001\"";
  EXPECT_EQ(decode_base(replaced(delta, "\"step\": 1000", "\"step\": \"x\""))->id, m.base_id);
  EXPECT_EQ(decode_base(replaced(delta, features, "\"features\": \"0000000000000003\""))->id, m.base_id);
  EXPECT_EQ(decode_base(replaced(full, "\"step\": 1000", "\"step\": \"x\""))->directory, "");
  EXPECT_FALSE(decode_base(replaced(delta, features, "\"features\": \"0000000000000000\"")).ok());
  EXPECT_FALSE(decode_base(replaced(full, "\"features\": \"0000000000000000\"", features)).ok());
  EXPECT_FALSE(decode_base(replaced(full, "\"version\": 1", "\"version\": 2")).ok());
}

TEST(Intent, RoundTripsAndRefuses) {
  Intent intent;
  intent.id = test_id();
  intent.process_count = 4;
  intent.created = utc_now();
  intent.host = "node\xFF-1";
  intent.pid = 4711;
  intent.boot_id = "8f1c";
  intent.start_ticks = UINT64_MAX;
  std::string text = *encode_intent(intent);
  const auto decoded = decode_intent(text);
  ASSERT_TRUE(decoded.ok()) << decoded.status().message();
  EXPECT_EQ(decoded->id, intent.id);
  EXPECT_EQ(decoded->process_count, 4u);
  EXPECT_EQ(decoded->created, intent.created);
  EXPECT_EQ(decoded->pid, 4711);
  EXPECT_EQ(decoded->boot_id, "8f1c");
  EXPECT_EQ(decoded->start_ticks, UINT64_MAX);
  EXPECT_EQ(decoded->base_directory, "");
  EXPECT_EQ(decode_base(text)->directory, "");
  Intent delta = intent;
  delta.base_directory = "0000001000";
  delta.base_id = sample().id;
  const auto again = decode_intent(*encode_intent(delta));
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(again->base_directory, "0000001000");
  EXPECT_EQ(again->base_id, delta.base_id);
  EXPECT_EQ(decode_base(*encode_intent(delta))->id, delta.base_id);
  EXPECT_EQ(decode_base(*encode_manifest(sample()))->directory, "");
  delta.base_directory = "\xFF";
  EXPECT_FALSE(encode_intent(delta).ok());
  EXPECT_FALSE(decode_manifest(text).ok());
  EXPECT_FALSE(decode_intent(*encode_manifest(sample())).ok());
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string changed = text;
    changed[i] ^= 1;
    EXPECT_FALSE(decode_intent(changed).ok()) << i;
  }
}

}  // namespace
}  // namespace ostraca
