#include "ostraca/types.h"

#include <gtest/gtest.h>

#include <set>

#include "container/key_path.h"
#include "container_helpers.h"

namespace ostraca {
namespace {

TEST(CheckpointId, HexRoundTrips) {
  const CheckpointId id = test_id(0xF0);
  EXPECT_EQ(id.hex(), "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
  EXPECT_EQ(*CheckpointId::from_hex(id.hex()), id);
  for (const char* bad : {"", "f0", "F0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", "g0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
                          "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff0"})
    EXPECT_FALSE(CheckpointId::from_hex(bad).ok()) << bad;
}

TEST(CheckpointId, RandomIdsDiffer) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(CheckpointId::random().hex());
  EXPECT_EQ(seen.size(), 1000u);
}

TEST(DTypes, TableIsTheFormats) {
  EXPECT_STREQ(dtype_info(DType::kBfloat16).name, "bfloat16");
  EXPECT_STREQ(dtype_info(DType::kFloat8E8M0FNU).name, "float8_e8m0fnu");
  EXPECT_STREQ(dtype_info(DType::kUint1).name, "uint1");
  EXPECT_STREQ(dtype_info(DType::kVoid).name, "void");
  EXPECT_EQ(dtype_info(DType::kComplex128).item_bytes, 16u);
  EXPECT_EQ(dtype_info(DType::kComplex128).scalar_bytes, 8u);
  for (unsigned code = 1; code < kDTypeCount; ++code) {
    const DTypeInfo& info = dtype_info(static_cast<DType>(code));
    EXPECT_GT(info.scalar_bytes, 0u) << info.name;
    EXPECT_EQ(info.item_bytes % info.scalar_bytes, 0u) << info.name;
  }
}

TEST(DTypes, DetailsGiveItemBytes) {
  EXPECT_EQ(*item_bytes(DType::kFloat32, ""), 4u);
  EXPECT_EQ(*item_bytes(DType::kUint32, "threefry2x32"), 4u);  // a PRNG key's detail is not the dtype's
  EXPECT_EQ(*item_bytes(DType::kByteString, "0"), 0u);
  EXPECT_EQ(*item_bytes(DType::kTextString, "12"), 12u);
  EXPECT_EQ(*item_bytes(DType::kVoid, "1048576"), 1u << 20);
  for (const char* unit : {"", "ns", "25s", "Y", "2147483647as"})
    EXPECT_TRUE(item_bytes(DType::kDatetime64, unit).ok());
  for (const char* unit : {"n", "0s", "025s", "s25", "25", "2147483648s", "-1s", "ns ", "generic"})
    EXPECT_FALSE(item_bytes(DType::kTimedelta64, unit).ok()) << unit;
  for (const char* size : {"", "01", "-1", "1048577", "99999999999999999999999", "4 ", "x"})
    EXPECT_FALSE(item_bytes(DType::kVoid, size).ok()) << size;
  EXPECT_FALSE(item_bytes(DType::kTextString, "6").ok());
}

TEST(KeyPaths, RoundTripAndDisplay) {
  const std::vector<KeyPart> parts = {key("a/b~c"), integer_key(-5), list_index(3), tuple_index(0), attribute("μ")};
  const std::string encoded = encode_key_path(parts);
  const auto decoded = decode_key_path(encoded);
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(encode_key_path(*decoded), encoded);
  EXPECT_EQ(*display_name(encoded), "a~1b~0c/-5/3/0/μ");
  EXPECT_EQ(*display_name(""), "");
}

TEST(KeyPaths, NamesSpellPathsOfStrings) {
  EXPECT_EQ(key_path_from_name("params/a~1b~0c/~2/"),
            encode_key_path({key("params"), key("a/b~c"), key("~2"), key("")}));
  EXPECT_EQ(key_path_from_name("~01"), encode_key_path({key("~1")}));
  EXPECT_EQ(key_path_from_name(""), "");
}

TEST(KeyPaths, EveryTruncationIsRefused) {
  const std::string encoded = encode_key_path({key("name"), list_index(1)});
  std::set<std::size_t> whole = {0, 9, encoded.size()};
  for (std::size_t n = 0; n <= encoded.size(); ++n)
    EXPECT_EQ(decode_key_path(encoded.substr(0, n)).ok(), whole.contains(n)) << n;
  EXPECT_FALSE(decode_key_path(std::string("\x06") + std::string(8, '\0')).ok());
  EXPECT_FALSE(decode_key_path(std::string("\x01\xFF\xFF\xFF\xFF", 5)).ok());
}

TEST(KeyPaths, TextIsUtf8) {
  for (const char* good : {"", "ascii, and more than eight", "é", "€", "\xF0\x9F\x98\x80", "\xEF\xBF\xBF", "12345678é"})
    EXPECT_TRUE(valid_utf8(good)) << good;
  for (const char* bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                          "\xF5\x80\x80\x80", "\xC3", "\xE2\x82", "\xF0\x9F\x98", "12345678\xFF", "\xE2\x28\xA1"}) {
    EXPECT_FALSE(valid_utf8(bad));
    EXPECT_FALSE(display_name(encode_key_path({key(bad)})).ok());
  }
}

TEST(KeyPaths, PrintableNamesAreShortUtf8) {
  std::string text(150, 'x');
  for (int i = 0; i < 100; ++i) text += "é";
  for (int shift = 0; shift < 2; ++shift, text.insert(0, 1, 'y')) {
    const std::string name = printable_name(encode_key_path({key(text)}));
    EXPECT_LT(name.size(), 210u);
    EXPECT_TRUE(valid_utf8(name));
  }
  EXPECT_EQ(printable_name("\x01"), "(unreadable)");
}

}  // namespace
}  // namespace ostraca
