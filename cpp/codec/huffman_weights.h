// How a zstd frame describes a Huffman tree (RFC 8878, 4.2.1): the symbols' weights, as they are or coded by FSE.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/bytes.h"

namespace ostraca {

inline constexpr unsigned kCodeBitsMax = 11;          // RFC 8878, 4.2.1
inline constexpr std::size_t kWeightsBytesMax = 128;  // of a description, with its header byte

// Writes the weights, in the smaller of both ways, and returns their bytes; 0 if neither way can. The last symbol's
// weight follows from the others and is not among them. REQUIRES: kWeightsBytesMax at `out`, weights of at most 11.
std::size_t write_weights(std::span<const std::uint8_t> weights, MutableBytes out);

// Reads a description off the front of `in` and returns its bytes. 0 if it is damaged or unusual: a weight that nothing
// of ours writes, or a code that is not complete. `lengths` are then those of the codes, 0 for symbols without one.
std::size_t read_code_lengths(Bytes in, std::array<std::uint8_t, 256>* lengths);

}  // namespace ostraca
