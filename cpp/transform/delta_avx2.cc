// Zigzagged differences with AVX2. It has no arithmetic shift of every width, but comparisons: the sign mask is 0 > x.
#include <immintrin.h>

#include "transform/delta_kernels.h"

namespace ostraca::delta_kernels {
namespace {

constexpr std::size_t kVectorBytes = 32;

__m256i load(const std::byte* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
void store(std::byte* p, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }

template <unsigned kWidth>
__m256i add(__m256i a, __m256i b) {
  if constexpr (kWidth == 1) return _mm256_add_epi8(a, b);
  if constexpr (kWidth == 2) return _mm256_add_epi16(a, b);
  if constexpr (kWidth == 4) return _mm256_add_epi32(a, b);
  return _mm256_add_epi64(a, b);
}

template <unsigned kWidth>
__m256i subtract(__m256i a, __m256i b) {
  if constexpr (kWidth == 1) return _mm256_sub_epi8(a, b);
  if constexpr (kWidth == 2) return _mm256_sub_epi16(a, b);
  if constexpr (kWidth == 4) return _mm256_sub_epi32(a, b);
  return _mm256_sub_epi64(a, b);
}

template <unsigned kWidth>
__m256i zigzag(__m256i d) {
  const __m256i zero = _mm256_setzero_si256();
  __m256i negative;
  if constexpr (kWidth == 1) negative = _mm256_cmpgt_epi8(zero, d);
  if constexpr (kWidth == 2) negative = _mm256_srai_epi16(d, 15);
  if constexpr (kWidth == 4) negative = _mm256_srai_epi32(d, 31);
  if constexpr (kWidth == 8) negative = _mm256_cmpgt_epi64(zero, d);
  return _mm256_xor_si256(add<kWidth>(d, d), negative);
}

template <unsigned kWidth>
__m256i unzigzag(__m256i z) {
  __m256i half, one;
  // Bytes have no shift of their own: theirs is that of words, without what comes from the byte above.
  if constexpr (kWidth == 1)
    one = _mm256_set1_epi8(1), half = _mm256_and_si256(_mm256_srli_epi16(z, 1), _mm256_set1_epi8(0x7F));
  if constexpr (kWidth == 2) one = _mm256_set1_epi16(1), half = _mm256_srli_epi16(z, 1);
  if constexpr (kWidth == 4) one = _mm256_set1_epi32(1), half = _mm256_srli_epi32(z, 1);
  if constexpr (kWidth == 8) one = _mm256_set1_epi64x(1), half = _mm256_srli_epi64(z, 1);
  return _mm256_xor_si256(half, subtract<kWidth>(_mm256_setzero_si256(), _mm256_and_si256(z, one)));
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

std::size_t zigzag_avx2(const std::byte* in, const std::byte* base, std::size_t count, unsigned width, std::byte* out) {
  if (width == 1) return zigzag_all<1>(in, base, count, out);
  if (width == 2) return zigzag_all<2>(in, base, 2 * count, out);
  if (width == 4) return zigzag_all<4>(in, base, 4 * count, out);
  return zigzag_all<8>(in, base, 8 * count, out);
}

std::size_t apply_avx2(const std::byte* in, const std::byte* base, std::size_t count, unsigned width, std::byte* out) {
  if (width == 1) return apply_all<1>(in, base, count, out);
  if (width == 2) return apply_all<2>(in, base, 2 * count, out);
  if (width == 4) return apply_all<4>(in, base, 4 * count, out);
  return apply_all<8>(in, base, 8 * count, out);
}

}  // namespace ostraca::delta_kernels
