#include "transform/box.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace ostraca {
namespace {

using Shape = std::vector<std::uint64_t>;
using Strides = std::vector<std::int64_t>;

std::vector<std::byte> numbered_bytes(std::size_t size) {
  std::mt19937 generator(7);
  std::vector<std::byte> bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(generator());
  return bytes;
}

// One item at a time, straight from the definition.
void copy_reference(std::byte* dst, const Strides& dst_strides, const std::byte* src, const Strides& src_strides,
                    const Shape& shape, std::size_t axis, std::size_t item, unsigned swap) {
  if (axis < shape.size()) {
    for (std::uint64_t i = 0; i < shape[axis]; ++i)
      copy_reference(dst + static_cast<std::int64_t>(i) * dst_strides[axis], dst_strides,
                     src + static_cast<std::int64_t>(i) * src_strides[axis], src_strides, shape, axis + 1, item, swap);
    return;
  }
  std::copy(src, src + item, dst);
  for (std::size_t group = 0; swap > 1 && group < item; group += swap) std::reverse(dst + group, dst + group + swap);
}

// A layout of `shape`: the axes in `order` (innermost last), some reversed, `pad` bytes between rows of each axis.
struct Layout {
  Strides strides;
  std::size_t first = 0;  // where element [0, ..., 0] is
  std::size_t bytes = 0;
};

Layout make_layout(const Shape& shape, std::size_t item, const std::vector<std::size_t>& order, std::uint64_t reversed,
                   std::size_t pad) {
  Layout layout;
  layout.strides.resize(shape.size());
  std::size_t step = item;
  for (std::size_t i = order.size(); i-- > 0;) {
    const std::size_t axis = order[i];
    layout.strides[axis] = static_cast<std::int64_t>(step);
    if (reversed >> axis & 1 && shape[axis] > 0) {
      layout.first += step * (shape[axis] - 1);
      layout.strides[axis] = -layout.strides[axis];
    }
    step = step * std::max<std::uint64_t>(shape[axis], 1) + pad;
  }
  layout.bytes = step;
  return layout;
}

void check(const Shape& shape, std::size_t item, unsigned swap, const Layout& to, const Layout& from) {
  const std::vector<std::byte> source = numbered_bytes(from.bytes);
  std::vector<std::byte> got(to.bytes, std::byte{0x5A}), expected = got;
  copy_reference(expected.data() + to.first, to.strides, source.data() + from.first, from.strides, shape, 0, item,
                 swap);
  copy_box(got.data() + to.first, to.strides, source.data() + from.first, from.strides, shape, item, swap);
  ASSERT_EQ(got, expected) << "rank " << shape.size() << " item " << item << " swap " << swap;
}

TEST(Box, RandomLayoutsMatchTheReference) {
  std::mt19937 generator(42);
  const auto below = [&](std::size_t n) { return generator() % n; };
  const std::size_t items[] = {1, 2, 3, 4, 8, 12, 16, 32, 100};
  for (int round = 0; round < 3000 && !HasFatalFailure(); ++round) {
    Shape shape(below(5));
    for (std::uint64_t& n : shape) n = below(20) == 0 ? 0 : 1 + below(12);
    const std::size_t item = items[below(std::size(items))];
    unsigned swap = 1u << below(4);
    if (item % swap != 0) swap = 1;
    const auto random_layout = [&] {
      std::vector<std::size_t> order(shape.size());
      std::iota(order.begin(), order.end(), 0);
      if (below(2) == 0) std::shuffle(order.begin(), order.end(), generator);
      return make_layout(shape, item, order, below(2) == 0 ? 0 : generator(), below(2) * below(9));
    };
    const Layout to = random_layout(), from = random_layout();
    check(shape, item, swap, to, from);
  }
}

TEST(Box, LargeTransposes) {
  for (std::size_t item : {1u, 2u, 4u, 8u, 16u, 24u}) {
    const Shape shape = {67, 3, 129};
    check(shape, item, 1, make_layout(shape, item, {0, 1, 2}, 0, 0), make_layout(shape, item, {2, 1, 0}, 0, 0));
    check(shape, item, 1, make_layout(shape, item, {0, 1, 2}, 0, 0), make_layout(shape, item, {1, 2, 0}, 5, 3));
    check(shape, item, 1, make_layout(shape, item, {2, 0, 1}, 2, 1), make_layout(shape, item, {0, 1, 2}, 0, 0));
  }
  const Shape matrix = {300, 500};
  check(matrix, 4, 4, make_layout(matrix, 4, {0, 1}, 0, 0), make_layout(matrix, 4, {1, 0}, 0, 0));
}

TEST(Box, ZeroSourceStridesRepeat) {
  const Shape shape = {5, 7, 3};
  const Layout to = make_layout(shape, 4, {0, 1, 2}, 0, 0);
  for (const Strides& strides :
       {Strides{0, 0, 0}, Strides{0, 12, 4}, Strides{12, 0, 4}, Strides{4, 20, 0}, Strides{0, 4, 28}}) {
    Layout from;
    from.strides = strides;
    from.bytes = 4096;
    check(shape, 4, 1, to, from);
    check(shape, 4, 4, to, from);
  }
}

TEST(Box, RankZeroIsOneElement) {
  const std::uint32_t source = 0x01020304;
  std::uint32_t copy = 0, swapped = 0;
  copy_box(reinterpret_cast<std::byte*>(&copy), {}, reinterpret_cast<const std::byte*>(&source), {}, {}, 4);
  copy_box(reinterpret_cast<std::byte*>(&swapped), {}, reinterpret_cast<const std::byte*>(&source), {}, {}, 4, 4);
  EXPECT_EQ(copy, 0x01020304u);
  EXPECT_EQ(swapped, 0x04030201u);
}

TEST(Box, ManyAxes) {
  Shape shape(64, 1);
  for (std::size_t i = 0; i < 12; ++i) shape[i * 5] = 2;
  std::vector<std::size_t> order(shape.size());
  std::iota(order.rbegin(), order.rend(), 0);
  std::vector<std::size_t> same(shape.size());
  std::iota(same.begin(), same.end(), 0);
  check(shape, 16, 8, make_layout(shape, 16, same, 0, 0), make_layout(shape, 16, order, 0x15, 0));
}

}  // namespace
}  // namespace ostraca
