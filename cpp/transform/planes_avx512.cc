// Byte planes with AVX-512 VBMI: two-source byte permutes gather a plane's bytes of 128 bytes at a time.
#include <immintrin.h>

#include <cstdint>

#include "transform/planes_kernels.h"

namespace ostraca::planes_kernels {
namespace {

constexpr std::size_t kLanes = 64;  // elements per step: one vector of every plane

struct alignas(64) Indexes {
  std::uint8_t split2_lo[64];    // even bytes of a, b: plane 0 of 64 two-byte elements
  std::uint8_t split2_hi[64];    // odd bytes
  std::uint8_t split4_lo[64];    // bytes 0 of 32 four-byte elements, then bytes 1
  std::uint8_t split4_hi[64];    // bytes 2, then bytes 3
  std::uint8_t merge8_lo[64];    // bytes of a and b interleaved, first halves
  std::uint8_t merge8_hi[64];    // second halves
  std::uint16_t merge16_lo[32];  // the same for words
  std::uint16_t merge16_hi[32];
  std::uint32_t even[16];  // even dwords of a, b
  std::uint32_t odd[16];
  std::uint32_t merge32_lo[16];
  std::uint32_t merge32_hi[16];
};

constexpr Indexes make_indexes() {
  Indexes t{};
  for (unsigned i = 0; i < 64; ++i) {
    t.split2_lo[i] = static_cast<std::uint8_t>(2 * i);
    t.split2_hi[i] = static_cast<std::uint8_t>(2 * i + 1);
    t.split4_lo[i] = static_cast<std::uint8_t>(4 * (i % 32) + i / 32);
    t.split4_hi[i] = static_cast<std::uint8_t>(4 * (i % 32) + i / 32 + 2);
    // Bit 6 of an index selects the second source.
    t.merge8_lo[i] = static_cast<std::uint8_t>(i / 2 + (i % 2) * 64);
    t.merge8_hi[i] = static_cast<std::uint8_t>(i / 2 + 32 + (i % 2) * 64);
  }
  for (unsigned i = 0; i < 32; ++i) {
    t.merge16_lo[i] = static_cast<std::uint16_t>(i / 2 + (i % 2) * 32);
    t.merge16_hi[i] = static_cast<std::uint16_t>(i / 2 + 16 + (i % 2) * 32);
  }
  for (unsigned i = 0; i < 16; ++i) {
    t.even[i] = 2 * i;
    t.odd[i] = 2 * i + 1;
    t.merge32_lo[i] = i / 2 + (i % 2) * 16;
    t.merge32_hi[i] = i / 2 + 8 + (i % 2) * 16;
  }
  return t;
}

constexpr Indexes kIndexes = make_indexes();

__m512i load(const void* p) { return _mm512_loadu_si512(p); }
void store(void* p, __m512i v) { _mm512_storeu_si512(p, v); }

__m512i rotate_left16(__m512i x) { return _mm512_or_si512(_mm512_slli_epi16(x, 1), _mm512_srli_epi16(x, 15)); }
__m512i rotate_right16(__m512i x) { return _mm512_or_si512(_mm512_srli_epi16(x, 1), _mm512_slli_epi16(x, 15)); }

template <bool kRotate>
std::size_t split2(const std::byte* in, std::size_t count, std::byte* const* planes) {
  const __m512i lo = load(kIndexes.split2_lo), hi = load(kIndexes.split2_hi);
  std::byte* const p0 = planes[0];
  std::byte* const p1 = planes[1];
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __m512i a = load(in + 2 * i), b = load(in + 2 * i + 64);
    if constexpr (kRotate) a = rotate_left16(a), b = rotate_left16(b);
    store(p0 + i, _mm512_permutex2var_epi8(a, lo, b));
    store(p1 + i, _mm512_permutex2var_epi8(a, hi, b));
  }
  return i;
}

template <bool kRotate>
std::size_t merge2(const std::byte* const* planes, std::size_t count, std::byte* out) {
  const __m512i lo = load(kIndexes.merge8_lo), hi = load(kIndexes.merge8_hi);
  const std::byte* const p0 = planes[0];
  const std::byte* const p1 = planes[1];
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const __m512i a = load(p0 + i), b = load(p1 + i);
    __m512i x = _mm512_permutex2var_epi8(a, lo, b), y = _mm512_permutex2var_epi8(a, hi, b);
    if constexpr (kRotate) x = rotate_right16(x), y = rotate_right16(y);
    store(out + 2 * i, x);
    store(out + 2 * i + 64, y);
  }
  return i;
}

// Sixteen four-byte elements in each of v; p[k] receives plane k of all sixty-four.
void split4_registers(const __m512i v[4], __m512i p[4]) {
  const __m512i lo = load(kIndexes.split4_lo), hi = load(kIndexes.split4_hi);
  const __m512i a01 = _mm512_permutex2var_epi8(v[0], lo, v[1]), a23 = _mm512_permutex2var_epi8(v[0], hi, v[1]);
  const __m512i b01 = _mm512_permutex2var_epi8(v[2], lo, v[3]), b23 = _mm512_permutex2var_epi8(v[2], hi, v[3]);
  p[0] = _mm512_shuffle_i64x2(a01, b01, 0x44);
  p[1] = _mm512_shuffle_i64x2(a01, b01, 0xEE);
  p[2] = _mm512_shuffle_i64x2(a23, b23, 0x44);
  p[3] = _mm512_shuffle_i64x2(a23, b23, 0xEE);
}

void merge4_registers(const __m512i p[4], __m512i v[4]) {
  const __m512i lo8 = load(kIndexes.merge8_lo), hi8 = load(kIndexes.merge8_hi);
  const __m512i lo16 = load(kIndexes.merge16_lo), hi16 = load(kIndexes.merge16_hi);
  const __m512i a01 = _mm512_permutex2var_epi8(p[0], lo8, p[1]), b01 = _mm512_permutex2var_epi8(p[0], hi8, p[1]);
  const __m512i a23 = _mm512_permutex2var_epi8(p[2], lo8, p[3]), b23 = _mm512_permutex2var_epi8(p[2], hi8, p[3]);
  v[0] = _mm512_permutex2var_epi16(a01, lo16, a23);
  v[1] = _mm512_permutex2var_epi16(a01, hi16, a23);
  v[2] = _mm512_permutex2var_epi16(b01, lo16, b23);
  v[3] = _mm512_permutex2var_epi16(b01, hi16, b23);
}

template <bool kRotate>
std::size_t split4(const std::byte* in, std::size_t count, std::byte* const* planes) {
  std::byte* const out[4] = {planes[0], planes[1], planes[2], planes[3]};
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __m512i v[4], p[4];
    for (unsigned j = 0; j < 4; ++j) {
      v[j] = load(in + 4 * i + 64 * j);
      if constexpr (kRotate) v[j] = _mm512_rol_epi32(v[j], 1);
    }
    split4_registers(v, p);
    for (unsigned k = 0; k < 4; ++k) store(out[k] + i, p[k]);
  }
  return i;
}

template <bool kRotate>
std::size_t merge4(const std::byte* const* planes, std::size_t count, std::byte* out) {
  const std::byte* const in[4] = {planes[0], planes[1], planes[2], planes[3]};
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __m512i v[4], p[4];
    for (unsigned k = 0; k < 4; ++k) p[k] = load(in[k] + i);
    merge4_registers(p, v);
    for (unsigned j = 0; j < 4; ++j) {
      if constexpr (kRotate) v[j] = _mm512_ror_epi32(v[j], 1);
      store(out + 4 * i + 64 * j, v[j]);
    }
  }
  return i;
}

// Eight bytes are two four-byte halves: separate those, then each as above.
template <bool kRotate>
std::size_t split8(const std::byte* in, std::size_t count, std::byte* const* planes) {
  const __m512i even = load(kIndexes.even), odd = load(kIndexes.odd);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __m512i low[4], high[4], p[8];
    for (unsigned j = 0; j < 4; ++j) {
      __m512i a = load(in + 8 * i + 128 * j), b = load(in + 8 * i + 128 * j + 64);
      if constexpr (kRotate) a = _mm512_rol_epi64(a, 1), b = _mm512_rol_epi64(b, 1);
      low[j] = _mm512_permutex2var_epi32(a, even, b);
      high[j] = _mm512_permutex2var_epi32(a, odd, b);
    }
    split4_registers(low, p);
    split4_registers(high, p + 4);
    for (unsigned k = 0; k < 8; ++k) store(planes[k] + i, p[k]);
  }
  return i;
}

template <bool kRotate>
std::size_t merge8(const std::byte* const* planes, std::size_t count, std::byte* out) {
  const __m512i lo = load(kIndexes.merge32_lo), hi = load(kIndexes.merge32_hi);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __m512i low[4], high[4], p[8];
    for (unsigned k = 0; k < 8; ++k) p[k] = load(planes[k] + i);
    merge4_registers(p, low);
    merge4_registers(p + 4, high);
    for (unsigned j = 0; j < 4; ++j) {
      __m512i a = _mm512_permutex2var_epi32(low[j], lo, high[j]), b = _mm512_permutex2var_epi32(low[j], hi, high[j]);
      if constexpr (kRotate) a = _mm512_ror_epi64(a, 1), b = _mm512_ror_epi64(b, 1);
      store(out + 8 * i + 128 * j, a);
      store(out + 8 * i + 128 * j + 64, b);
    }
  }
  return i;
}

}  // namespace

std::size_t split_avx512(const std::byte* elements, std::size_t count, unsigned width, bool rotate,
                         std::byte* const* planes) {
  switch (width) {
    case 2:
      return rotate ? split2<true>(elements, count, planes) : split2<false>(elements, count, planes);
    case 4:
      return rotate ? split4<true>(elements, count, planes) : split4<false>(elements, count, planes);
    case 8:
      return rotate ? split8<true>(elements, count, planes) : split8<false>(elements, count, planes);
  }
  return 0;
}

std::size_t merge_avx512(const std::byte* const* planes, std::size_t count, unsigned width, bool rotate,
                         std::byte* elements) {
  switch (width) {
    case 2:
      return rotate ? merge2<true>(planes, count, elements) : merge2<false>(planes, count, elements);
    case 4:
      return rotate ? merge4<true>(planes, count, elements) : merge4<false>(planes, count, elements);
    case 8:
      return rotate ? merge8<true>(planes, count, elements) : merge8<false>(planes, count, elements);
  }
  return 0;
}

}  // namespace ostraca::planes_kernels
