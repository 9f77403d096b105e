// Boxes and grids: how a shard is cut into chunks.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ostraca/dims.h"

namespace ostraca {

// Byte strides of a C-ordered array.
Strides c_strides(DimsView shape, std::size_t item_bytes);

// Whether memory with these strides is one C-ordered run. Strides of dimensions of length 1 do not matter.
bool is_c_contiguous(DimsView shape, std::span<const std::int64_t> strides, std::size_t item_bytes);

// The largest boxes of at most `max_bytes` that leave trailing axes whole: leading axes are cut. At least 1 in
// every dimension. REQUIRES: item_bytes <= max_bytes.
Dims default_chunk_shape(DimsView shape, std::size_t item_bytes, std::size_t max_bytes);

// A box and the regular grid that cuts it, chunks numbered in C order.
class Grid {
 public:
  Grid(DimsView shape, DimsView chunk_shape);

  std::uint64_t count() const { return count_; }
  // Origin (relative to the grid's corner) and shape of chunk `i`.
  void box(std::uint64_t i, Dims& origin, Dims& box_shape) const;
  // Numbers of the chunks that a box [start, start + extent) touches, in ascending order. REQUIRES: it lies inside.
  std::vector<std::uint64_t> touched(DimsView start, DimsView extent) const;
  // Calls found(i, j) for each chunk i that is the same box as chunk j of `other`; the corners are given in one
  // coordinate system. Costs no more than it finds.
  template <class Found>
  void match(DimsView corner, const Grid& other, DimsView other_corner, Found found) const;

 private:
  // Chunks that two grids have in common along one axis: regular cuts share one run.
  struct Run {
    std::uint64_t first = 0, other_first = 0, count = 0;
  };
  static Run common_run(std::uint64_t corner, std::uint64_t length, std::uint64_t chunk, std::uint64_t other_corner,
                        std::uint64_t other_length, std::uint64_t other_chunk);
  DimsView shape_;
  DimsView chunk_shape_;
  Dims counts_;
  std::uint64_t count_ = 1;
};

template <class Found>
void Grid::match(DimsView corner, const Grid& other, DimsView other_corner, Found found) const {
  const std::size_t rank = shape_.size();
  ShortVector<Run, 4> runs(rank);
  std::uint64_t pairs = 1;
  for (std::size_t d = 0; d < rank && pairs > 0; ++d) {
    runs[d] =
        common_run(corner[d], shape_[d], chunk_shape_[d], other_corner[d], other.shape_[d], other.chunk_shape_[d]);
    pairs *= runs[d].count;
  }
  for (std::uint64_t n = 0; n < pairs; ++n) {
    std::uint64_t rest = n, i = 0, j = 0, stride = 1, other_stride = 1;
    for (std::size_t d = rank; d-- > 0; rest /= runs[d].count) {
      i += (runs[d].first + rest % runs[d].count) * stride;
      j += (runs[d].other_first + rest % runs[d].count) * other_stride;
      stride *= counts_[d];
      other_stride *= other.counts_[d];
    }
    found(i, j);
  }
}

}  // namespace ostraca
