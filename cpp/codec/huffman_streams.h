// Decoding of Huffman-coded bit streams (RFC 8878, 4.2): several symbols for each look into a table, several streams in
// turns.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/bytes.h"
#include "codec/huffman_weights.h"

namespace ostraca {

// What the next bits of a stream decode to, by the 11 first ones. Where these hold several symbols, `entries` gives as
// many as are whole in them, six at most: an entry is, from its lowest byte on, bits used, six symbols, how many of
// them count. Where a symbol takes most of the bits, the count is known without looking: an entry of `singles` is the
// bits of one symbol and, above them, the symbol.
struct alignas(64) DecodeTable {
  static constexpr unsigned kIndexBits = kCodeBitsMax, kSymbolsMax = 6;
  std::uint64_t entries[1u << kIndexBits];
  std::uint16_t singles[1u << kIndexBits];
  bool prefers_singles;
};

// REQUIRES: lengths of a complete code, as read_code_lengths gives them.
void fill_decode_table(const std::array<std::uint8_t, 256>& lengths, DecodeTable* table);

// One bit stream, read from its end to its begin, and where its symbols go.
struct BitSource {
  const std::byte* begin;
  const std::byte* end;  // its last byte holds the end mark
  std::byte* out;
  std::byte* out_end;
};

// Decodes all streams, and tells whether each of them gives just its symbols from just its bits. Writes nothing outside
// of [out, out_end). REQUIRES: 8 readable bytes before each stream; streams are not empty, their last bytes not zero.
bool decode_streams(const DecodeTable& table, std::span<const BitSource> streams);

}  // namespace ostraca
