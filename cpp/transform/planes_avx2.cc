// Byte planes with AVX2. Its shuffles stay inside 128-bit halves, so every step ends by putting halves in order.
#include <immintrin.h>

#include "transform/planes_kernels.h"

namespace ostraca::planes_kernels {
namespace {

constexpr std::size_t kLanes = 32;  // elements per step: one vector of every plane

__m256i load(const std::byte* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
void store(std::byte* p, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }

template <unsigned kWidth>
__m256i rotate_left(__m256i x) {
  if constexpr (kWidth == 2) return _mm256_or_si256(_mm256_slli_epi16(x, 1), _mm256_srli_epi16(x, 15));
  if constexpr (kWidth == 4) return _mm256_or_si256(_mm256_slli_epi32(x, 1), _mm256_srli_epi32(x, 31));
  return _mm256_or_si256(_mm256_slli_epi64(x, 1), _mm256_srli_epi64(x, 63));
}

template <unsigned kWidth>
__m256i rotate_right(__m256i x) {
  if constexpr (kWidth == 2) return _mm256_or_si256(_mm256_srli_epi16(x, 1), _mm256_slli_epi16(x, 15));
  if constexpr (kWidth == 4) return _mm256_or_si256(_mm256_srli_epi32(x, 1), _mm256_slli_epi32(x, 31));
  return _mm256_or_si256(_mm256_srli_epi64(x, 1), _mm256_slli_epi64(x, 63));
}

template <bool kRotate>
std::size_t split2(const std::byte* in, std::size_t count, std::byte* const* planes) {
  const __m256i low_bytes = _mm256_set1_epi16(0xFF);
  std::byte* const p0 = planes[0];
  std::byte* const p1 = planes[1];
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __m256i a = load(in + 2 * i), b = load(in + 2 * i + 32);
    if constexpr (kRotate) a = rotate_left<2>(a), b = rotate_left<2>(b);
    const __m256i lo = _mm256_packus_epi16(_mm256_and_si256(a, low_bytes), _mm256_and_si256(b, low_bytes));
    const __m256i hi = _mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
    store(p0 + i, _mm256_permute4x64_epi64(lo, 0xD8));
    store(p1 + i, _mm256_permute4x64_epi64(hi, 0xD8));
  }
  return i;
}

template <bool kRotate>
std::size_t merge2(const std::byte* const* planes, std::size_t count, std::byte* out) {
  const std::byte* const p0 = planes[0];
  const std::byte* const p1 = planes[1];
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const __m256i a = load(p0 + i), b = load(p1 + i);
    __m256i x = _mm256_unpacklo_epi8(a, b), y = _mm256_unpackhi_epi8(a, b);
    if constexpr (kRotate) x = rotate_right<2>(x), y = rotate_right<2>(y);
    store(out + 2 * i, _mm256_permute2x128_si256(x, y, 0x20));
    store(out + 2 * i + 32, _mm256_permute2x128_si256(x, y, 0x31));
  }
  return i;
}

// Eight four-byte elements in each of v; p[k] receives plane k of all thirty-two.
void split4_registers(const __m256i v[4], __m256i p[4]) {
  const __m256i bytes = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                         0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m256i dwords = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  __m256i g[4];  // each: eight bytes of plane 0, of plane 1, of 2, of 3
  for (unsigned j = 0; j < 4; ++j) g[j] = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(v[j], bytes), dwords);
  const __m256i a02 = _mm256_unpacklo_epi64(g[0], g[1]), a13 = _mm256_unpackhi_epi64(g[0], g[1]);
  const __m256i b02 = _mm256_unpacklo_epi64(g[2], g[3]), b13 = _mm256_unpackhi_epi64(g[2], g[3]);
  p[0] = _mm256_permute2x128_si256(a02, b02, 0x20);
  p[1] = _mm256_permute2x128_si256(a13, b13, 0x20);
  p[2] = _mm256_permute2x128_si256(a02, b02, 0x31);
  p[3] = _mm256_permute2x128_si256(a13, b13, 0x31);
}

void merge4_registers(const __m256i p[4], __m256i v[4]) {
  const __m256i a01 = _mm256_unpacklo_epi8(p[0], p[1]), b01 = _mm256_unpackhi_epi8(p[0], p[1]);
  const __m256i a23 = _mm256_unpacklo_epi8(p[2], p[3]), b23 = _mm256_unpackhi_epi8(p[2], p[3]);
  const __m256i w0 = _mm256_unpacklo_epi16(a01, a23), w1 = _mm256_unpackhi_epi16(a01, a23);
  const __m256i w2 = _mm256_unpacklo_epi16(b01, b23), w3 = _mm256_unpackhi_epi16(b01, b23);
  v[0] = _mm256_permute2x128_si256(w0, w1, 0x20);
  v[1] = _mm256_permute2x128_si256(w2, w3, 0x20);
  v[2] = _mm256_permute2x128_si256(w0, w1, 0x31);
  v[3] = _mm256_permute2x128_si256(w2, w3, 0x31);
}

template <bool kRotate>
std::size_t split4(const std::byte* in, std::size_t count, std::byte* const* planes) {
  std::byte* const out[4] = {planes[0], planes[1], planes[2], planes[3]};
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __m256i v[4], p[4];
    for (unsigned j = 0; j < 4; ++j) {
      v[j] = load(in + 4 * i + 32 * j);
      if constexpr (kRotate) v[j] = rotate_left<4>(v[j]);
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
    __m256i v[4], p[4];
    for (unsigned k = 0; k < 4; ++k) p[k] = load(in[k] + i);
    merge4_registers(p, v);
    for (unsigned j = 0; j < 4; ++j) {
      if constexpr (kRotate) v[j] = rotate_right<4>(v[j]);
      store(out + 4 * i + 32 * j, v[j]);
    }
  }
  return i;
}

// Eight bytes are two four-byte halves: separate those, then each as above.
template <bool kRotate>
std::size_t split8(const std::byte* in, std::size_t count, std::byte* const* planes) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __m256i low[4], high[4], p[8];
    for (unsigned j = 0; j < 4; ++j) {
      __m256i a = load(in + 8 * i + 64 * j), b = load(in + 8 * i + 64 * j + 32);
      if constexpr (kRotate) a = rotate_left<8>(a), b = rotate_left<8>(b);
      const __m256 x = _mm256_castsi256_ps(a), y = _mm256_castsi256_ps(b);
      low[j] = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(x, y, 0x88)), 0xD8);
      high[j] = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(x, y, 0xDD)), 0xD8);
    }
    split4_registers(low, p);
    split4_registers(high, p + 4);
    for (unsigned k = 0; k < 8; ++k) store(planes[k] + i, p[k]);
  }
  return i;
}

template <bool kRotate>
std::size_t merge8(const std::byte* const* planes, std::size_t count, std::byte* out) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __m256i low[4], high[4], p[8];
    for (unsigned k = 0; k < 8; ++k) p[k] = load(planes[k] + i);
    merge4_registers(p, low);
    merge4_registers(p + 4, high);
    for (unsigned j = 0; j < 4; ++j) {
      __m256i a = _mm256_unpacklo_epi32(low[j], high[j]), b = _mm256_unpackhi_epi32(low[j], high[j]);
      if constexpr (kRotate) a = rotate_right<8>(a), b = rotate_right<8>(b);
      store(out + 8 * i + 64 * j, _mm256_permute2x128_si256(a, b, 0x20));
      store(out + 8 * i + 64 * j + 32, _mm256_permute2x128_si256(a, b, 0x31));
    }
  }
  return i;
}

}  // namespace

std::size_t split_avx2(const std::byte* elements, std::size_t count, unsigned width, bool rotate,
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

std::size_t merge_avx2(const std::byte* const* planes, std::size_t count, unsigned width, bool rotate,
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
