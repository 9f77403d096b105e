#include "codec/huffman_tree.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <span>

namespace ostraca {
namespace {

// ---- code lengths

struct Leaf {
  std::uint32_t count;
  std::uint32_t symbol;
};

// Package-merge. On each level stand the leaves and the packages (pairs of neighbours) of the level before, in the
// order of their weights; of the last level the first 2 n - 2 are taken, a package taking both its parts along. How
// often a leaf is taken is its code's length. Only the kinds have to be kept: the leaves taken of a level are always
// its first ones. REQUIRES: leaves in ascending order, 2 to 256 of them.
void set_lengths(std::span<const Leaf> leaves, std::array<std::uint8_t, 256>& lengths) {
  constexpr std::size_t kMost = 2 * 256;
  std::array<std::array<bool, kMost>, kCodeBitsMax> is_leaf;
  std::array<std::uint64_t, kMost> weights, merged;
  const std::size_t n = leaves.size();
  std::size_t size = 0;
  for (unsigned level = 0; level < kCodeBitsMax; ++level) {
    const std::size_t packages = size / 2;
    std::size_t leaf = 0, package = 0;
    for (std::size_t i = 0; i < n + packages; ++i) {
      const std::uint64_t together = package < packages ? weights[2 * package] + weights[2 * package + 1] : 0;
      const bool take_leaf = package == packages || (leaf < n && leaves[leaf].count <= together);
      is_leaf[level][i] = take_leaf;
      merged[i] = take_leaf ? leaves[leaf].count : together;
      take_leaf ? ++leaf : ++package;
    }
    size = n + packages;
    std::copy_n(merged.begin(), size, weights.begin());
  }
  std::size_t taken = 2 * n - 2;
  for (unsigned level = kCodeBitsMax; level-- > 0;) {
    const auto first = is_leaf[level].begin();
    const auto count = static_cast<std::size_t>(std::count(first, first + static_cast<std::ptrdiff_t>(taken), true));
    for (std::size_t i = 0; i < count; ++i) ++lengths[leaves[i].symbol];
    taken = 2 * (taken - count);
  }
}

// ---- description: weights coded by FSE, RFC 8878, 4.1 and 4.2.1.2

constexpr unsigned kFseBits = 6;  // the most that is allowed here
constexpr std::size_t kFseStates = 1u << kFseBits;
constexpr std::size_t kWeights = kCodeBitsMax + 1;

// Appends bits, least significant first. Stops counting nothing: what does not fit is dropped, and full() tells.
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

using Shares = std::array<unsigned, kWeights>;  // of the states; their sum is kFseStates

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

// The decoder's table turned round: which state decodes a weight and can go on to a given state.
struct FseCoder {
  explicit FseCoder(const Shares& shares) {
    std::array<std::uint8_t, kFseStates> weight_of{};
    std::size_t position = 0;
    for (std::size_t w = 0; w < kWeights; ++w)
      for (unsigned i = 0; i < shares[w]; ++i) {
        weight_of[position] = static_cast<std::uint8_t>(w);
        position = (position + kFseStates / 2 + kFseStates / 8 + 3) % kFseStates;
      }
    Shares next = shares;
    for (std::size_t state = 0; state < kFseStates; ++state) {
      const std::uint8_t w = weight_of[state];
      const unsigned x = next[w]++;
      bits[state] = static_cast<std::uint8_t>(kFseBits + 1 - static_cast<unsigned>(std::bit_width(x)));
      base[state] = static_cast<std::uint8_t>((x << bits[state]) - kFseStates);
      for (std::size_t to = base[state]; to < base[state] + (1u << bits[state]); ++to)
        from[w][to] = static_cast<std::uint8_t>(state);
      // Where a stream may end: the reader knows the end by wanting bits that are not there.
      if (bits[state] > bits[last[w]] || weight_of[last[w]] != w) last[w] = static_cast<std::uint8_t>(state);
    }
  }

  std::array<std::uint8_t, kFseStates> bits{}, base{};
  std::array<std::array<std::uint8_t, kFseStates>, kWeights> from{};
  std::array<std::uint8_t, kWeights> last{};
};

// Two interleaved states, RFC 8878, 4.2.1.2. REQUIRES: three weights or more, two of them different.
void put_weights(std::span<const std::uint8_t> weights, BitWriter& out) {
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

}  // namespace

HuffmanTree::HuffmanTree(const SymbolCounts& counts) {
  std::array<Leaf, 256> leaves;
  std::size_t n = 0;
  for (std::uint32_t s = 0; s < 256; ++s)
    if (counts[s] != 0) leaves[n++] = {counts[s], s};
  std::sort(leaves.begin(), leaves.begin() + static_cast<std::ptrdiff_t>(n),
            [](const Leaf& a, const Leaf& b) { return a.count != b.count ? a.count < b.count : a.symbol < b.symbol; });
  set_lengths(std::span(leaves).first(n), lengths_);
  describe();
}

void HuffmanTree::describe() {
  const unsigned longest = *std::max_element(lengths_.begin(), lengths_.end());
  std::array<std::uint8_t, 256> all;
  std::size_t count = 0;  // the last symbol's weight follows from the others
  for (std::size_t s = 0; s < 256; ++s) {
    all[s] = static_cast<std::uint8_t>(lengths_[s] == 0 ? 0 : longest + 1 - lengths_[s]);
    if (all[s] != 0) count = s;
  }
  const std::span<const std::uint8_t> weights(all.data(), count);

  if (count > 2 && std::adjacent_find(weights.begin(), weights.end(), std::not_equal_to<>()) != weights.end()) {
    BitWriter writer(MutableBytes(description_).subspan(1));
    put_weights(weights, writer);
    if (writer.bytes() <= kDescriptionBytesMax - 1) {
      description_[0] = static_cast<std::byte>(writer.bytes());
      description_bytes_ = 1 + writer.bytes();
    }
  }
  const std::size_t direct_bytes = 1 + (count + 1) / 2;
  if (count > 128 || (description_bytes_ != 0 && description_bytes_ <= direct_bytes)) return;
  BitWriter writer(description_);
  writer.put(static_cast<unsigned>(127 + count), 8);
  for (std::size_t i = 0; i < count; i += 2) {
    writer.put(i + 1 < count ? weights[i + 1] : 0, 4);
    writer.put(weights[i], 4);
  }
  description_bytes_ = writer.bytes();
}

std::uint64_t HuffmanTree::cost_bits(const SymbolCounts& counts) const {
  std::uint64_t cost = 0;
  bool missing = false;
  for (std::size_t s = 0; s < 256; ++s) {
    cost += std::uint64_t{counts[s]} * lengths_[s];
    missing |= (counts[s] != 0) & (lengths_[s] == 0);
  }
  return missing ? ~std::uint64_t{0} / 2 : cost;
}

std::uint32_t HuffmanTree::idle_share(const SymbolCounts& counts) const {
  std::uint32_t share = 0;
  for (std::size_t s = 0; s < 256; ++s)
    if (counts[s] == 0 && lengths_[s] != 0) share += kWholeShare >> lengths_[s];
  return share;
}

// RFC 8878, 4.2.1.3: codes count upwards from the longest ones, in the order of the symbols.
void HuffmanTree::fill(huffman_kernels::CodeTable* table) const {
  std::array<unsigned, kCodeBitsMax + 2> next{};
  for (std::uint8_t length : lengths_) ++next[length];
  next[0] = 0;
  unsigned code = 0;
  for (unsigned length = kCodeBitsMax; length > 0; --length) {
    const unsigned codes = next[length];
    next[length] = code;
    code = (code + codes) >> 1;
  }
  for (std::size_t s = 0; s < 256; ++s) {
    const unsigned length = lengths_[s], own = length == 0 ? 0 : next[length]++;
    table->codes[s] = own;
    table->lengths[s] = length;
    table->low[s] = static_cast<std::uint8_t>(own);
    table->high[s] = static_cast<std::uint8_t>(length << 4 | own >> 8);
  }
}

}  // namespace ostraca
