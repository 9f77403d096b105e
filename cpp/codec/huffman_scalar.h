// The scalar encoding loop: compiled once for every machine and once with BMI2, whose shifts need no fixed register.
// In an anonymous namespace, so that neither copy can stand in for the other.
#pragma once

#include <cstring>

#include "codec/huffman_kernels.h"

namespace ostraca::huffman_kernels {
namespace {

// Five codes of 11 bits and the seven bits of an unfinished byte fit into 64.
constexpr std::size_t kGroup = 5;

// The position and the carry advance in two short chains of their own; all else of a group waits for nobody, so one
// stream at a time keeps the machine busy.
inline void append(std::byte* base, std::uint64_t& bits, std::uint64_t& carry, std::uint64_t value,
                   std::uint64_t length) {
  const std::uint64_t used = bits & 7;
  carry |= value << used;
  std::memcpy(base + (bits >> 3), &carry, sizeof carry);
  carry >>= (used + length) & 0x38;
  bits += length;
}

// The reader starts at the end of a stream (RFC 8878, 4.2.2), so the last symbol comes first: within a group, the
// first symbol's code ends on top.
inline std::size_t encode_scalar(const std::byte* symbols, std::size_t count, const CodeTable& table, BitSink* sink) {
  const auto* const in = reinterpret_cast<const std::uint8_t*>(symbols);
  const std::uint64_t* const codes = table.codes;
  const std::uint32_t* const lengths = table.lengths;
  std::byte* const base = sink->base;
  std::uint64_t bits = sink->bits, carry = sink->carry;
  std::size_t i = count;
  for (; i >= kGroup; i -= kGroup) {
    const std::uint8_t* const group = in + i - kGroup;
    std::uint64_t value = codes[group[0]], length = lengths[group[0]];
    for (std::size_t k = 1; k < kGroup; ++k) {
      const std::uint64_t own = lengths[group[k]];
      value = value << (own & 63) | codes[group[k]];
      length += own;
    }
    append(base, bits, carry, value, length);
  }
  while (i > 0) {
    --i;
    append(base, bits, carry, codes[in[i]], lengths[in[i]]);
  }
  sink->bits = bits;
  sink->carry = carry;
  return 0;
}

}  // namespace
}  // namespace ostraca::huffman_kernels
