// Differences between two versions of an array: elements of either sign and any kind are subtracted as integers of
// their width, modulo 2^(8 width), and zigzagged, so that small differences of both signs have zeros on top:
// z = (d << 1) ^ (d < 0 ? all ones : 0). Floats too: neighbours on the number line are neighbours as integers.
#pragma once

#include <cstddef>
#include <span>

#include "base/bytes.h"

namespace ostraca {

// differences[i] = zigzag(elements[i] - base[i]).
// REQUIRES: width is 1, 2, 4 or 8; each holds count * width bytes; `differences` may be `elements`, nothing else
// overlaps. No alignment is asked for. So in all functions here.
void zigzag_differences(const std::byte* elements, const std::byte* base, std::size_t count, unsigned width,
                        std::byte* differences);

// The inverse: elements[i] = base[i] + unzigzag(differences[i]). `elements` may be `differences`.
void apply_differences(const std::byte* differences, const std::byte* base, std::size_t count, unsigned width,
                       std::byte* elements);

// split_planes, not rotated, of the zigzagged differences; these never leave the cache.
void split_differences(const std::byte* elements, const std::byte* base, std::size_t count, unsigned width,
                       std::span<std::byte* const> planes);

// The inverse of split_differences.
void merge_differences(std::span<const std::byte* const> planes, const std::byte* base, std::size_t count,
                       unsigned width, std::byte* elements);

}  // namespace ostraca
