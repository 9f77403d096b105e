// ShortVector and HashIndex.

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "base/hash_index.h"
#include "ostraca/dims.h"

namespace ostraca {
namespace {

Dims counting(std::size_t size) {
  Dims dims(size);
  std::iota(dims.begin(), dims.end(), 1u);
  return dims;
}

TEST(ShortVector, CopiesAndMovesInsideAndOutside) {
  for (std::size_t size : {0, 1, 4, 5, 64}) {
    Dims dims = counting(size);
    const Dims copy = dims;
    EXPECT_EQ(copy, dims);
    EXPECT_NE(copy.data(), dims.data());
    Dims moved = std::move(dims);
    EXPECT_EQ(moved, copy);
    EXPECT_TRUE(dims.empty());  // NOLINT: what a moved-from one is, is promised
    for (std::size_t other : {0, 3, 7}) {
      Dims target = counting(other);
      target = copy;
      EXPECT_EQ(target, copy);
      target = counting(other);
      target = std::move(moved);
      EXPECT_EQ(target, copy);
      moved = std::move(target);
    }
  }
}

TEST(ShortVector, IsMadeOfRangesAndLists) {
  const std::vector<std::uint64_t> values = {5, 4, 3, 2, 1};
  const Dims dims = values;
  EXPECT_EQ(dims, (Dims{5, 4, 3, 2, 1}));
  EXPECT_EQ(Dims(DimsView(values).first(2)), (Dims{5, 4}));
  EXPECT_EQ(Dims(values.begin() + 1, values.begin() + 3), (Dims{4, 3}));
  EXPECT_EQ(Dims(2, 7), (Dims{7, 7}));
  EXPECT_EQ(Dims(6), (Dims{0, 0, 0, 0, 0, 0}));
  EXPECT_NE(Dims(1), Dims(2));
}

TEST(HashIndex, FindsWhatWasInserted) {
  for (std::uint64_t spread : {1ull, 64ull, 0ull, 1ull << 60}) {  // 0: all hashes collide
    HashIndex index;
    for (std::uint32_t i = 0; i < 300; ++i) {
      EXPECT_FALSE(index.find(i * spread, [&](std::uint32_t n) { return n == i; }));
      index.insert(i * spread, i);
    }
    for (std::uint32_t i = 0; i < 300; ++i)
      EXPECT_EQ(index.find(i * spread, [&](std::uint32_t n) { return n == i; }), i);
    EXPECT_FALSE(index.find(0, [](std::uint32_t) { return false; }));
    EXPECT_FALSE(index.find(12345, [](std::uint32_t n) { return n == 300; }));
  }
}

}  // namespace
}  // namespace ostraca
