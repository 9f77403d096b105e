#include "codec/huffman_weights.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace ostraca {
namespace {

constexpr unsigned kFseBits = 6;  // the most that is allowed here, and what we write
constexpr std::size_t kFseStates = 1u << kFseBits;
constexpr std::size_t kWeights = kCodeBitsMax + 1;
constexpr unsigned kDirect = 127;  // a header byte above it counts weights of 4 bits; below is a size of FSE bytes

using Shares = std::array<unsigned, kWeights>;  // of the states; their sum is the number of states

// The decoder's table, RFC 8878, 4.1.1: what each state stands for, and where it goes on.
struct FseTable {
  FseTable(const Shares& shares, unsigned state_bits) {
    const std::size_t states = std::size_t{1} << state_bits;
    std::size_t position = 0;
    for (std::size_t w = 0; w < kWeights; ++w)
      for (unsigned i = 0; i < shares[w]; ++i) {
        weight_of[position] = static_cast<std::uint8_t>(w);
        position = (position + states / 2 + states / 8 + 3) % states;
      }
    Shares next = shares;
    for (std::size_t state = 0; state < states; ++state) {
      const unsigned x = next[weight_of[state]]++;
      bits[state] = static_cast<std::uint8_t>(state_bits + 1 - static_cast<unsigned>(std::bit_width(x)));
      base[state] = static_cast<std::uint8_t>((x << bits[state]) - states);
    }
  }

  std::array<std::uint8_t, kFseStates> weight_of{}, bits{}, base{};
};

// ---- writing

// Appends bits, least significant first. What does not fit is dropped, but counted.
class BitWriter {
 public:
  explicit BitWriter(MutableBytes out) : out_(out) {}
  void put(unsigned value, unsigned bits) {
    for (unsigned i = 0; i < bits; ++i, ++at_) {
      if (at_ / 8 >= out_.size()) continue;
      if (at_ % 8 == 0) out_[at_ / 8] = std::byte{0};
      out_[at_ / 8] |= static_cast<std::byte>((value >> i & 1) << at_ % 8);
    }
  }
  void pad() { at_ = (at_ + 7) / 8 * 8; }
  std::size_t bytes() const { return (at_ + 7) / 8; }  // needed; more than there were if it overflowed

 private:
  MutableBytes out_;
  std::size_t at_ = 0;
};

// REQUIRES: two different weights or more.
Shares share_states(std::span<const std::uint8_t> weights) {
  Shares counts{}, shares{};
  for (std::uint8_t w : weights) ++counts[w];
  unsigned sum = 0;
  for (std::size_t w = 0; w < kWeights; ++w) {
    if (counts[w] == 0) continue;
    const auto n = static_cast<unsigned>(weights.size());
    shares[w] = std::max(1u, (counts[w] * static_cast<unsigned>(kFseStates) + n / 2) / n);
    sum += shares[w];
  }
  for (; sum != kFseStates; sum += sum < kFseStates ? 1u : -1u) {
    unsigned& largest = *std::max_element(shares.begin(), shares.end());
    largest += sum < kFseStates ? 1u : -1u;
  }
  return shares;
}

// RFC 8878, 4.1.1: each share plus one, in as few bits as what remains allows; a zero is followed by the number of
// further zeros, in 2-bit digits.
void put_shares(const Shares& shares, BitWriter& out) {
  out.put(kFseBits - 5, 4);
  unsigned remaining = kFseStates;
  for (std::size_t w = 0; remaining > 0; ++w) {
    const unsigned value = shares[w] + 1, largest = remaining + 1;
    const auto bits = static_cast<unsigned>(std::bit_width(largest));
    const unsigned short_codes = (1u << bits) - 1 - largest;  // so many values need one bit less
    if (value < short_codes)
      out.put(value, bits - 1);
    else
      out.put(value < 1u << (bits - 1) ? value : value + short_codes, bits);
    remaining -= shares[w];
    if (shares[w] != 0) continue;
    std::size_t zeros = 0;
    while (shares[w + 1 + zeros] == 0) ++zeros;  // one that is not zero follows, since some remain
    w += zeros;
    for (; zeros >= 3; zeros -= 3) out.put(3, 2);
    out.put(static_cast<unsigned>(zeros), 2);
  }
}

// The table turned round: which state decodes a weight and can go on to a given state.
struct FseCoder : FseTable {
  explicit FseCoder(const Shares& shares) : FseTable(shares, kFseBits) {
    for (std::size_t state = 0; state < kFseStates; ++state) {
      const std::uint8_t w = weight_of[state];
      for (std::size_t to = base[state]; to < base[state] + (1u << bits[state]); ++to)
        from[w][to] = static_cast<std::uint8_t>(state);
      // Where a stream may end: the reader knows the end by wanting bits that are not there.
      if (bits[state] > bits[last[w]] || weight_of[last[w]] != w) last[w] = static_cast<std::uint8_t>(state);
    }
  }

  std::array<std::array<std::uint8_t, kFseStates>, kWeights> from{};
  std::array<std::uint8_t, kWeights> last{};
};

// Two interleaved states, RFC 8878, 4.2.1.2. REQUIRES: three weights or more, two of them different.
void put_coded(std::span<const std::uint8_t> weights, BitWriter& out) {
  const Shares shares = share_states(weights);
  put_shares(shares, out);
  out.pad();
  const FseCoder coder(shares);
  std::array<unsigned, 2> states;
  std::size_t i = weights.size();
  for (unsigned k = 0; k < 2; ++k) {
    --i;
    states[i % 2] = coder.last[weights[i]];
  }
  while (i-- > 0) {
    unsigned& state = states[i % 2];
    const unsigned before = coder.from[weights[i]][state];
    out.put(state - coder.base[before], coder.bits[before]);
    state = before;
  }
  out.put(states[1], kFseBits);
  out.put(states[0], kFseBits);
  out.put(1, 1);  // the end mark
}

// ---- reading

// The bits [at, at + bits) of `in`, least significant first; outside of it bits are zero.
unsigned bits_at(Bytes in, std::ptrdiff_t at, unsigned bits) {
  unsigned value = 0;
  for (unsigned i = 0; i < bits; ++i) {
    const std::ptrdiff_t bit = at + static_cast<std::ptrdiff_t>(i);
    if (bit < 0 || bit >= 8 * static_cast<std::ptrdiff_t>(in.size())) continue;
    value |= (std::to_integer<unsigned>(in[static_cast<std::size_t>(bit) / 8]) >> bit % 8 & 1) << i;
  }
  return value;
}

// put_shares read back; returns its bytes, 0 if damaged. Shares "below one" are not ours.
std::size_t get_shares(Bytes in, Shares* shares, unsigned* state_bits) {
  shares->fill(0);
  *state_bits = bits_at(in, 0, 4) + 5;
  if (*state_bits > kFseBits) return 0;
  std::ptrdiff_t at = 4;
  unsigned remaining = 1u << *state_bits;
  for (std::size_t w = 0; remaining > 0; ++w) {
    if (w >= kWeights) return 0;
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
    if (value == 0 || value - 1 > remaining) return 0;
    (*shares)[w] = value - 1;
    remaining -= value - 1;
    if (value > 1) continue;
    for (unsigned zeros = 3; zeros == 3; at += 2, w += zeros) zeros = bits_at(in, at, 2);
  }
  const auto bytes = static_cast<std::size_t>(at + 7) / 8;
  return bytes <= in.size() ? bytes : 0;
}

// put_coded read back: the number of weights, 0 if damaged. A stream ends where a state wants bits beyond its front.
std::size_t get_coded(Bytes in, std::span<std::uint8_t, 256> weights) {
  Shares shares;
  unsigned state_bits = 0;
  const std::size_t head = get_shares(in, &shares, &state_bits);
  if (head == 0 || head == in.size() || in.back() == std::byte{0}) return 0;
  const FseTable table(shares, state_bits);
  const Bytes stream = in.subspan(head);
  std::ptrdiff_t at = 8 * static_cast<std::ptrdiff_t>(stream.size()) - 1 -
                      std::countl_zero(std::to_integer<std::uint8_t>(stream.back()));  // below the end mark
  const auto next = [&](unsigned bits) {
    at -= static_cast<std::ptrdiff_t>(bits);
    return bits_at(stream, at, bits);
  };
  unsigned one = next(state_bits), other = next(state_bits);
  if (at < 0) return 0;
  for (std::size_t count = 0; count + 2 < weights.size();) {
    weights[count++] = table.weight_of[one];
    one = table.base[one] + next(table.bits[one]);
    std::swap(one, other);
    if (at >= 0) continue;
    weights[count++] = table.weight_of[one];
    return count;
  }
  return 0;
}

std::size_t get_direct(Bytes in, std::size_t count, std::span<std::uint8_t, 256> weights) {
  for (std::size_t i = 0; i < count; ++i)
    weights[i] = std::to_integer<std::uint8_t>(in[i / 2]) >> (i % 2 == 0 ? 4 : 0) & 15;
  return count;
}

}  // namespace

std::size_t write_weights(std::span<const std::uint8_t> weights, MutableBytes out) {
  const std::size_t count = weights.size();
  std::size_t coded_bytes = 0;
  if (count > 2 && std::adjacent_find(weights.begin(), weights.end(), std::not_equal_to<>()) != weights.end()) {
    BitWriter writer(out.subspan(1));
    put_coded(weights, writer);
    if (writer.bytes() <= kDirect) {
      out[0] = static_cast<std::byte>(writer.bytes());
      coded_bytes = 1 + writer.bytes();
    }
  }
  const std::size_t direct_bytes = 1 + (count + 1) / 2;
  if (count > 128 || (coded_bytes != 0 && coded_bytes <= direct_bytes)) return coded_bytes;
  BitWriter writer(out);
  writer.put(static_cast<unsigned>(kDirect + count), 8);
  for (std::size_t i = 0; i < count; i += 2) {
    writer.put(i + 1 < count ? weights[i + 1] : 0, 4);
    writer.put(weights[i], 4);
  }
  return writer.bytes();
}

std::size_t read_code_lengths(Bytes in, std::array<std::uint8_t, 256>* lengths) {
  if (in.empty()) return 0;
  const auto header = std::to_integer<unsigned>(in[0]);
  const bool direct = header > kDirect;
  const std::size_t bytes = direct ? (header - kDirect + 1) / 2 : header;
  if (bytes > in.size() - 1) return 0;
  std::array<std::uint8_t, 256>& weights = *lengths;
  weights.fill(0);
  const Bytes body = in.subspan(1, bytes);
  const std::size_t count = direct ? get_direct(body, header - kDirect, weights) : get_coded(body, weights);
  if (count == 0) return 0;

  // The last weight is what makes the code complete; then weight and length of a code are the table's bits plus one.
  unsigned sum = 0;
  for (std::size_t s = 0; s < count; ++s) sum += weights[s] == 0 ? 0 : 1u << (weights[s] - 1);
  const auto bits = static_cast<unsigned>(std::bit_width(sum));
  const unsigned rest = (1u << bits) - sum;
  if (sum == 0 || bits > kCodeBitsMax || !std::has_single_bit(rest)) return 0;
  weights[count] = static_cast<std::uint8_t>(std::bit_width(rest));
  if (std::count(weights.begin(), weights.end(), std::uint8_t{1}) < 2) return 0;  // no code as long as it says
  for (std::uint8_t& w : weights) w = static_cast<std::uint8_t>(w == 0 ? 0 : bits + 1 - w);
  return 1 + bytes;
}

}  // namespace ostraca
