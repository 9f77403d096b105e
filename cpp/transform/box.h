// N-dimensional boxes of strided memory, gathered and scattered.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/bytes.h"

namespace ostraca {

// Copies a box of `shape` elements of `item_bytes` each between two strided memories. Strides are in bytes, one
// per dimension, and may be zero (source only) or negative; a pointer names element [0, ..., 0].
// `swap_bytes` > 1 reverses the bytes of every aligned group of that many bytes in each item (2, 4 or 8; it divides
// item_bytes): a complex number is two groups. Contiguous inner dimensions are merged into single copies.
// A box with a zero dimension copies nothing; rank 0 is one element. REQUIRES: source and destination do not overlap.
void copy_box(std::byte* dst, std::span<const std::int64_t> dst_strides, const std::byte* src,
              std::span<const std::int64_t> src_strides, std::span<const std::uint64_t> shape, std::size_t item_bytes,
              unsigned swap_bytes = 1);

}  // namespace ostraca
