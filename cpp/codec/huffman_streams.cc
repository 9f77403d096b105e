#include "codec/huffman_streams.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace ostraca {
namespace {

// Symbols that a look gives on average, below which a look for one at a time is faster (measured on Zen 4).
constexpr double kSinglesBelow = 1.6;

// ---- the table

// The entry for a symbol and what an entry for the bits after it says. Of seven symbols the last one is dropped.
std::uint64_t prepend(unsigned symbol, unsigned length, std::uint64_t rest, const std::uint8_t* lengths) {
  if (rest >> 56 == DecodeTable::kSymbolsMax) rest -= (std::uint64_t{1} << 56) + lengths[rest >> 48 & 0xFF];
  constexpr std::uint64_t kLaterSymbols = 0x00FF'FFFF'FFFF'0000, kSums = 0xFF00'0000'0000'00FF;
  return ((rest << 8 & kLaterSymbols) | (rest & kSums)) + (std::uint64_t{1} << 56 | symbol << 8 | length);
}

}  // namespace

// For each number of bits from none to 11, what they decode to on their own: a symbol, then what the table of the bits
// after it says. Codes count upwards from the longest ones, in the order of the symbols (RFC 8878, 4.2.1.3), so that
// the ones which a table has no room for come first in it.
void fill_decode_table(const std::array<std::uint8_t, 256>& lengths, DecodeTable* table) {
  constexpr unsigned kBits = DecodeTable::kIndexBits;
  std::array<std::uint8_t, 256> order;
  std::array<unsigned, kBits + 1> first{};  // in `order`, of the codes of a length
  unsigned symbols = 0;
  for (unsigned length = kBits; length > 0; --length) {
    first[length] = symbols;
    for (unsigned s = 0; s < 256; ++s)
      if (lengths[s] == length) order[symbols++] = static_cast<std::uint8_t>(s);
  }
  std::array<std::uint64_t, 1u << kBits> smaller;  // that of b bits begins at 2^b
  smaller[1] = 0;
  for (unsigned bits = 1; bits <= kBits; ++bits) {
    std::uint64_t* const begin = bits == kBits ? table->entries : smaller.data() + (std::size_t{1} << bits);
    std::uint64_t* entry = begin + (std::size_t{1} << bits);
    for (unsigned i = symbols; i-- > first[bits];) {
      const unsigned symbol = order[i], length = lengths[symbol];
      const std::size_t size = std::size_t{1} << (bits - length);
      const std::uint64_t* const rest = smaller.data() + size;
      entry -= size;
      for (std::size_t k = 0; k < size; ++k) entry[k] = prepend(symbol, length, rest[k], lengths.data());
    }
    std::fill(begin, entry, 0);
  }
  std::size_t found = 0;
  for (std::size_t i = 0; i < std::size(table->entries); ++i) {
    const std::uint64_t e = table->entries[i];
    found += e >> 56;
    const auto symbol = static_cast<std::uint8_t>(e >> 8);
    table->singles[i] = static_cast<std::uint16_t>(symbol << 8 | lengths[symbol]);
  }
  table->prefers_singles = static_cast<double>(found) < kSinglesBelow * static_cast<double>(std::size(table->entries));
}

// ---- the streams

namespace {

constexpr unsigned kLookups = 5;             // 11 bits each, of the 63 - 8 that a refilled word has at least
constexpr std::size_t kRoundBytesMax = 7;    // of a stream that they use
constexpr std::size_t kStoreBytes = 8;       // that a look may write
constexpr std::size_t kMost = 8, kSome = 4;  // lanes that take their steps together

// Where a stream is: the bits of the word at `word` that are left, on top, and under them a one that was the word's
// lowest bit. The zeros under that tell how many bits of the word are used.
struct Lane {
  std::uint64_t bits;
  const std::byte* word;
  std::byte* out;
  const BitSource* source;
};

Lane start(const BitSource* source) {
  const std::byte* const word = source->end - sizeof(std::uint64_t);
  const std::uint64_t bits = load_le<std::uint64_t>(word);
  return {(bits | 1) << (std::countl_zero(bits) + 1), word, source->out, source};
}

void refill(Lane& lane) {
  const auto used = static_cast<unsigned>(__builtin_ctzll(lane.bits));  // never 0: std::countr_zero would ask
  lane.word -= used / 8;
  lane.bits = (load_le<std::uint64_t>(lane.word) | 1) << used % 8;
}

// The two ways to look. The count of bits is an entry's lowest byte, so that it needs no extraction before the shift,
// which takes it modulo 64: up to there and back, this is all that one lookup waits for.
struct Several {
  static constexpr std::size_t kSymbolsMax = DecodeTable::kSymbolsMax;
  const std::uint64_t* entries;
  void operator()(Lane& lane) const {
    const std::uint64_t entry = entries[lane.bits >> (64 - DecodeTable::kIndexBits)];
    lane.bits <<= entry & 63;
    store_le(lane.out, entry >> 8);
    lane.out += entry >> 56;
  }
};
struct One {
  static constexpr std::size_t kSymbolsMax = 1;
  const std::uint16_t* entries;
  void operator()(Lane& lane) const {
    const unsigned entry = entries[lane.bits >> (64 - DecodeTable::kIndexBits)];
    lane.bits <<= entry & 63;
    *lane.out++ = static_cast<std::byte>(entry >> 8);
  }
};

// How many rounds of refill and kLookups stay within the stream and its room, whatever the bits are, if they write up
// to `store_bytes` where the last symbol goes.
template <class Look>
std::size_t safe_rounds(const Lane& lane, std::size_t store_bytes) {
  constexpr std::size_t kRoundSymbolsMax = kLookups * Look::kSymbolsMax;
  const BitSource& s = *lane.source;
  const auto room = static_cast<std::size_t>(s.out_end - lane.out);
  if (lane.word < s.begin || room < kRoundSymbolsMax + store_bytes) return 0;
  const std::size_t by_bits = static_cast<std::size_t>(lane.word - s.begin) / kRoundBytesMax + 1;
  const std::size_t by_room = (room - store_bytes) / kRoundSymbolsMax;
  return by_bits < by_room ? by_bits : by_room;
}

// The rest of a stream; where it may end, every step is checked.
template <class Look>
bool finish(Lane lane, const DecodeTable& table, Look look) {
  for (std::size_t rounds; (rounds = safe_rounds<Look>(lane, kStoreBytes)) > 0;)
    for (; rounds > 0; --rounds) {
      for (unsigned i = 0; i < kLookups; ++i) look(lane);
      refill(lane);
    }
  const BitSource& s = *lane.source;
  const One one{table.singles};
  for (;;) {
    const std::ptrdiff_t left = 8 * (lane.word + sizeof(std::uint64_t) - s.begin) - std::countr_zero(lane.bits);
    if (left < 0) return false;
    if (lane.out == s.out_end) return left == 0;
    refill(lane);
    if (left >= static_cast<std::ptrdiff_t>(DecodeTable::kIndexBits) &&
        s.out_end - lane.out >= static_cast<std::ptrdiff_t>(kStoreBytes)) {
      look(lane);
    } else {
      one(lane);
    }
  }
}

// Rounds that all of the first lanes can take.
template <class Look>
std::size_t safe_rounds_of_all(const Lane* lanes, std::size_t count, std::size_t store_bytes) {
  std::size_t rounds = safe_rounds<Look>(lanes[0], store_bytes);
  for (std::size_t k = 1; k < count; ++k) rounds = std::min(rounds, safe_rounds<Look>(lanes[k], store_bytes));
  return rounds;
}

// The first lanes take each step together. They are copied so that the compiler may keep them in registers, as far as
// these go: the lanes' bits and places of output, mostly.
template <std::size_t kTogether, class Look>
void run(Lane* lanes, Look look, std::size_t rounds) {
  std::array<Lane, kTogether> local;
  std::copy_n(lanes, kTogether, local.begin());
  for (; rounds > 0; --rounds) {
#pragma GCC unroll 5
    for (unsigned i = 0; i < kLookups; ++i)
#pragma GCC unroll 8
      for (Lane& lane : local) look(lane);
#pragma GCC unroll 8
    for (Lane& lane : local) refill(lane);
  }
  std::copy_n(local.begin(), kTogether, lanes);
}

#if defined(__x86_64__) && !defined(__ILP32__)

// run() as compilers do not find it: the bits of all lanes in registers, nothing else of them, and each symbol stored
// from where the look left it. Symbols first go to places that are known beforehand, and from there to the output, a
// line at a time. A symbol takes 1.6 cycles on Zen 4, which does two shifts a cycle, and 1.9 as gcc 12 has it.
constexpr std::size_t kStageBytes = 64;

// clang-format off
#define OSTRACA_LOOK(lane, at)               \
  "mov %[bits" #lane "], %%rcx\n\t"          \
  "shr $53, %%rcx\n\t"                       \
  "movzwl (%[entries],%%rcx,2), %%ecx\n\t"   \
  "shl %%cl, %[bits" #lane "]\n\t"           \
  "movb %%ch, 64*" #lane "+" #at "(%[to])\n\t"
#define OSTRACA_REFILL(lane)                          \
  "tzcnt %[bits" #lane "], %%rcx\n\t"                 \
  "mov 8*" #lane "(%[words]), %[bits" #lane "]\n\t"   \
  "mov %%ecx, %%edx\n\t"                              \
  "shr $3, %%edx\n\t"                                 \
  "sub %%rdx, %[bits" #lane "]\n\t"                   \
  "mov %[bits" #lane "], 8*" #lane "(%[words])\n\t"   \
  "mov (%[bits" #lane "]), %[bits" #lane "]\n\t"      \
  "and $7, %%ecx\n\t"                                 \
  "or $1, %[bits" #lane "]\n\t"                       \
  "shl %%cl, %[bits" #lane "]\n\t"
#define OSTRACA_LOOKS(at)                                                         \
  OSTRACA_LOOK(0, at) OSTRACA_LOOK(1, at) OSTRACA_LOOK(2, at) OSTRACA_LOOK(3, at) \
  OSTRACA_LOOK(4, at) OSTRACA_LOOK(5, at) OSTRACA_LOOK(6, at) OSTRACA_LOOK(7, at)
// clang-format on

template <>
void run<kMost, One>(Lane* lanes, One look, std::size_t rounds) {
  static_assert(kMost == 8 && kLookups == 5 && DecodeTable::kIndexBits == 64 - 53 && kStageBytes == 64);
  constexpr std::size_t kBatch = kStageBytes / kLookups;
  alignas(kStageBytes) std::byte stage[kMost][kStageBytes];
  const std::byte* words[kMost];
  for (std::size_t k = 0; k < kMost; ++k) words[k] = lanes[k].word;
  std::uint64_t bits0 = lanes[0].bits, bits1 = lanes[1].bits, bits2 = lanes[2].bits, bits3 = lanes[3].bits;
  std::uint64_t bits4 = lanes[4].bits, bits5 = lanes[5].bits, bits6 = lanes[6].bits, bits7 = lanes[7].bits;
  while (rounds > 0) {
    const std::size_t batch = std::min(rounds, kBatch);
    std::byte* to = stage[0];
    for (std::size_t i = 0; i < batch; ++i, to += kLookups)
      asm volatile(OSTRACA_LOOKS(0) OSTRACA_LOOKS(1) OSTRACA_LOOKS(2) OSTRACA_LOOKS(3) OSTRACA_LOOKS(4)  //
                   OSTRACA_REFILL(0) OSTRACA_REFILL(1) OSTRACA_REFILL(2) OSTRACA_REFILL(3)               //
                   OSTRACA_REFILL(4) OSTRACA_REFILL(5) OSTRACA_REFILL(6) OSTRACA_REFILL(7)
                   : [bits0] "+&r"(bits0), [bits1] "+&r"(bits1), [bits2] "+&r"(bits2), [bits3] "+&r"(bits3),
                     [bits4] "+&r"(bits4), [bits5] "+&r"(bits5), [bits6] "+&r"(bits6), [bits7] "+&r"(bits7)
                   : [entries] "r"(look.entries), [words] "r"(words), [to] "R"(to)  // R: a store of ch has no other
                   : "rcx", "rdx", "cc", "memory");
    for (std::size_t k = 0; k < kMost; ++k) {
      std::memcpy(lanes[k].out, stage[k], kStageBytes);
      lanes[k].out += batch * kLookups;
    }
    rounds -= batch;
  }
  for (std::size_t k = 0; k < kMost; ++k) lanes[k].word = words[k];
  lanes[0].bits = bits0, lanes[1].bits = bits1, lanes[2].bits = bits2, lanes[3].bits = bits3;
  lanes[4].bits = bits4, lanes[5].bits = bits5, lanes[6].bits = bits6, lanes[7].bits = bits7;
}

#undef OSTRACA_LOOK
#undef OSTRACA_LOOKS
#undef OSTRACA_REFILL

constexpr std::size_t kRunStoreBytes = kStageBytes;

#else

constexpr std::size_t kRunStoreBytes = kStoreBytes;

#endif

// Lanes in turns keep the machine busy while each waits for its lookups; one that ends makes room for the next stream.
// Measured on Zen 5, exponents of weights: eight lanes are 1.2 times as fast as four to six; BMI2 changes nothing.
template <class Look>
bool decode_all(const DecodeTable& table, std::span<const BitSource> streams, Look look) {
  std::array<Lane, kMost> lanes;
  std::size_t count = 0, next = 0;
  while (count < kMost && next < streams.size()) lanes[count++] = start(&streams[next++]);
  while (count >= kSome) {
    for (std::size_t k = 0; k < count;) {
      if (safe_rounds<Look>(lanes[k], kRunStoreBytes) > 0) {
        ++k;
        continue;
      }
      if (!finish(lanes[k], table, look)) return false;
      lanes[k] = next < streams.size() ? start(&streams[next++]) : lanes[--count];
    }
    if (count == kMost)
      run<kMost>(lanes.data(), look, safe_rounds_of_all<Look>(lanes.data(), kMost, kRunStoreBytes));
    else if (count >= kSome)
      run<kSome>(lanes.data(), look, safe_rounds_of_all<Look>(lanes.data(), kSome, kRunStoreBytes));
  }
  return std::all_of(lanes.begin(), lanes.begin() + static_cast<std::ptrdiff_t>(count),
                     [&](const Lane& lane) { return finish(lane, table, look); });
}

}  // namespace

bool decode_streams(const DecodeTable& table, std::span<const BitSource> streams) {
  return table.prefers_singles ? decode_all(table, streams, One{table.singles})
                               : decode_all(table, streams, Several{table.entries});
}

}  // namespace ostraca
