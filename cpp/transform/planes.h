// Byte planes: plane k holds byte k (0 = least significant) of every element. Floats are rotated left by one bit
// first, so that the sign leaves the top and the exponent fills the highest plane.
#pragma once

#include <cstddef>
#include <span>

#include "base/bytes.h"

namespace ostraca {

// REQUIRES: width is 1, 2, 4 or 8; `elements` holds count * width bytes; planes.size() == width and each plane
// holds count bytes; nothing overlaps. No alignment is asked for.
void split_planes(const std::byte* elements, std::size_t count, unsigned width, bool rotate,
                  std::span<std::byte* const> planes);

// The inverse of split_planes.
void merge_planes(std::span<const std::byte* const> planes, std::size_t count, unsigned width, bool rotate,
                  std::byte* elements);

}  // namespace ostraca
