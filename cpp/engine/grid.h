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

 private:
  DimsView shape_;
  DimsView chunk_shape_;
  Dims counts_;
  std::uint64_t count_ = 1;
};

}  // namespace ostraca
