// Where contents go in a process's files, for random sizes: extents sorted and disjoint, files tiled, limits kept.
#include "engine/file_layout.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "engine/file_tail.h"

namespace ostraca {
namespace {

Extent content(std::uint32_t number, std::uint32_t decoded_bytes, std::uint32_t stored_bytes) {
  Extent extent{.stored_bytes = stored_bytes, .decoded_bytes = decoded_bytes, .codec = Codec::kZstd};
  for (int i = 0; i < 4; ++i) extent.hash[i] = static_cast<std::byte>(number >> 8 * i);
  return extent;
}

void expect_tiles(const FileLayout& layout, std::uint32_t part, std::size_t alignment) {
  std::uint64_t end = kHeaderBytes;
  for (const Extent& extent : layout.extents(part)) {
    ASSERT_GE(extent.offset, end);
    ASSERT_LT(extent.offset - end, alignment);
    end = extent.offset + extent.stored_bytes;
  }
  ASSERT_GE(layout.end(part), end);
  ASSERT_LT(layout.end(part) - end, alignment);
  ASSERT_EQ(layout.end(part) % alignment, 0u);
  // The reader's eyes agree.
  const auto table = encode_extents(layout.extents(part));
  const auto read = decode_extents(table, static_cast<std::uint32_t>(alignment), layout.end(part));
  ASSERT_TRUE(read.ok()) << read.status().message();
}

TEST(FileLayout, TilesFilesWithinTheirLimitWhateverTheSizes) {
  std::mt19937 random(20);
  for (int round = 0; round < 300; ++round) {
    const std::size_t alignment = std::size_t{1} << (12 + random() % 4);
    const FileLayout::Limits limits{.file_bytes = round % 3 == 0 ? 0 : 1 + random() % (200 * kKiB),
                                    .parts_max = round % 5 == 1 ? 3 : kPartCountMax};
    FileLayout layout(limits);
    layout.set_alignment(alignment);
    std::map<std::uint32_t, std::pair<std::uint32_t, std::uint32_t>> known;  // by number of the content
    std::uint32_t part = 0;
    std::map<std::uint32_t, int> blocks;
    const int count = 1 + static_cast<int>(random() % 40);
    for (int b = 0; b < count; ++b) {
      std::vector<Extent> contents;
      for (std::size_t i = random() % 5; i > 0; --i) {
        const std::uint32_t decoded = 1 + random() % 20000;
        contents.push_back(content(random() % 200, 30000, 1 + random() % decoded));
      }
      const FileLayout::Block block = layout.place(contents);
      ASSERT_EQ(block.part, part + block.begins_part);
      part = block.part;
      blocks[part] += block.bytes > 0;
      ASSERT_EQ(block.offset % alignment, 0u);
      ASSERT_EQ(block.contents.size(), contents.size());
      std::size_t position = b == 0 ? kHeaderBytes : 0;
      for (std::size_t i = 0; i < contents.size(); ++i) {
        const FileLayout::Content& placed = block.contents[i];
        std::uint32_t number = 0;
        for (int k = 0; k < 4; ++k) number |= std::to_integer<std::uint32_t>(contents[i].hash[k]) << 8 * k;
        const auto [at, is_new] = known.try_emplace(number, placed.part, placed.extent);
        ASSERT_EQ(placed.is_new, is_new);
        ASSERT_EQ(at->second, std::pair(placed.part, placed.extent));
        ASSERT_TRUE(layout.knows(contents[i].hash, 30000));
        if (!is_new) continue;
        ASSERT_EQ(placed.position, position);
        ASSERT_EQ(layout.extents(part)[placed.extent].offset, block.offset + position);
        position += contents[i].stored_bytes;
      }
      ASSERT_EQ(block.bytes, position);
    }
    ASSERT_EQ(layout.parts(), part + 1);
    ASSERT_LE(layout.parts(), limits.file_bytes == 0 ? 1 : limits.parts_max);
    for (std::uint32_t p = 0; p < layout.parts(); ++p) {
      expect_tiles(layout, p, alignment);
      const std::uint64_t whole = layout.end(p) + layout.extents(p).size() * kExtentEntryBytes + kPartTailBytesMax;
      if (limits.file_bytes > 0 && blocks[p] > 1 && p + 1 < limits.parts_max) {
        ASSERT_LE(round_up(whole, alignment), limits.file_bytes);
      }
    }
  }
}

TEST(FileLayout, TheLastOfSoManyFilesTakesWhatIsLeft) {
  FileLayout layout({.file_bytes = 1, .parts_max = 3});
  for (std::uint32_t i = 0; i < 10; ++i) {
    const Extent one = content(i, 100, 100);
    EXPECT_EQ(layout.place({&one, 1}).part, std::min(i, 2u));
  }
  EXPECT_EQ(layout.extents(2).size(), 8u);
}

TEST(FileLayout, ABlockThatBringsNothingBeginsNoFile) {
  FileLayout layout({.file_bytes = 1});
  const Extent one = content(1, 100, 100);
  (void)layout.place({&one, 1});
  const FileLayout::Block again = layout.place({&one, 1});
  EXPECT_EQ(again.bytes, 0u);
  EXPECT_FALSE(again.begins_part);
  EXPECT_EQ(layout.parts(), 1u);
}

// What is_full reckons with is what the end of a file takes.
TEST(FileLayout, TheTailOfAPartIsWithinWhatIsReckoned) {
  DataDirectory itself;
  itself.files.push_back(
      {.process_index = kProcessCountMax - 1, .id = CheckpointId::random(), .part = kPartCountMax - 1});
  const auto tail = FileTail::make({}, itself);
  ASSERT_TRUE(tail.ok());
  EXPECT_LE(tail->bytes(), kPartTailBytesMax);
  EXPECT_GE(tail->bytes(), kPartTailBytesMax / 4);
}

}  // namespace
}  // namespace ostraca
