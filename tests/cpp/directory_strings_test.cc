// Strings are two leaves: what an index may say of them, and what not (docs/format.md, section 6).

#include <gtest/gtest.h>

#include "container/directory.h"
#include "container_helpers.h"

namespace ostraca {
namespace {

const std::vector<KeyPart> kWords = {key("vocabulary"), key("words")};

std::vector<KeyPart> below(std::vector<KeyPart> parts, KeyPart part) {
  parts.push_back(std::move(part));
  return parts;
}

void add_ends(DirectoryBuilder& b, LeafKind kind = LeafKind::kStrings, const std::string& detail = "",
              DType dtype = DType::kUint64, const std::vector<KeyPart>& path = kWords) {
  b.leaf(path, {2, 3}, dtype, kind, detail);
  b.shard({0, 0}, {2, 3}, {1, 3});
}

void add_data(DirectoryBuilder& b, KeyPart part = attribute("data"), DType dtype = DType::kUint8,
              const Dims& shape = {40}) {
  b.whole(below(kWords, std::move(part)), shape, dtype);
}

bool contains(const std::string& text, const std::string& what) { return text.find(what) != std::string::npos; }

TEST(DirectoryOfStrings, RoundTrips) {
  DirectoryBuilder b;
  b.whole({key("before")}, {3});
  add_ends(b, LeafKind::kStrings, "strict na=none");
  add_data(b);
  b.leaf({key("vocabulary"), key("empty")}, {0}, DType::kUint64, LeafKind::kByteStrings);
  b.leaf({key("vocabulary"), key("empty"), attribute("data")}, {0}, DType::kUint8);
  b.whole({key("vocabulary"), integer_key(7)}, {3});  // integer keys: names are compared, too
  const auto decoded = b.decode();
  ASSERT_TRUE(decoded.ok()) << decoded.status().message();
  EXPECT_EQ(encode_directory(*decoded), encode_directory(b.directory));
  EXPECT_EQ(*display_name(decoded->path(decoded->leaves[2])), "vocabulary/words/data");
}

TEST(DirectoryOfStrings, ThatIsNotGroupedIsSortedToBeChecked) {
  DirectoryBuilder b;
  add_ends(b);
  add_data(b);
  b.whole({key("between")}, {3});
  b.whole({key("vocabulary"), key("more")}, {3});
  EXPECT_EQ(b.refusal(), "");
  b.whole({key("between"), key("below")}, {3});
  EXPECT_TRUE(contains(b.refusal(), "one lies below the other")) << b.refusal();
}

TEST(DirectoryOfStrings, KindsDtypesAndDetails) {
  const auto refusal = [](LeafKind kind, const std::string& detail, DType dtype = DType::kUint64) {
    DirectoryBuilder b;
    add_ends(b, kind, detail, dtype);
    add_data(b);
    return b.refusal();
  };
  for (const char* detail : {"", "na=nan", "na=none", "strict", "strict na=nan", "strict na=none"})
    EXPECT_EQ(refusal(LeafKind::kStrings, detail), "") << detail;
  for (const char* detail : {"na", "na=", "na=nan ", " strict", "strict  na=nan", "x"})
    EXPECT_TRUE(contains(refusal(LeafKind::kStrings, detail), "detail")) << detail;
  EXPECT_EQ(refusal(LeafKind::kByteStrings, ""), "");
  EXPECT_TRUE(contains(refusal(LeafKind::kByteStrings, "na=nan"), "no detail"));
  EXPECT_TRUE(contains(refusal(LeafKind::kStrings, "", DType::kInt64), "little-endian uint64"));
  EXPECT_TRUE(contains(refusal(LeafKind::kByteStrings, "", DType::kUint32), "little-endian uint64"));
  DirectoryBuilder b;
  add_ends(b);
  b.directory.leaves.back().big_endian = true;
  add_data(b);
  EXPECT_TRUE(contains(b.refusal(), "little-endian uint64"));
}

TEST(DirectoryOfStrings, DataFollowThem) {
  const auto refusal = [](auto&& build) {
    DirectoryBuilder b;
    build(b);
    return b.refusal();
  };
  const auto is_alone = [](const std::string& refusal) {
    return contains(refusal, "'vocabulary/words': expected its data");
  };
  EXPECT_TRUE(is_alone(refusal([](auto& b) { add_ends(b); })));
  EXPECT_TRUE(is_alone(refusal([](auto& b) { add_ends(b), b.whole({key("x")}, {3}); })));
  EXPECT_TRUE(is_alone(refusal([](auto& b) { add_ends(b), add_data(b, attribute("data"), DType::kInt8); })));
  EXPECT_TRUE(is_alone(refusal([](auto& b) { add_ends(b), add_data(b, attribute("data"), DType::kUint8, {4, 10}); })));
  EXPECT_TRUE(is_alone(refusal([](auto& b) {
    add_ends(b);
    b.leaf(below(kWords, attribute("data")), {3}, DType::kUint64, LeafKind::kByteStrings);
    b.shard({0}, {3}, {3});
  })));
  const auto is_below = [](const std::string& refusal) { return contains(refusal, "one lies below the other"); };
  EXPECT_TRUE(is_below(refusal([](auto& b) { add_ends(b), add_data(b, key("data")); })));
  EXPECT_TRUE(is_below(refusal([](auto& b) { add_ends(b), add_data(b, attribute("date")); })));
  EXPECT_TRUE(is_below(refusal([](auto& b) { add_data(b), add_ends(b); })));
  EXPECT_TRUE(is_below(refusal([](auto& b) { add_ends(b), add_data(b), add_data(b, attribute("more")); })));
  EXPECT_TRUE(is_below(refusal([](auto& b) { add_ends(b), b.whole({key("x")}, {3}), add_data(b); })));
  EXPECT_TRUE(contains(refusal([](auto& b) { add_ends(b), add_data(b), add_data(b); }), "below"));
  EXPECT_TRUE(is_below(refusal([](auto& b) { b.whole(kWords, {3}), add_data(b); })));  // an array, no strings
}

TEST(DirectoryOfStrings, ADataFileMayHaveOneWithoutTheOther) {
  for (bool ends : {false, true}) {
    DirectoryBuilder b;
    b.directory.files[0].bytes = 0;
    b.directory.files[0].footer_crc = 0;
    ends ? add_ends(b) : add_data(b);
    EXPECT_EQ(b.refusal(false), "");
  }
}

}  // namespace
}  // namespace ostraca
