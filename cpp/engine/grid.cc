#include "engine/grid.h"

#include <algorithm>

namespace ostraca {

Strides c_strides(DimsView shape, std::size_t item_bytes) {
  Strides strides(shape.size());
  std::int64_t stride = static_cast<std::int64_t>(item_bytes);
  for (std::size_t d = shape.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= static_cast<std::int64_t>(shape[d]);
  }
  return strides;
}

bool is_c_contiguous(DimsView shape, std::span<const std::int64_t> strides, std::size_t item_bytes) {
  std::int64_t expected = static_cast<std::int64_t>(item_bytes);
  for (std::size_t d = shape.size(); d-- > 0;) {
    if (shape[d] != 1 && strides[d] != expected) return false;
    expected *= static_cast<std::int64_t>(shape[d]);
  }
  return true;
}

Dims default_chunk_shape(DimsView shape, std::size_t item_bytes, std::size_t max_bytes) {
  Dims chunk(shape.size(), 1);
  std::uint64_t bytes = item_bytes;
  for (std::size_t d = shape.size(); d-- > 0;) {
    const std::uint64_t room = max_bytes / bytes;
    chunk[d] = std::clamp<std::uint64_t>(shape[d], 1, room);
    if (chunk[d] < shape[d]) break;  // this axis is cut, so those before it are cut to single slices
    bytes *= chunk[d];
  }
  return chunk;
}

Grid::Grid(DimsView shape, DimsView chunk_shape) : shape_(shape), chunk_shape_(chunk_shape), counts_(shape.size()) {
  for (std::size_t d = 0; d < shape.size(); ++d) {
    counts_[d] = shape[d] / chunk_shape[d] + (shape[d] % chunk_shape[d] != 0);
    count_ *= counts_[d];
  }
}

void Grid::box(std::uint64_t i, Dims& origin, Dims& box_shape) const {
  origin.resize(shape_.size());
  box_shape.resize(shape_.size());
  for (std::size_t d = shape_.size(); d-- > 0;) {
    origin[d] = (i % counts_[d]) * chunk_shape_[d];
    i /= counts_[d];
    box_shape[d] = std::min(chunk_shape_[d], shape_[d] - origin[d]);
  }
}

std::vector<std::uint64_t> Grid::touched(DimsView start, DimsView extent) const {
  std::vector<std::uint64_t> numbers{0};
  if (count_ == 1) return std::ranges::find(extent, 0u) == extent.end() ? numbers : std::vector<std::uint64_t>();
  for (std::size_t d = 0; d < shape_.size(); ++d) {
    if (extent[d] == 0) return {};
    const std::uint64_t first = start[d] / chunk_shape_[d];
    const std::uint64_t last = (start[d] + extent[d] - 1) / chunk_shape_[d];
    std::vector<std::uint64_t> next;
    next.reserve(numbers.size() * (last - first + 1));
    for (std::uint64_t number : numbers)
      for (std::uint64_t i = first; i <= last; ++i) next.push_back(number * counts_[d] + i);
    numbers = std::move(next);
  }
  return numbers;
}

Grid::Run Grid::common_run(std::uint64_t corner, std::uint64_t length, std::uint64_t chunk, std::uint64_t other_corner,
                           std::uint64_t other_length, std::uint64_t other_chunk) {
  const std::uint64_t end = corner + length, other_end = other_corner + other_length;
  const std::uint64_t low = std::max(corner, other_corner), high = std::min(end, other_end);
  if (low >= high) return {};
  chunk = std::min(chunk, length);
  other_chunk = std::min(other_chunk, other_length);
  if (chunk == other_chunk) {
    if ((low - corner) % chunk != 0 || (low - other_corner) % chunk != 0) return {};
    const std::uint64_t cut_off = end == other_end && (high - low) % chunk != 0;
    return {(low - corner) / chunk, (low - other_corner) / chunk, (high - low) / chunk + cut_off};
  }
  // Chunks of different lengths agree only where one is cut off, and that is the last of its grid.
  const auto at = [](std::uint64_t begin, std::uint64_t to, std::uint64_t c) {
    return begin + (to - begin - 1) / c * c;
  };
  const std::uint64_t last = at(corner, end, chunk), other_last = at(other_corner, other_end, other_chunk);
  for (const std::uint64_t start : {last, other_last}) {
    if (start < low || (start - corner) % chunk != 0 || (start - other_corner) % other_chunk != 0) continue;
    if (std::min(start + chunk, end) != std::min(start + other_chunk, other_end)) continue;
    return {(start - corner) / chunk, (start - other_corner) / other_chunk, 1};
  }
  return {};
}

}  // namespace ostraca
