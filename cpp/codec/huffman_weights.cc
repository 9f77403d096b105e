#include "codec/huffman_weights.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "codec/bits.h"
#include "codec/fse.h"

namespace ostraca {
namespace {

constexpr unsigned kStateBits = 6;  // the most that is allowed here, and what we write
constexpr std::size_t kWeights = kCodeBitsMax + 1;
constexpr unsigned kDirect = 127;  // a header byte above it counts weights of 4 bits; below is a size of FSE bytes

// ---- writing

// Two interleaved states, RFC 8878, 4.2.1.2; each ends in one that is left for the most bits, since the reader knows
// the end by wanting bits that are not there. Returns the bytes needed. REQUIRES: three weights or more, two of them
// different.
std::size_t put_coded(std::span<const std::uint8_t> weights, MutableBytes out) {
  std::array<std::uint32_t, kWeights> counts{};
  for (std::uint8_t w : weights) ++counts[w];
  const FseShares shares = share_states(counts, kStateBits);
  std::array<std::byte, kSharesBytesMax> description;
  const std::size_t head = write_shares(shares, description.data());
  std::copy_n(description.begin(), std::min(head, out.size()), out.begin());
  BitWriter writer(out.subspan(std::min(head, out.size())));
  const FseCoder coder(shares);
  std::array<unsigned, 2> states;
  std::size_t i = weights.size();
  for (unsigned k = 0; k < 2; ++k) {
    --i;
    states[i % 2] = coder.first(weights[i]);
  }
  while (i-- > 0) {
    unsigned& state = states[i % 2];
    const unsigned bits = coder.bits_from(state, weights[i]);
    writer.put(state & ((1u << bits) - 1), bits);
    state = coder.before(state, bits, weights[i]);
  }
  for (unsigned k : {1u, 0u}) writer.put(states[k] & ((1u << kStateBits) - 1), kStateBits);
  writer.put(1, 1);  // the end mark
  return head + writer.bytes();
}

// ---- reading

// put_coded read back: the number of weights, 0 if damaged. A stream ends where a state wants bits beyond its front.
std::size_t get_coded(Bytes in, std::span<std::uint8_t, 256> weights) {
  FseShares shares;
  const std::size_t head = read_shares(in, kStateBits, kWeights, &shares);
  if (head == 0 || head == in.size() || in.back() == std::byte{0}) return 0;
  std::array<FseState, 1u << kStateBits> table;
  fill_states(shares, std::span(table).first(std::size_t{1} << shares.bits));
  const Bytes stream = in.subspan(head);
  std::ptrdiff_t at = 8 * static_cast<std::ptrdiff_t>(stream.size()) - 1 -
                      std::countl_zero(std::to_integer<std::uint8_t>(stream.back()));  // below the end mark
  const auto next = [&](unsigned bits) {
    at -= static_cast<std::ptrdiff_t>(bits);
    return bits_at(stream, at, bits);
  };
  unsigned one = next(shares.bits), other = next(shares.bits);
  if (at < 0) return 0;
  for (std::size_t count = 0; count + 2 < weights.size();) {
    weights[count++] = table[one].symbol;
    one = table[one].base + next(table[one].bits);
    std::swap(one, other);
    if (at >= 0) continue;
    weights[count++] = table[one].symbol;
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
    const std::size_t bytes = put_coded(weights, out.subspan(1));
    if (bytes <= kDirect) {
      out[0] = static_cast<std::byte>(bytes);
      coded_bytes = 1 + bytes;
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
