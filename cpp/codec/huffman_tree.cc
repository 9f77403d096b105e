#include "codec/huffman_tree.h"

#include <algorithm>
#include <span>

#include "codec/huffman_weights.h"

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
  std::array<std::uint8_t, 256> weights;
  std::size_t count = 0;  // the last symbol's weight follows from the others
  for (std::size_t s = 0; s < 256; ++s) {
    weights[s] = static_cast<std::uint8_t>(lengths_[s] == 0 ? 0 : longest + 1 - lengths_[s]);
    if (weights[s] != 0) count = s;
  }
  description_bytes_ = write_weights(std::span(weights).first(count), description_);
}

std::uint64_t HuffmanTree::cost_bits(const SymbolCounts& counts) const {
  std::uint64_t cost = 0;
  bool missing = false;
  for (std::size_t s = 0; s < 256; ++s) {
    cost += std::uint64_t{counts[s]} * lengths_[s];
    missing |= counts[s] != 0 && lengths_[s] == 0;
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
