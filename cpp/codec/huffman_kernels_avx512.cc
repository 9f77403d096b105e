// Huffman codes with AVX-512 VBMI: two-source byte permutes look up 64 codes at once, variable shifts join neighbours
// to groups of eight, and only those go through the scalar bit stream.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "codec/huffman_kernels.h"

namespace ostraca::huffman_kernels {
namespace {

constexpr std::size_t kLanes = 64;                          // symbols per step
constexpr long long kValueBitsMin = 8, kValueBitsMax = 56;  // of what Stream takes

// Lanes of two vectors by turns: those of the lower halves, those of the upper ones.
alignas(64) constexpr std::uint64_t kInterleaved[16] = {0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15};

__m512i load(const void* p) { return _mm512_loadu_si512(p); }
bool all_at_most(__m512i x, long long most) { return _mm512_cmpgt_epi64_mask(x, _mm512_set1_epi64(most)) == 0; }
bool all_at_least(__m512i x, long long least) { return _mm512_cmplt_epi64_mask(x, _mm512_set1_epi64(least)) == 0; }

// A table of 256 bytes in four registers; the upper half is looked up only if the tree has symbols there.
struct ByteTable {
  explicit ByteTable(const std::uint8_t* t) : a(load(t)), b(load(t + 64)), c(load(t + 128)), d(load(t + 192)) {}
  template <bool kWide>
  __m512i at(__m512i index) const {
    const __m512i lower = _mm512_permutex2var_epi8(a, index, b);
    if constexpr (!kWide) return lower;
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), lower, _mm512_permutex2var_epi8(c, index, d));
  }
  __m512i a, b, c, d;
};

// blend(m, x, y): x where the mask's bits are set, y elsewhere.
__m512i blend(__m512i m, __m512i x, __m512i y) { return _mm512_ternarylogic_epi64(m, x, y, 0xCA); }
// (x & m) | y
__m512i and_or(__m512i x, __m512i m, __m512i y) { return _mm512_ternarylogic_epi64(x, m, y, 0xEA); }

struct Groups {
  __m512i first, first_bits;    // four symbols in each 64-bit lane, the earlier ones
  __m512i second, second_bits;  // the later ones
};

// Codes of 64 symbols, joined by fours. "Even" symbols are the earlier of a pair: their code goes on top.
template <bool kWide>
Groups join_codes(const ByteTable& low, const ByteTable& high, __m512i symbols) {
  const __m512i low8 = _mm512_set1_epi16(0x00FF), code_mask = _mm512_set1_epi16(0x0FFF);
  const __m512i low16 = _mm512_set1_epi32(0xFFFF), low32 = _mm512_set1_epi64(0xFFFFFFFF);
  const __m512i lo = low.at<kWide>(symbols), hi = high.at<kWide>(symbols);
  const __m512i even = blend(low8, lo, _mm512_slli_epi16(hi, 8)), odd = blend(low8, _mm512_srli_epi16(lo, 8), hi);
  const __m512i even_code = _mm512_and_si512(even, code_mask), odd_code = _mm512_and_si512(odd, code_mask);
  const __m512i odd_bits = _mm512_srli_epi16(odd, 12);
  const __m512i pair_bits = _mm512_add_epi16(_mm512_srli_epi16(even, 12), odd_bits);

  // Pairs, in 32-bit lanes: those of the lower halves, those of the upper halves.
  const __m512i pair0 =
      and_or(odd_code, low16, _mm512_sllv_epi32(_mm512_and_si512(even_code, low16), _mm512_and_si512(odd_bits, low16)));
  const __m512i pair1 =
      _mm512_or_si512(_mm512_srli_epi32(odd_code, 16),
                      _mm512_sllv_epi32(_mm512_srli_epi32(even_code, 16), _mm512_srli_epi32(odd_bits, 16)));
  const __m512i pair1_bits = _mm512_srli_epi32(pair_bits, 16);
  const __m512i four_bits = _mm512_add_epi32(_mm512_and_si512(pair_bits, low16), pair1_bits);

  Groups groups;
  groups.first =
      and_or(pair1, low32, _mm512_sllv_epi64(_mm512_and_si512(pair0, low32), _mm512_and_si512(pair1_bits, low32)));
  groups.second = _mm512_or_si512(_mm512_srli_epi64(pair1, 32),
                                  _mm512_sllv_epi64(_mm512_srli_epi64(pair0, 32), _mm512_srli_epi64(pair1_bits, 32)));
  groups.first_bits = _mm512_and_si512(four_bits, low32);
  groups.second_bits = _mm512_srli_epi64(four_bits, 32);
  return groups;
}

// The bit stream, its position and unfinished byte in vectors (lane 0 of the carry counts).
class Stream {
 public:
  explicit Stream(const BitSink& sink)
      : base_(sink.base),
        bits_(_mm512_set1_epi64(static_cast<long long>(sink.bits))),
        carry_(_mm512_set1_epi64(static_cast<long long>(sink.carry))) {}
  void save(BitSink* sink) const {
    sink->bits = static_cast<std::uint64_t>(_mm_cvtsi128_si64(_mm512_castsi512_si128(bits_)));
    sink->carry = static_cast<std::uint64_t>(_mm_cvtsi128_si64(_mm512_castsi512_si128(carry_)));
  }

  // Eight values of 8 to 56 bits, that of lane 7 first; with seven bits of an unfinished byte they fit into 64. Since
  // none is shorter than a byte, what one leaves of an unfinished byte is its own alone: no value waits for the one
  // before.
  void append8(__m512i values, __m512i lengths) {
    const __m512i zero = _mm512_setzero_si512();
    __m512i sums = _mm512_add_epi64(lengths, _mm512_alignr_epi64(zero, lengths, 1));
    sums = _mm512_add_epi64(sums, _mm512_alignr_epi64(zero, sums, 2));
    sums = _mm512_add_epi64(sums, _mm512_alignr_epi64(zero, sums, 4));
    const __m512i ends = _mm512_add_epi64(bits_, sums), starts = _mm512_sub_epi64(ends, lengths);
    const __m512i used = _mm512_and_si512(starts, _mm512_set1_epi64(7));
    const __m512i whole = _mm512_and_si512(_mm512_add_epi64(used, lengths), _mm512_set1_epi64(0x38));
    const __m512i shifted = _mm512_sllv_epi64(values, used), rest = _mm512_srlv_epi64(shifted, whole);
    alignas(64) std::uint64_t words[8], offsets[8];
    _mm512_store_si512(words, _mm512_or_si512(shifted, _mm512_alignr_epi64(carry_, rest, 1)));
    _mm512_store_si512(offsets, _mm512_srli_epi64(starts, 3));
    // Through memory: GCC would take the vectors apart by shuffles, which costs a third of the speed.
    asm volatile("" : : "r"(words), "r"(offsets) : "memory");
    // In this order: each word's upper bytes are zeros that the next one replaces.
    for (int i = 7; i >= 0; --i) std::memcpy(base_ + offsets[i], &words[i], sizeof words[i]);
    bits_ = _mm512_broadcastq_epi64(_mm512_castsi512_si128(ends));
    carry_ = rest;
  }

 private:
  std::byte* base_;
  __m512i bits_, carry_;
};

void append(BitSink* sink, std::uint64_t value, std::uint64_t length) {
  const std::uint64_t used = sink->bits & 7;
  std::uint64_t carry = sink->carry | value << used;
  std::memcpy(sink->base + (sink->bits >> 3), &carry, sizeof carry);
  sink->carry = carry >> ((used + length) & 0x38);
  sink->bits += length;
}

// Any lengths. Apart from the loops, whose registers it would take.
__attribute__((noinline)) void append_fours(Groups groups, BitSink* sink) {
  alignas(64) std::uint64_t values[16], lengths[16];
  _mm512_store_si512(values, groups.first);
  _mm512_store_si512(values + 8, groups.second);
  _mm512_store_si512(lengths, groups.first_bits);
  _mm512_store_si512(lengths + 8, groups.second_bits);
  for (int i = 7; i >= 0; --i) {
    append(sink, values[8 + i], lengths[8 + i]);
    append(sink, values[i], lengths[i]);
  }
}

// Whether eight neighbours usually fit into one value is asked of 64 symbols only: both ways give the same stream.
template <bool kWide, bool kEights>
std::size_t encode(const std::byte* symbols, std::size_t count, const CodeTable& table, BitSink* sink) {
  const ByteTable low(table.low), high(table.high);
  const __m512i lower = load(kInterleaved), upper = load(kInterleaved + 8);
  Stream stream(*sink);
  std::size_t left = count;
  for (; left >= kLanes; left -= kLanes) {
    const Groups groups = join_codes<kWide>(low, high, load(symbols + left - kLanes));
    const __m512i bits = _mm512_add_epi64(groups.first_bits, groups.second_bits);
    if (kEights && all_at_most(bits, kValueBitsMax)) [[likely]] {
      stream.append8(_mm512_or_si512(groups.second, _mm512_sllv_epi64(groups.first, groups.second_bits)), bits);
    } else if (!kEights && all_at_least(_mm512_min_epu64(groups.first_bits, groups.second_bits), kValueBitsMin)) {
      stream.append8(_mm512_permutex2var_epi64(groups.first, upper, groups.second),
                     _mm512_permutex2var_epi64(groups.first_bits, upper, groups.second_bits));
      stream.append8(_mm512_permutex2var_epi64(groups.first, lower, groups.second),
                     _mm512_permutex2var_epi64(groups.first_bits, lower, groups.second_bits));
    } else {
      stream.save(sink);
      append_fours(groups, sink);
      stream = Stream(*sink);
    }
  }
  stream.save(sink);
  return left;
}

template <bool kWide>
EncodeKernel pick(const std::byte* symbols, std::size_t count, const CodeTable& table) {
  if (count < kLanes) return encode<kWide, true>;
  const ByteTable low(table.low), high(table.high);
  const Groups groups = join_codes<kWide>(low, high, load(symbols + count - kLanes));
  const bool eights = all_at_most(_mm512_add_epi64(groups.first_bits, groups.second_bits), kValueBitsMax);
  return eights ? encode<kWide, true> : encode<kWide, false>;
}

}  // namespace

std::size_t encode_avx512(const std::byte* symbols, std::size_t count, const CodeTable& table, BitSink* sink) {
  const __m512i upper = _mm512_or_si512(load(table.high + 128), load(table.high + 192));
  const bool wide = _mm512_test_epi8_mask(upper, upper) != 0;
  const EncodeKernel kernel = wide ? pick<true>(symbols, count, table) : pick<false>(symbols, count, table);
  return kernel(symbols, count, table, sink);
}

// Symbols not seen yet are rare soon: the vectors only ask whether there is one.
std::size_t presence_avx512(const std::byte* data, std::size_t size, std::uint8_t* present) {
  ByteTable seen(present);
  std::size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    const __m512i symbols = load(data + i);
    const __m512i known = seen.at<true>(symbols);
    if (_mm512_test_epi8_mask(known, known) == ~__mmask64{0}) [[likely]]
      continue;
    for (std::size_t k = 0; k < kLanes; ++k) present[static_cast<std::uint8_t>(data[i + k])] = 1;
    seen = ByteTable(present);
  }
  return i;
}

}  // namespace ostraca::huffman_kernels
