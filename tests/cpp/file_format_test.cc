#include "container/file_format.h"

#include <gtest/gtest.h>

#include "base/limits.h"
#include "checksum/crc32c.h"
#include "container_helpers.h"

namespace ostraca {
namespace {

template <class Array>
std::vector<std::byte> vec(const Array& bytes) {
  return {bytes.begin(), bytes.end()};
}

// Puts the right CRC behind changed bytes, as an attacker would.
std::vector<std::byte> sealed(std::vector<std::byte> bytes) {
  store_le(bytes.data() + bytes.size() - 4, crc32c(Bytes(bytes).first(bytes.size() - 4)));
  return bytes;
}

FileHeader sample_header() {
  FileHeader header;
  header.id = test_id();
  header.process_index = 3;
  header.process_count = 8;
  header.alignment = 4096;
  return header;
}

constexpr std::uint64_t kFileBytes = 64 + 8192 + 128 + 100 + 28 + 96;

FileFooter sample_footer() {
  FileFooter footer;
  footer.table_offset = 64 + 8192;
  footer.extent_count = 2;
  footer.directory_offset = footer.table_offset + 128;
  footer.directory_stored_bytes = 100;
  footer.directory_decoded_bytes = 500;
  footer.table_crc = 11;
  footer.directory_crc = 12;
  footer.id = test_id();
  footer.file_bytes = kFileBytes;
  footer.header_crc = 13;
  return footer;
}

Extent extent(std::uint64_t offset, std::uint32_t stored, std::uint32_t decoded, Codec codec = Codec::kZstd) {
  Extent out;
  out.offset = offset;
  out.stored_bytes = stored;
  out.decoded_bytes = decoded;
  out.crc = 5;
  out.codec = codec;
  out.hash.fill(std::byte{9});
  return out;
}

TEST(Header, RoundTrips) {
  const FileHeader header = sample_header();
  const auto bytes = encode_header(header);
  const auto decoded = decode_header(bytes);
  ASSERT_TRUE(decoded.ok()) << decoded.status().message();
  EXPECT_EQ(decoded->id, header.id);
  EXPECT_EQ(decoded->process_index, 3u);
  EXPECT_EQ(decoded->process_count, 8u);
  EXPECT_EQ(decoded->alignment, 4096u);
  EXPECT_EQ(encode_header(*decoded), bytes);
}

TEST(Header, EveryBitFlipIsRefused) {
  const auto bytes = vec(encode_header(sample_header()));
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) EXPECT_FALSE(decode_header(flipped(bytes, bit)).ok()) << bit;
}

TEST(Header, HostileFieldsAreRefused) {
  const auto refused = [](auto change) {
    auto bytes = vec(encode_header(sample_header()));
    change(bytes.data());
    return !decode_header(sealed(bytes)).ok();
  };
  EXPECT_FALSE(refused([](std::byte*) {}));
  EXPECT_TRUE(refused([](std::byte* p) { store_le<std::uint32_t>(p + 8, 2); }));    // version
  EXPECT_TRUE(refused([](std::byte* p) { store_le<std::uint8_t>(p + 12, 0); }));    // kind
  EXPECT_TRUE(refused([](std::byte* p) { store_le<std::uint8_t>(p + 12, 3); }));    //
  EXPECT_TRUE(refused([](std::byte* p) { store_le<std::uint8_t>(p + 12, 2); }));    // an index of process 3
  EXPECT_TRUE(refused([](std::byte* p) { store_le<std::uint8_t>(p + 13, 2); }));    // content hash
  EXPECT_TRUE(refused([](std::byte* p) { store_le<std::uint16_t>(p + 14, 1); }));   // a part
  EXPECT_FALSE(refused([](std::byte* p) { store_le<std::uint64_t>(p + 16, 1); }));  // features: incremental
  EXPECT_TRUE(refused([](std::byte* p) { store_le<std::uint64_t>(p + 16, 2); }));   // parts, and it is none
  EXPECT_FALSE(
      refused([](std::byte* p) { store_le<std::uint16_t>(p + 14, 65535), store_le<std::uint64_t>(p + 16, 2); }));
  EXPECT_TRUE(refused([](std::byte* p) { store_le<std::uint64_t>(p + 16, 4); }));           //
  EXPECT_TRUE(refused([](std::byte* p) { store_le<std::uint64_t>(p + 16, 1ull << 63); }));  //
  EXPECT_TRUE(refused([](std::byte* p) { store_le<std::uint32_t>(p + 40, 8); }));           // process index
  EXPECT_TRUE(refused([](std::byte* p) { store_le<std::uint32_t>(p + 44, 0); }));           // process count
  EXPECT_TRUE(refused([](std::byte* p) { store_le<std::uint32_t>(p + 44, kProcessCountMax + 1); }));
  for (std::uint32_t alignment : {0u, 3u, 131072u, 0xFFFFFFFFu})
    EXPECT_TRUE(refused([=](std::byte* p) { store_le(p + 48, alignment); })) << alignment;
  for (int i = 52; i < 60; ++i)  // what readers may ignore
    EXPECT_FALSE(refused([=](std::byte* p) { p[i] = std::byte{1}; })) << i;
}

TEST(Footer, RoundTrips) {
  const auto bytes = encode_footer(sample_footer());
  const auto decoded = decode_footer(bytes, kFileBytes);
  ASSERT_TRUE(decoded.ok()) << decoded.status().message();
  EXPECT_EQ(encode_footer(*decoded), bytes);
  EXPECT_EQ(footer_crc(bytes), crc32c(Bytes(bytes).first(92)));
}

TEST(Footer, EveryBitFlipAndOtherSizesAreRefused) {
  const auto bytes = vec(encode_footer(sample_footer()));
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    const auto decoded = decode_footer(flipped(bytes, bit), kFileBytes);
    ASSERT_FALSE(decoded.ok()) << bit;
    EXPECT_EQ(decoded.status().code(), Code::kCorruption);
  }
  for (std::uint64_t size : {std::uint64_t{0}, std::uint64_t{95}, kFileBytes - 1, kFileBytes + 1, UINT64_MAX})
    EXPECT_FALSE(decode_footer(bytes, size).ok());
}

TEST(Footer, HostileFieldsAreRefused) {
  for (std::size_t field : {0u, 8u, 16u, 24u, 32u, 64u, 72u}) {
    const auto bytes = vec(encode_footer(sample_footer()));
    const auto value = load_le<std::uint64_t>(bytes.data() + field);
    for (std::uint64_t hostile :
         {std::uint64_t{0}, value + 1, value - 1, value << 58 | 1, UINT64_MAX, UINT64_MAX - 63}) {
      // Within their ranges these two are as good as others; the padding and the frame tell later.
      if ((field == 24 || field == 32) && (hostile == value + 1 || hostile == value - 1)) continue;
      auto changed = bytes;
      store_le(changed.data() + field, hostile);
      if (hostile == value) continue;
      EXPECT_FALSE(decode_footer(sealed(changed), kFileBytes).ok()) << field << ' ' << hostile;
    }
  }
}

TEST(Footer, OffsetsCannotWrapAround) {
  FileFooter footer = sample_footer();
  footer.extent_count = 0xFFFFFFFF;
  footer.table_offset = 0 - footer.extent_count * 64;  // the table would end at 2^64
  footer.directory_offset = 0;
  EXPECT_FALSE(decode_footer(encode_footer(footer), kFileBytes).ok());
  footer = sample_footer();
  footer.directory_stored_bytes = 0 - footer.directory_offset;
  EXPECT_FALSE(decode_footer(encode_footer(footer), kFileBytes).ok());
}

TEST(Extents, RoundTrip) {
  const std::vector<Extent> extents = {extent(64, 100, 200), extent(164, 50, 50, Codec::kRaw),
                                       extent(4096, 1, 4 << 20, Codec::kPlanes)};
  const auto bytes = encode_extents(extents);
  const auto decoded = decode_extents(bytes, 4096, 4097);
  ASSERT_TRUE(decoded.ok()) << decoded.status().message();
  EXPECT_EQ(encode_extents(*decoded), bytes);
  EXPECT_EQ(extent_end(*decoded, 0, 4097), 164u);
  EXPECT_EQ(extent_end(*decoded, 1, 4097), 4096u);
  EXPECT_EQ(extent_end(*decoded, 2, 4097), 4097u);
  EXPECT_TRUE(decode_extents({}, 1, 64).ok());
  EXPECT_FALSE(decode_extents({}, 1, 65).ok());
}

TEST(Extents, WhatDoesNotTileIsRefused) {
  const auto ok = [](std::vector<Extent> extents, std::uint32_t alignment, std::uint64_t end) {
    return decode_extents(encode_extents(extents), alignment, end).ok();
  };
  EXPECT_TRUE(ok({extent(64, 10, 10)}, 1, 74));
  EXPECT_FALSE(ok({extent(65, 10, 10)}, 1, 75));                     // hole in front
  EXPECT_FALSE(ok({extent(63, 10, 10)}, 1, 73));                     // in the header
  EXPECT_FALSE(ok({extent(64, 10, 10)}, 1, 73));                     // runs into the table
  EXPECT_FALSE(ok({extent(64, 10, 10)}, 1, 75));                     // hole behind
  EXPECT_TRUE(ok({extent(64, 10, 10)}, 16, 89));                     // fewer than 16
  EXPECT_FALSE(ok({extent(64, 10, 10)}, 16, 90));                    // not 16
  EXPECT_FALSE(ok({extent(64, 10, 10), extent(73, 5, 5)}, 16, 80));  // overlap
  EXPECT_FALSE(ok({extent(74, 10, 10), extent(64, 10, 10)}, 16, 84));
  EXPECT_FALSE(ok({extent(UINT64_MAX - 3, 10, 10)}, 1u << 16, 84));
}

TEST(Extents, HostileFieldsAreRefused) {
  const auto ok = [](const Extent& e) { return decode_extents(encode_extents({e}), 4096, 64 + e.stored_bytes).ok(); };
  EXPECT_TRUE(ok(extent(64, 10, 20)));
  EXPECT_FALSE(ok(extent(64, 0, 20)));
  EXPECT_FALSE(ok(extent(64, 21, 20)));
  EXPECT_FALSE(ok(extent(64, 0, 0)));
  EXPECT_FALSE(ok(extent(64, 10, (4 << 20) + 1)));
  EXPECT_FALSE(ok(extent(64, 10, 20, Codec::kRaw)));   // raw, yet smaller
  EXPECT_TRUE(ok(extent(64, 10, 20, Codec::kDelta)));  // a delta
  EXPECT_FALSE(ok(extent(64, 10, 20, static_cast<Codec>(4))));
  EXPECT_FALSE(ok(extent(64, 10, 20, static_cast<Codec>(255))));
  auto bytes = encode_extents({extent(64, 10, 20)});
  for (std::size_t i : {21u, 23u, 40u, 55u, 56u, 60u, 63u}) {
    auto changed = bytes;
    changed[i] = std::byte{1};
    EXPECT_FALSE(decode_extents(changed, 1, 74).ok()) << i;
  }
  bytes.pop_back();
  EXPECT_FALSE(decode_extents(bytes, 1, 74).ok());
}

TEST(FileNames, AreDerived) {
  const CheckpointId id = test_id(0x10);
  EXPECT_EQ(data_file_name(7, id), "p00007-" + id.hex() + ".ostraca");
  EXPECT_EQ(data_file_name(7, id, 65535), "p00007-65535-" + id.hex() + ".ostraca");
  EXPECT_EQ(data_file_name(1048575, id), "p1048575-" + id.hex() + ".ostraca");
  EXPECT_EQ(index_file_name(id), "index-" + id.hex() + ".ostraca");
  EXPECT_EQ(intent_file_name(id), "intent-" + id.hex() + ".json");
}

TEST(AllZero, FindsAnyByte) {
  std::vector<std::byte> bytes(300);
  EXPECT_TRUE(all_zero(bytes));
  EXPECT_TRUE(all_zero({}));
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = std::byte{1};
    EXPECT_FALSE(all_zero(bytes)) << i;
    bytes[i] = std::byte{0};
  }
}

}  // namespace
}  // namespace ostraca
