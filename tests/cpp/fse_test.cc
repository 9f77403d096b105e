#include "codec/fse.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <random>
#include <utility>
#include <vector>

namespace ostraca {
namespace {

std::vector<std::uint32_t> random_counts(std::mt19937& generator, std::size_t most) {
  std::vector<std::uint32_t> counts(2 + generator() % (most - 1));
  for (std::uint32_t& c : counts) c = generator() % 3 == 0 ? 0 : 1 + (generator() >> generator() % 32) % 1'000'000;
  counts.front() += counts.front() == 0;
  counts.back() += counts.back() == 0;
  return counts;
}

FseShares random_shares(std::mt19937& generator) {
  const unsigned bits = 5 + generator() % 5;
  return share_states(random_counts(generator, bits == 5 ? 32 : kFseSymbolsMax), bits);
}

TEST(Fse, SharesAreAllStates) {
  std::mt19937 generator(1);
  for (int i = 0; i < 3000; ++i) {
    const unsigned bits = 6 + generator() % 4;
    const auto counts = random_counts(generator, kFseSymbolsMax);
    const FseShares shares = share_states(counts, bits);
    int sum = 0;
    for (std::size_t s = 0; s < kFseSymbolsMax; ++s) {
      EXPECT_EQ(shares.of[s] > 0, s < counts.size() && counts[s] > 0);
      sum += shares.of[s];
    }
    EXPECT_EQ(sum, 1 << bits);
  }
}

TEST(Fse, DescriptionsAreReadBack) {
  std::mt19937 generator(2);
  for (int i = 0; i < 3000; ++i) {
    const FseShares shares = random_shares(generator);
    std::array<std::byte, kSharesBytesMax> text;
    const std::size_t bytes = write_shares(shares, text.data());
    ASSERT_LE(bytes, text.size());
    FseShares read;
    ASSERT_EQ(read_shares(Bytes(text).first(bytes), kFseBitsMax, kFseSymbolsMax, &read), bytes);
    EXPECT_EQ(read.bits, shares.bits);
    EXPECT_EQ(read.of, shares.of);
    EXPECT_EQ(read_shares(Bytes(text).first(bytes - 1), kFseBitsMax, kFseSymbolsMax, &read), 0u);
    EXPECT_EQ(read_shares(Bytes(text).first(bytes), shares.bits - 1, kFseSymbolsMax, &read), 0u);
  }
}

// Whatever is read is a table: every state has a symbol, and leads to states.
TEST(Fse, AnyDescriptionIsRefusedOrGood) {
  std::mt19937 generator(3);
  int accepted = 0, below_one = 0;
  for (int i = 0; i < 200'000; ++i) {
    std::vector<std::byte> text(1 + generator() % 30);
    for (std::byte& b : text) b = static_cast<std::byte>(generator());
    text[0] = (text[0] & std::byte{0xF0}) | static_cast<std::byte>(generator() % 5);
    FseShares shares;
    if (read_shares(text, kFseBitsMax, kFseSymbolsMax, &shares) == 0) continue;
    ++accepted;
    int states_of[kFseSymbolsMax] = {};
    std::vector<FseState> states(std::size_t{1} << shares.bits);
    fill_states(shares, states);
    for (const FseState& state : states) {
      ++states_of[state.symbol];
      EXPECT_LE(state.base + (std::size_t{1} << state.bits), states.size());
    }
    for (std::size_t s = 0; s < kFseSymbolsMax; ++s) {
      EXPECT_EQ(states_of[s], std::abs(shares.of[s]));
      below_one += shares.of[s] < 0;
    }
  }
  EXPECT_GT(accepted, 1000);
  EXPECT_GT(below_one, 100);
}

TEST(Fse, WhatIsWrittenIsRead) {
  std::mt19937 generator(4);
  for (int i = 0; i < 300; ++i) {
    const FseShares shares = random_shares(generator);
    const FseCoder coder(shares);
    std::vector<FseState> states(std::size_t{1} << shares.bits);
    fill_states(shares, states);
    std::vector<unsigned> symbols;
    while (symbols.size() < 200)
      if (const unsigned s = generator() % kFseSymbolsMax; shares.of[s] > 0) symbols.push_back(s);

    std::vector<std::pair<unsigned, unsigned>> written;  // value, bits
    unsigned state = coder.first(symbols.back());
    for (std::size_t k = symbols.size() - 1; k-- > 0;) {
      const unsigned bits = coder.bits_from(state, symbols[k]);
      written.emplace_back(state & ((1u << bits) - 1), bits);
      state = coder.before(state, bits, symbols[k]);
    }
    ASSERT_GE(state, states.size());
    ASSERT_LT(state, 2 * states.size());
    std::size_t at = state - states.size();
    for (std::size_t k = 0; k < symbols.size(); ++k) {
      ASSERT_EQ(states[at].symbol, symbols[k]);
      if (k + 1 == symbols.size()) break;
      const auto [value, bits] = written[written.size() - 1 - k];
      ASSERT_EQ(bits, states[at].bits);
      at = states[at].base + value;
    }
  }
}

}  // namespace
}  // namespace ostraca
