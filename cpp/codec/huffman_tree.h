// Huffman trees as RFC 8878 wants them: code lengths, canonical codes, and the description in front of the streams.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/bytes.h"
#include "codec/huffman_kernels.h"
#include "codec/huffman_weights.h"

namespace ostraca {

using SymbolCounts = std::array<std::uint32_t, 256>;

// An optimal length-limited code for given counts. A value; building it allocates nothing.
class HuffmanTree {
 public:
  static constexpr std::size_t kDescriptionBytesMax = kWeightsBytesMax;

  // Depends on the counts alone. REQUIRES: at least two of them are not zero.
  explicit HuffmanTree(const SymbolCounts& counts);

  // Bytes of the tree description (RFC 8878, 4.2.1.1); empty if it cannot be described.
  Bytes description() const { return Bytes(description_).first(description_bytes_); }

  // What such symbols cost in bits; a number above any real cost if one of them has no code.
  std::uint64_t cost_bits(const SymbolCounts& counts) const;

  // The share of all codes, in kWholeShare parts, that belongs to symbols which are not among these.
  static constexpr std::uint32_t kWholeShare = 1u << kCodeBitsMax;
  std::uint32_t idle_share(const SymbolCounts& counts) const;

  // The codes for the kernels.
  void fill(huffman_kernels::CodeTable* table) const;

 private:
  void describe();

  std::array<std::uint8_t, 256> lengths_{};
  std::array<std::byte, kDescriptionBytesMax> description_;
  std::size_t description_bytes_ = 0;
};

}  // namespace ostraca
