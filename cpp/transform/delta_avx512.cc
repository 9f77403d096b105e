// Zigzagged differences with AVX-512.
#include <immintrin.h>

#include "transform/delta_kernels.h"

namespace ostraca::delta_kernels {
namespace {

constexpr std::size_t kVectorBytes = 64;

__m512i load(const std::byte* p) { return _mm512_loadu_si512(p); }
void store(std::byte* p, __m512i v) { _mm512_storeu_si512(p, v); }

template <unsigned kWidth>
__m512i add(__m512i a, __m512i b) {
  if constexpr (kWidth == 1) return _mm512_add_epi8(a, b);
  if constexpr (kWidth == 2) return _mm512_add_epi16(a, b);
  if constexpr (kWidth == 4) return _mm512_add_epi32(a, b);
  return _mm512_add_epi64(a, b);
}

template <unsigned kWidth>
__m512i subtract(__m512i a, __m512i b) {
  if constexpr (kWidth == 1) return _mm512_sub_epi8(a, b);
  if constexpr (kWidth == 2) return _mm512_sub_epi16(a, b);
  if constexpr (kWidth == 4) return _mm512_sub_epi32(a, b);
  return _mm512_sub_epi64(a, b);
}

template <unsigned kWidth>
__m512i zigzag(__m512i d) {
  __m512i negative;
  if constexpr (kWidth == 1) negative = _mm512_movm_epi8(_mm512_movepi8_mask(d));
  if constexpr (kWidth == 2) negative = _mm512_srai_epi16(d, 15);
  if constexpr (kWidth == 4) negative = _mm512_srai_epi32(d, 31);
  if constexpr (kWidth == 8) negative = _mm512_srai_epi64(d, 63);
  return _mm512_xor_si512(add<kWidth>(d, d), negative);
}

template <unsigned kWidth>
__m512i unzigzag(__m512i z) {
  __m512i half, one;
  // Bytes have no shift of their own: theirs is that of words, without what comes from the byte above.
  if constexpr (kWidth == 1)
    one = _mm512_set1_epi8(1), half = _mm512_and_si512(_mm512_srli_epi16(z, 1), _mm512_set1_epi8(0x7F));
  if constexpr (kWidth == 2) one = _mm512_set1_epi16(1), half = _mm512_srli_epi16(z, 1);
  if constexpr (kWidth == 4) one = _mm512_set1_epi32(1), half = _mm512_srli_epi32(z, 1);
  if constexpr (kWidth == 8) one = _mm512_set1_epi64(1), half = _mm512_srli_epi64(z, 1);
  return _mm512_xor_si512(half, subtract<kWidth>(_mm512_setzero_si512(), _mm512_and_si512(z, one)));
}

template <unsigned kWidth>
std::size_t zigzag_all(const std::byte* in, const std::byte* base, std::size_t bytes, std::byte* out) {
  std::size_t i = 0;
  for (; i + kVectorBytes <= bytes; i += kVectorBytes)
    store(out + i, zigzag<kWidth>(subtract<kWidth>(load(in + i), load(base + i))));
  return i / kWidth;
}

template <unsigned kWidth>
std::size_t apply_all(const std::byte* in, const std::byte* base, std::size_t bytes, std::byte* out) {
  std::size_t i = 0;
  for (; i + kVectorBytes <= bytes; i += kVectorBytes)
    store(out + i, add<kWidth>(load(base + i), unzigzag<kWidth>(load(in + i))));
  return i / kWidth;
}

}  // namespace

std::size_t zigzag_avx512(const std::byte* in, const std::byte* base, std::size_t count, unsigned width,
                          std::byte* out) {
  if (width == 1) return zigzag_all<1>(in, base, count, out);
  if (width == 2) return zigzag_all<2>(in, base, 2 * count, out);
  if (width == 4) return zigzag_all<4>(in, base, 4 * count, out);
  return zigzag_all<8>(in, base, 8 * count, out);
}

std::size_t apply_avx512(const std::byte* in, const std::byte* base, std::size_t count, unsigned width,
                         std::byte* out) {
  if (width == 1) return apply_all<1>(in, base, count, out);
  if (width == 2) return apply_all<2>(in, base, 2 * count, out);
  if (width == 4) return apply_all<4>(in, base, 4 * count, out);
  return apply_all<8>(in, base, 8 * count, out);
}

}  // namespace ostraca::delta_kernels
