// Grids: which chunks two of them have in common, against a comparison of all with all.
#include "engine/grid.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <utility>

namespace ostraca {
namespace {

using Pairs = std::set<std::pair<std::uint64_t, std::uint64_t>>;

Pairs all_pairs(const Dims& corner, const Grid& grid, const Dims& other_corner, const Grid& other) {
  Pairs pairs;
  Dims origin, shape, other_origin, other_shape;
  for (std::uint64_t i = 0; i < grid.count(); ++i)
    for (std::uint64_t j = 0; j < other.count(); ++j) {
      grid.box(i, origin, shape);
      other.box(j, other_origin, other_shape);
      for (std::size_t d = 0; d < corner.size(); ++d) origin[d] += corner[d], other_origin[d] += other_corner[d];
      if (origin == other_origin && shape == other_shape) pairs.insert({i, j});
    }
  return pairs;
}

TEST(GridTest, MatchFindsEveryChunkThatIsTheSameBoxAndNoOther) {
  std::mt19937 random(1);
  const auto draw = [&](unsigned low, unsigned high) {
    return std::uniform_int_distribution<unsigned>(low, high)(random);
  };
  std::size_t found = 0, partial = 0;
  for (int round = 0; round < 40000; ++round) {
    const std::size_t rank = draw(0, 3);
    Dims corner(rank), shape(rank), chunk(rank), other_corner(rank), other_shape(rank), other_chunk(rank);
    for (std::size_t d = 0; d < rank; ++d) {
      corner[d] = draw(0, 6), shape[d] = draw(1, 9), chunk[d] = draw(1, 5);
      other_corner[d] = draw(0, 6), other_shape[d] = draw(1, 9);
      other_chunk[d] = draw(0, 3) ? chunk[d] : draw(1, 11);
      if (draw(0, 1)) other_corner[d] = corner[d];
    }
    const Grid grid(shape, chunk), other(other_shape, other_chunk);
    Pairs pairs;
    grid.match(corner, other, other_corner, [&](std::uint64_t i, std::uint64_t j) {
      EXPECT_TRUE(pairs.insert({i, j}).second) << "round " << round << ": twice";
    });
    ASSERT_EQ(pairs, all_pairs(corner, grid, other_corner, other)) << "round " << round;
    found += pairs.size();
    partial += !pairs.empty() && pairs.size() < grid.count();
  }
  EXPECT_GT(found, 10000u);
  EXPECT_GT(partial, 1000u);
}

TEST(GridTest, MatchOfATerabyte) {
  const Dims shape{1u << 28, 1024}, chunk{1024, 1024}, corner{0, 0};
  const Grid grid(shape, chunk), piece(chunk, chunk);
  std::uint64_t sum = 0;
  for (std::uint64_t i = 0; i < grid.count(); ++i)
    grid.match(corner, piece, Dims{1024 * i, 0}, [&](std::uint64_t a, std::uint64_t) { sum += a == i; });
  EXPECT_EQ(sum, grid.count());
}

}  // namespace
}  // namespace ostraca
