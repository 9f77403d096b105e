// Finite state entropy (tANS) as RFC 8878, 4.1, has it: how states are shared among symbols, how a frame describes
// that, and the tables that read and write by it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/bytes.h"

namespace ostraca {

inline constexpr unsigned kFseBitsMax = 9;          // of a state: what literal and match lengths may have
inline constexpr std::size_t kFseSymbolsMax = 53;   // codes of match lengths
inline constexpr std::size_t kSharesBytesMax = 80;  // of a description: at most 11 bits for each symbol

// How many of the 2^bits states each symbol has.
struct FseShares {
  static constexpr int kBelowOne = -1;  // one state, at the end of the table
  unsigned bits = 0;
  std::array<std::int16_t, kFseSymbolsMax> of{};
};

// Shares as near to the counts as they go, none of them below one. REQUIRES: two counts or more that are not zero, and
// at least as many states.
FseShares share_states(std::span<const std::uint32_t> counts, unsigned bits);

// Writes a description, and returns its bytes. REQUIRES: no share below one, room for kSharesBytesMax.
std::size_t write_shares(const FseShares& shares, std::byte* out);

// Reads a description off the front of `in`, and returns its bytes; 0 if it is damaged, or says more than the limits.
std::size_t read_shares(Bytes in, unsigned bits_max, std::size_t symbols_max, FseShares* shares);

// What a state stands for, and where it goes on: to `base` and a number of so many bits.
struct FseState {
  std::uint8_t symbol = 0, bits = 0;
  std::uint16_t base = 0;
};
void fill_states(const FseShares& shares, std::span<FseState> states);  // REQUIRES: 2^bits of them

// The same turned round: the states are numbered from 2^bits on, and symbols are written last one first.
class FseCoder {
 public:
  FseCoder() = default;
  explicit FseCoder(const FseShares& shares);

  unsigned bits() const { return bits_; }
  // A state to begin with: of those that stand for the symbol, one that is left for the most bits.
  unsigned first(unsigned symbol) const { return next_[static_cast<std::size_t>(symbols_[symbol].first)]; }
  // How many of the low bits of `state` are to be written, before it becomes the one of `symbol` that leads to it.
  unsigned bits_from(unsigned state, unsigned symbol) const { return (state + symbols_[symbol].bits) >> 16; }
  unsigned before(unsigned state, unsigned bits, unsigned symbol) const {
    return next_[static_cast<std::size_t>(static_cast<std::int32_t>(state >> bits) + symbols_[symbol].states)];
  }

 private:
  struct Symbol {
    std::uint32_t bits = 0;   // such that adding a state gives the number of bits in the upper half
    std::int32_t states = 0;  // where the symbol's states are, less its share
    std::int32_t first = 0;
  };
  unsigned bits_ = 0;
  std::array<Symbol, kFseSymbolsMax> symbols_{};
  std::array<std::uint16_t, std::size_t{1} << kFseBitsMax> next_{};
};

}  // namespace ostraca
