#include "codec/fse.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "codec/bits.h"

namespace ostraca {
namespace {

constexpr unsigned kBitsMin = 5;  // RFC 8878, 4.1.1

// RFC 8878, 4.1.1: each symbol's states lie far apart; those below one are the last.
template <class Visit>
void spread(const FseShares& shares, Visit visit) {
  const std::size_t states = std::size_t{1} << shares.bits;
  std::size_t end = states;
  for (std::size_t s = 0; s < shares.of.size(); ++s)
    if (shares.of[s] == FseShares::kBelowOne) visit(--end, s);
  std::size_t position = 0;
  for (std::size_t s = 0; s < shares.of.size(); ++s)
    for (int i = 0; i < shares.of[s]; ++i) {
      visit(position, s);
      do position = (position + states / 2 + states / 8 + 3) % states;
      while (position >= end);
    }
}

}  // namespace

FseShares share_states(std::span<const std::uint32_t> counts, unsigned bits) {
  FseShares shares{.bits = bits};
  const int states = 1 << bits;
  const auto all = std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
  int sum = 0;
  for (std::size_t s = 0; s < counts.size(); ++s) {
    if (counts[s] == 0) continue;
    const std::uint64_t share = (std::uint64_t{counts[s]} * static_cast<std::uint64_t>(states) + all / 2) / all;
    shares.of[s] = static_cast<std::int16_t>(std::max<std::uint64_t>(1, share));
    sum += shares.of[s];
  }
  for (; sum != states; sum += sum < states ? 1 : -1) {
    std::int16_t& largest = *std::max_element(shares.of.begin(), shares.of.end());
    largest = static_cast<std::int16_t>(largest + (sum < states ? 1 : -1));
  }
  return shares;
}

// RFC 8878, 4.1.1: each share plus one, in as few bits as what remains allows; a zero is followed by the number of
// further zeros, in 2-bit digits.
std::size_t write_shares(const FseShares& shares, std::byte* out) {
  BitWriter writer({out, kSharesBytesMax});
  writer.put(shares.bits - kBitsMin, 4);
  unsigned remaining = 1u << shares.bits;
  for (std::size_t s = 0; remaining > 0; ++s) {
    const auto share = static_cast<unsigned>(shares.of[s]);
    const unsigned value = share + 1, largest = remaining + 1;
    const auto bits = static_cast<unsigned>(std::bit_width(largest));
    const unsigned short_codes = (1u << bits) - 1 - largest;  // so many values need one bit less
    if (value < short_codes)
      writer.put(value, bits - 1);
    else
      writer.put(value < 1u << (bits - 1) ? value : value + short_codes, bits);
    remaining -= share;
    if (share != 0) continue;
    std::size_t zeros = 0;
    while (shares.of[s + 1 + zeros] == 0) ++zeros;  // one that is not zero follows, since some remain
    s += zeros;
    for (; zeros >= 3; zeros -= 3) writer.put(3, 2);
    writer.put(static_cast<unsigned>(zeros), 2);
  }
  return writer.bytes();
}

std::size_t read_shares(Bytes in, unsigned bits_max, std::size_t symbols_max, FseShares* shares) {
  shares->of.fill(0);
  shares->bits = bits_at(in, 0, 4) + kBitsMin;
  if (shares->bits > bits_max) return 0;
  std::ptrdiff_t at = 4;
  unsigned remaining = 1u << shares->bits;
  for (std::size_t s = 0; remaining > 0; ++s) {
    if (s >= symbols_max) return 0;
    const unsigned largest = remaining + 1;
    const auto bits = static_cast<unsigned>(std::bit_width(largest));
    const unsigned short_codes = (1u << bits) - 1 - largest;
    unsigned value = bits_at(in, at, bits - 1);
    if (value < short_codes) {
      at += bits - 1;
    } else {
      value = bits_at(in, at, bits);
      at += bits;
      if (value >= 1u << (bits - 1)) value -= short_codes;
    }
    const int share = static_cast<int>(value) - 1;
    const unsigned states = share == FseShares::kBelowOne ? 1 : static_cast<unsigned>(share);
    if (states > remaining) return 0;
    shares->of[s] = static_cast<std::int16_t>(share);
    remaining -= states;
    if (share != 0) continue;
    for (unsigned zeros = 3; zeros == 3; at += 2, s += zeros) zeros = bits_at(in, at, 2);
  }
  const auto bytes = static_cast<std::size_t>(at + 7) / 8;
  return bytes <= in.size() ? bytes : 0;
}

void fill_states(const FseShares& shares, std::span<FseState> states) {
  spread(shares, [&](std::size_t position, std::size_t s) { states[position].symbol = static_cast<std::uint8_t>(s); });
  std::array<unsigned, kFseSymbolsMax> next;
  for (std::size_t s = 0; s < next.size(); ++s) next[s] = static_cast<unsigned>(std::abs(shares.of[s]));
  for (FseState& state : states) {
    const unsigned x = next[state.symbol]++;
    const unsigned bits = shares.bits + 1 - static_cast<unsigned>(std::bit_width(x));
    state.bits = static_cast<std::uint8_t>(bits);
    state.base = static_cast<std::uint16_t>((x << bits) - states.size());
  }
}

FseCoder::FseCoder(const FseShares& shares) : bits_(shares.bits) {
  const auto states = std::size_t{1} << bits_;
  std::array<std::size_t, kFseSymbolsMax> place{};
  std::int32_t at = 0;
  for (std::size_t s = 0; s < symbols_.size(); ++s) {
    const auto share = static_cast<std::uint32_t>(shares.of[s]);
    if (share == 0) continue;
    place[s] = static_cast<std::size_t>(at);
    const unsigned most = bits_ + 1 - static_cast<unsigned>(std::bit_width(share));
    // States from share * 2^most on are left for `most` bits, those before for one less.
    symbols_[s] = {(most << 16) - (share << most), at - static_cast<std::int32_t>(share), at};
    at += static_cast<std::int32_t>(share);
  }
  std::array<std::uint8_t, std::size_t{1} << kFseBitsMax> symbol_of{};
  spread(shares, [&](std::size_t position, std::size_t s) { symbol_of[position] = static_cast<std::uint8_t>(s); });
  for (std::size_t i = 0; i < states; ++i) next_[place[symbol_of[i]]++] = static_cast<std::uint16_t>(states + i);
}

}  // namespace ostraca
