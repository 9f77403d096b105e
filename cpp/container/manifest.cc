#include "container/manifest.h"

#include <algorithm>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <ctime>

#include "base/limits.h"
#include "checksum/crc32c.h"
#include "container/file_format.h"
#include "container/json_text.h"
#include "container/key_path.h"

namespace ostraca {
namespace {

using nlohmann::json;

constexpr const char* kManifestFormat = "ostraca";
constexpr const char* kIntentFormat = "ostraca-intent";
constexpr const char* kNoteFormat = "ostraca-notes";
// How every manifest, intent and note ends: the CRC's member, which covers what comes before its digits.
constexpr std::string_view kClosingBegin = "\"crc32c\": \"";
constexpr std::string_view kClosingEnd = "\"\n}\n";
constexpr std::size_t kCrcDigits = 8;
constexpr unsigned kFeatureDigits = 16;
constexpr std::size_t kClosingBytes = kClosingBegin.size() + kCrcDigits + kClosingEnd.size();
constexpr std::string_view kMetadata = "metadata", kFacts = "facts";
constexpr std::string_view kManifestMembers[] = {"arrays",        "base",
                                                 "chunks",        "compatible_features",
                                                 "created",       "created_nanoseconds",
                                                 "features",      "files",
                                                 "format",        "id",
                                                 "index",         "logical_bytes",
                                                 "metadata",      "parent",
                                                 "process_count", "referenced_bytes",
                                                 "seconds",       "stall_seconds",
                                                 "step",          "stored_bytes",
                                                 "version",       "writer"};
constexpr std::string_view kIntentMembers[] = {"format",  "version", "id",  "base",    "process_count",
                                               "created", "host",    "pid", "boot_id", "start_ticks"};
constexpr std::string_view kNoteMembers[] = {"format", "version", "id", "facts"};
constexpr std::int64_t kNanosecondsPerSecond = 1'000'000'000;

// Members one a line, in the order in which they are added.
class JsonWriter {
 public:
  void add(const char* name, const std::string& json) { text_ += "  \"" + std::string(name) + "\": " + json + ",\n"; }
  void add_text(const char* name, std::string_view value) { add(name, json_quote(value)); }
  void add_number(const char* name, std::uint64_t value) { add(name, std::to_string(value)); }

  std::string close() {
    text_ += "  ";
    text_ += kClosingBegin;
    text_ += to_hex(crc32c(as_bytes(text_)), kCrcDigits);
    text_ += kClosingEnd;
    return std::move(text_);
  }

 private:
  std::string text_ = "{\n";
};

std::string file_json(const ManifestFile& file) {
  return "{\"file\": " + json_quote(file.name) + ", \"bytes\": " + std::to_string(file.bytes) +
         ", \"footer_crc32c\": \"" + to_hex(file.footer_crc, kCrcDigits) + "\"}";
}

std::string base_json(const std::string& directory, const CheckpointId& id) {
  if (directory.empty()) return "null";
  return "{\"directory\": " + json_quote(directory) + ", \"id\": \"" + id.hex() + "\"}";
}

// Checks the closing CRC, before anything parses the text.
Status check_closing(std::string_view text) {
  if (text.size() > kManifestBytesMax)
    return format_error("expected at most 64 MiB, found " + std::to_string(text.size()) + " bytes");
  std::uint64_t stored = 0;
  const std::string_view closing = text.substr(text.size() - std::min(text.size(), kClosingBytes));
  if (closing.size() != kClosingBytes || !closing.starts_with(kClosingBegin) || !closing.ends_with(kClosingEnd) ||
      !parse_hex(closing.substr(kClosingBegin.size(), kCrcDigits), &stored))
    return corruption("does not end with its crc32c: it is cut off or was edited");
  const std::size_t covered = text.size() - kCrcDigits - kClosingEnd.size();
  const std::uint32_t computed = crc32c(as_bytes(text.substr(0, covered)));
  if (computed != stored)
    return corruption("crc32c: expected " + to_hex(stored, kCrcDigits) + ", computed " + to_hex(computed, kCrcDigits));
  return {};
}

// The members of `text` named in `names`, parsed, but for the one called `kept`, of which the text is kept.
Result<json> parse_members(std::string_view text, std::span<const std::string_view> names, std::string_view kept = {},
                           std::string* kept_text = nullptr) {
  OSTRACA_RETURN_IF_ERROR(check_closing(text));
  OSTRACA_RETURN_IF_ERROR(check_json(text));
  if (text.substr(text.find_first_not_of(" \t\r\n")).front() != '{') return format_error("expected a JSON object");
  json members = json::object();
  std::string twice;  // readers would disagree on which one counts
  for_each_member(text, [&](std::string_view name, std::string_view value) {
    if (std::ranges::find(names, name) == names.end()) return;
    const bool keep_text = name == kept;
    if (!members.emplace(name, keep_text ? json() : json::parse(value, nullptr, /*allow_exceptions=*/false)).second)
      twice = name;
    if (keep_text) *kept_text = value;
  });
  if (!twice.empty()) return format_error("member '" + twice + "': expected once, found more");
  if (!kept.empty() && !members.contains(kept))
    return format_error("member '" + std::string(kept) + "': expected any JSON, found nothing");
  return members;
}

Status check_format(const json& members, const char* format) {
  OSTRACA_ASSIGN_OR_RETURN(const std::string found, json_string(members, "format"));
  if (found != format) return json_mismatch(members, "format", json_quote(format));
  OSTRACA_ASSIGN_OR_RETURN(const std::uint64_t version, json_unsigned(members, "version"));
  return version == kFormatVersion ? Status() : unknown_version(version);
}

// Members that came later: null where they are missing.
bool is_given(const json& members, const char* name) {
  const json* member = json_member(members, name);
  return member != nullptr && !member->is_null();
}

Status read_features(const json& members, Manifest* manifest) {
  OSTRACA_ASSIGN_OR_RETURN(manifest->features, json_hex(members, "features", kFeatureDigits));
  if ((manifest->features & ~kFeaturesSupported) != 0)
    return format_error("requires features that this build lacks: " +
                        to_hex(manifest->features & ~kFeaturesSupported, kFeatureDigits));
  if (!is_given(members, "compatible_features")) return {};
  OSTRACA_ASSIGN_OR_RETURN(manifest->compatible_features, json_hex(members, "compatible_features", kFeatureDigits));
  return {};
}

Status read_history(const json& members, Manifest* manifest) {
  if (is_given(members, "created_nanoseconds")) {
    OSTRACA_ASSIGN_OR_RETURN(const std::uint64_t rest,
                             json_unsigned(members, "created_nanoseconds", kNanosecondsPerSecond - 1));
    manifest->created_nanoseconds = static_cast<std::uint32_t>(rest);
  }
  if (is_given(members, "parent")) {
    OSTRACA_ASSIGN_OR_RETURN(manifest->parent, json_id(members, "parent"));
  }
  return {};
}

// Null or {"directory", "id"}; `directory` is left empty for null.
Status read_base(const json& members, std::string* directory, CheckpointId* id) {
  const json* base = json_member(members, "base");
  if (base != nullptr && base->is_null()) return {};
  if (base == nullptr || !base->is_object()) return json_mismatch(members, "base", "null or an object");
  OSTRACA_ASSIGN_OR_RETURN(*directory, json_string(*base, "directory"));
  if (directory->empty() || directory->size() > kNameBytesMax || *directory == "." || *directory == ".." ||
      directory->find('/') != std::string::npos || directory->find('\0') != std::string::npos)
    return json_mismatch(*base, "directory", "one path component").with_context("base");
  OSTRACA_ASSIGN_OR_RETURN(*id, json_id(*base, "id"));
  return {};
}

Result<ManifestFile> read_file(const json& entry) {
  if (!entry.is_object()) return format_error("expected an object, found " + std::string(entry.type_name()));
  ManifestFile file;
  OSTRACA_ASSIGN_OR_RETURN(file.name, json_string(entry, "file"));
  OSTRACA_ASSIGN_OR_RETURN(file.bytes, json_unsigned(entry, "bytes"));
  if (file.bytes < kHeaderBytes + kFooterBytes) return json_mismatch(entry, "bytes", "at least a header and a footer");
  OSTRACA_ASSIGN_OR_RETURN(const std::uint64_t crc, json_hex(entry, "footer_crc32c", kCrcDigits));
  file.footer_crc = static_cast<std::uint32_t>(crc);
  return file;
}

// Appends the data file of an entry: the next part of the process before, or the next process's first.
Status read_data_file(const json& entry, Manifest* manifest) {
  OSTRACA_ASSIGN_OR_RETURN(ManifestFile file, read_file(entry));
  std::string next = data_file_name(0, manifest->id);
  if (!manifest->files.empty()) {
    const ManifestFile& before = manifest->files.back();
    file.process_index = before.process_index;
    file.part = before.part + 1;
    if (file.part < kPartCountMax && file.name == data_file_name(file.process_index, manifest->id, file.part))
      return manifest->files.push_back(std::move(file)), Status();
    file.process_index = before.process_index + 1;
    file.part = 0;
    next = data_file_name(file.process_index, manifest->id);
  }
  if (file.name != next || file.process_index >= manifest->process_count) return json_mismatch(entry, "file", next);
  manifest->files.push_back(std::move(file));
  return {};
}

Status read_files(const json& members, Manifest* manifest) {
  const json* index = json_member(members, "index");
  if (index == nullptr) return json_mismatch(members, "index", "an object");
  Result<ManifestFile> index_file = read_file(*index);
  if (!index_file.ok()) return index_file.status().with_context("index");
  manifest->index = index_file.take();
  if (manifest->index.name != index_file_name(manifest->id))
    return json_mismatch(*index, "file", index_file_name(manifest->id)).with_context("index");

  const json* files = json_member(members, "files");
  if (files == nullptr || !files->is_array()) return json_mismatch(members, "files", "a list");
  if (files->size() < manifest->process_count || files->size() > kFileCountMax)
    return format_error("member 'files': expected one or more for each of " + std::to_string(manifest->process_count) +
                        " processes, found " + std::to_string(files->size()));
  manifest->files.reserve(files->size());
  for (const json& entry : *files) {
    const Status status = read_data_file(entry, manifest);
    if (!status.ok()) return status.with_context("files[" + std::to_string(manifest->files.size()) + "]");
  }
  if (manifest->files.back().process_index + 1 != manifest->process_count)
    return format_error("member 'files': expected those of " + std::to_string(manifest->process_count) +
                        " processes, found those of " + std::to_string(manifest->files.back().process_index + 1));
  const bool has_parts = std::ranges::any_of(manifest->files, [](const ManifestFile& file) { return file.part > 0; });
  if (has_parts != ((manifest->features & kFeatureParts) != 0))
    return format_error("member 'files': expected several of a process exactly when the feature 'parts' is required");
  return {};
}

Status read_numbers(const json& members, Manifest* manifest) {
  OSTRACA_ASSIGN_OR_RETURN(const std::uint64_t count, json_unsigned(members, "process_count", kProcessCountMax));
  if (count == 0) return json_mismatch(members, "process_count", "at least 1");
  manifest->process_count = static_cast<std::uint32_t>(count);
  OSTRACA_ASSIGN_OR_RETURN(manifest->logical_bytes, json_unsigned(members, "logical_bytes"));
  OSTRACA_ASSIGN_OR_RETURN(manifest->stored_bytes, json_unsigned(members, "stored_bytes"));
  OSTRACA_ASSIGN_OR_RETURN(manifest->referenced_bytes, json_unsigned(members, "referenced_bytes"));
  OSTRACA_ASSIGN_OR_RETURN(manifest->arrays, json_unsigned(members, "arrays"));
  OSTRACA_ASSIGN_OR_RETURN(manifest->chunks, json_unsigned(members, "chunks"));
  OSTRACA_ASSIGN_OR_RETURN(manifest->seconds, json_seconds(members, "seconds"));
  OSTRACA_ASSIGN_OR_RETURN(manifest->stall_seconds, json_seconds(members, "stall_seconds"));
  const json* step = json_member(members, "step");
  if (step != nullptr && step->is_null()) return {};
  OSTRACA_ASSIGN_OR_RETURN(manifest->step, json_integer(members, "step"));
  return {};
}

}  // namespace

Result<std::string> encode_manifest(const Manifest& manifest) {
  // A name that is not UTF-8 would be changed by the quoting, and then name another directory.
  if (!valid_utf8(manifest.base_directory)) return invalid_argument("manifest: the base's name is not UTF-8");
  const Status metadata = check_json(manifest.metadata);
  if (!metadata.ok()) return invalid_argument("manifest: metadata: " + metadata.message());
  JsonWriter writer;
  writer.add_text("format", kManifestFormat);
  writer.add_number("version", kFormatVersion);
  writer.add_text("features", to_hex(manifest.features, kFeatureDigits));
  writer.add_text("compatible_features", to_hex(manifest.compatible_features, kFeatureDigits));
  writer.add_text("id", manifest.id.hex());
  writer.add("step", manifest.step ? std::to_string(*manifest.step) : "null");
  writer.add_text("created", manifest.created);
  writer.add_number("created_nanoseconds", manifest.created_nanoseconds);
  writer.add_text("writer", manifest.writer);
  writer.add_number("process_count", manifest.process_count);
  writer.add_number("logical_bytes", manifest.logical_bytes);
  writer.add_number("stored_bytes", manifest.stored_bytes);
  writer.add_number("referenced_bytes", manifest.referenced_bytes);
  writer.add_number("arrays", manifest.arrays);
  writer.add_number("chunks", manifest.chunks);
  writer.add("seconds", json(manifest.seconds).dump());
  writer.add("stall_seconds", json(manifest.stall_seconds).dump());
  writer.add("base", base_json(manifest.base_directory, manifest.base_id));
  writer.add("parent", manifest.parent ? json_quote(manifest.parent->hex()) : "null");
  writer.add("metadata", manifest.metadata);
  writer.add("index", file_json(manifest.index));
  std::string files = "[";
  for (const ManifestFile& file : manifest.files) files += (files.size() > 1 ? ",\n    " : "\n    ") + file_json(file);
  writer.add("files", files + (manifest.files.empty() ? "]" : "\n  ]"));
  std::string text = writer.close();
  // Whatever is written can be read: the reader's checks are the writer's.
  const Status readable = decode_manifest(text).status();
  if (!readable.ok()) return invalid_argument(readable.message());
  return text;
}

Result<Manifest> decode_manifest(std::string_view text) {
  Manifest manifest;
  OSTRACA_ASSIGN_OR_RETURN(const json members, parse_members(text, kManifestMembers, kMetadata, &manifest.metadata));
  OSTRACA_RETURN_IF_ERROR(check_format(members, kManifestFormat));
  OSTRACA_RETURN_IF_ERROR(read_features(members, &manifest));
  OSTRACA_ASSIGN_OR_RETURN(manifest.id, json_id(members, "id"));
  OSTRACA_ASSIGN_OR_RETURN(manifest.created, json_utc(members, "created"));
  OSTRACA_RETURN_IF_ERROR(read_history(members, &manifest));
  OSTRACA_ASSIGN_OR_RETURN(manifest.writer, json_string(members, "writer"));
  OSTRACA_RETURN_IF_ERROR(read_numbers(members, &manifest));
  OSTRACA_RETURN_IF_ERROR(read_base(members, &manifest.base_directory, &manifest.base_id));
  if (manifest.base_directory.empty() == ((manifest.features & kFeatureIncremental) != 0))
    return format_error("member 'base': expected one exactly when the feature 'incremental' is required");
  OSTRACA_RETURN_IF_ERROR(read_files(members, &manifest));
  return manifest;
}

Result<std::string> encode_intent(const Intent& intent) {
  if (!valid_utf8(intent.base_directory)) return invalid_argument("intent: the base's name is not UTF-8");
  JsonWriter writer;
  writer.add_text("format", kIntentFormat);
  writer.add_number("version", kFormatVersion);
  writer.add_text("id", intent.id.hex());
  writer.add("base", base_json(intent.base_directory, intent.base_id));
  writer.add_number("process_count", intent.process_count);
  writer.add_text("created", intent.created);
  writer.add_text("host", intent.host);
  writer.add("pid", std::to_string(intent.pid));
  writer.add("boot_id", intent.boot_id.empty() ? "null" : json_quote(intent.boot_id));
  writer.add("start_ticks", intent.start_ticks ? std::to_string(*intent.start_ticks) : "null");
  return writer.close();
}

namespace {

Result<Intent> read_intent(std::string_view text) {
  OSTRACA_ASSIGN_OR_RETURN(const json members, parse_members(text, kIntentMembers));
  OSTRACA_RETURN_IF_ERROR(check_format(members, kIntentFormat));
  Intent intent;
  OSTRACA_ASSIGN_OR_RETURN(intent.id, json_id(members, "id"));
  OSTRACA_ASSIGN_OR_RETURN(const std::uint64_t count, json_unsigned(members, "process_count", kProcessCountMax));
  if (count == 0) return json_mismatch(members, "process_count", "at least 1");
  intent.process_count = static_cast<std::uint32_t>(count);
  OSTRACA_ASSIGN_OR_RETURN(intent.created, json_utc(members, "created"));
  OSTRACA_ASSIGN_OR_RETURN(intent.host, json_string(members, "host"));
  OSTRACA_ASSIGN_OR_RETURN(intent.pid, json_integer(members, "pid"));
  if (is_given(members, "boot_id")) {
    OSTRACA_ASSIGN_OR_RETURN(intent.boot_id, json_string(members, "boot_id"));
  }
  if (is_given(members, "start_ticks")) {
    OSTRACA_ASSIGN_OR_RETURN(intent.start_ticks, json_unsigned(members, "start_ticks"));
  }
  OSTRACA_RETURN_IF_ERROR(read_base(members, &intent.base_directory, &intent.base_id));
  return intent;
}

}  // namespace

Result<Intent> decode_intent(std::string_view text) {
  Result<Intent> intent = read_intent(text);
  if (!intent.ok()) return intent.status().with_context("intent");
  return intent;
}

Result<std::string> encode_note(const Note& note) {
  if (const Status status = check_json(note.facts); !status.ok())
    return invalid_argument("notes: facts: " + status.message());
  JsonWriter writer;
  writer.add_text("format", kNoteFormat);
  writer.add_number("version", kFormatVersion);
  writer.add_text("id", note.id.hex());
  writer.add("facts", note.facts);
  std::string text = writer.close();
  const Status readable = decode_note(text).status();
  if (!readable.ok()) return invalid_argument(readable.message());
  return text;
}

Result<Note> decode_note(std::string_view text) {
  const Result<Note> note = [&]() -> Result<Note> {
    Note found;
    OSTRACA_ASSIGN_OR_RETURN(const json members, parse_members(text, kNoteMembers, kFacts, &found.facts));
    OSTRACA_RETURN_IF_ERROR(check_format(members, kNoteFormat));
    OSTRACA_ASSIGN_OR_RETURN(found.id, json_id(members, "id"));
    if (!found.facts.starts_with('{')) return format_error("member 'facts': expected an object, found other JSON");
    return found;
  }();
  if (!note.ok()) return note.status().with_context("notes");
  return note;
}

Result<BaseName> decode_base(std::string_view text) {
  constexpr std::string_view kMembers[] = {"format", "version", "base", "features"};
  OSTRACA_ASSIGN_OR_RETURN(const json members, parse_members(text, kMembers));
  OSTRACA_ASSIGN_OR_RETURN(const std::string format, json_string(members, "format"));
  OSTRACA_RETURN_IF_ERROR(check_format(members, format == kIntentFormat ? kIntentFormat : kManifestFormat));
  BaseName base;
  OSTRACA_RETURN_IF_ERROR(read_base(members, &base.directory, &base.id));
  if (format == kIntentFormat) return base;
  OSTRACA_ASSIGN_OR_RETURN(const std::uint64_t features, json_hex(members, "features", kFeatureDigits));
  if (base.directory.empty() == ((features & kFeatureIncremental) != 0))
    return format_error("members 'base' and 'features' differ in whether there is a base");
  return base;
}

void set_created(Manifest* manifest, std::int64_t nanoseconds_since_1970) {
  manifest->created = utc(nanoseconds_since_1970 / kNanosecondsPerSecond);
  manifest->created_nanoseconds = static_cast<std::uint32_t>(nanoseconds_since_1970 % kNanosecondsPerSecond);
}

std::int64_t created_ns(const Manifest& manifest) {
  return seconds_of_utc(manifest.created) * kNanosecondsPerSecond + manifest.created_nanoseconds;
}

std::string utc_now() { return utc(std::time(nullptr)); }

}  // namespace ostraca
