// CRC32C by folding: a 128-bit lane A * x^64 + B followed by D more bits weighs A * x^(D+64) + B * x^D, which two
// carry-less multiplications by remainders turn back into 128 bits, to be added to the data D bits further on.
// V. Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ", Intel, 2009.
#include <immintrin.h>

#include "checksum/crc32c_kernels.h"
#include "checksum/crc32c_polynomial.h"

namespace ostraca {
namespace {

// x^n as the factor of a 64-bit half: a remainder in the upper 32 bits (bit 63 is x^0), less the one x by which the
// product of two reflected halves falls short as a 128-bit value.
consteval long long factor(std::uint64_t n) {
  return static_cast<long long>(static_cast<std::uint64_t>(crc32c_x_power(n - 1)) << 32);
}

// Moves every 128-bit lane of `lanes` D bits ahead and adds it to `next`; `factors` holds x^(D+64), x^D in each lane.
inline __m512i fold(__m512i lanes, __m512i factors, __m512i next) {
  const __m512i low = _mm512_clmulepi64_epi128(lanes, factors, 0x00);
  const __m512i high = _mm512_clmulepi64_epi128(lanes, factors, 0x11);
  return _mm512_ternarylogic_epi64(low, high, next, 0x96);  // exclusive or of the three
}

// The same two factors in every lane.
inline __m512i factors(long long low, long long high) { return _mm512_broadcast_i32x4(_mm_set_epi64x(high, low)); }

inline __m512i load(const std::byte* p) { return _mm512_loadu_si512(p); }

// The register after the 64 bytes of `lanes`.
inline std::uint32_t reduce(__m512i lanes) {
  const __m512i ahead = _mm512_set_epi64(0, 0, factor(128), factor(128 + 64), factor(256), factor(256 + 64),
                                         factor(384), factor(384 + 64));
  // The last lane is where the others go, and stays.
  const __m512i folded = fold(lanes, ahead, _mm512_maskz_mov_epi64(0xC0, lanes));
  const __m256i half = _mm256_xor_si256(_mm512_castsi512_si256(folded), _mm512_extracti64x4_epi64(folded, 1));
  const __m128i lane = _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  const std::uint64_t state = _mm_crc32_u64(0, static_cast<std::uint64_t>(_mm_cvtsi128_si64(lane)));
  return static_cast<std::uint32_t>(_mm_crc32_u64(state, static_cast<std::uint64_t>(_mm_extract_epi64(lane, 1))));
}

}  // namespace

std::uint32_t crc32c_avx512(std::uint32_t state, const std::byte* data, std::size_t size) {
  constexpr std::size_t kStride = 256;  // four accumulators hide the latency of the multiplication
  if (size >= kStride) {
    // A register is the same as its bits added to the first 32 bits of the data.
    __m512i a = _mm512_xor_si512(load(data), _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(state))));
    __m512i b = load(data + 64), c = load(data + 128), d = load(data + 192);
    data += kStride, size -= kStride;
    const __m512i over_stride = factors(factor(8 * kStride + 64), factor(8 * kStride));
    for (; size >= kStride; data += kStride, size -= kStride) {
      a = fold(a, over_stride, load(data));
      b = fold(b, over_stride, load(data + 64));
      c = fold(c, over_stride, load(data + 128));
      d = fold(d, over_stride, load(data + 192));
    }
    const __m512i over_one = factors(factor(8 * 64 + 64), factor(8 * 64));
    a = fold(fold(fold(a, over_one, b), over_one, c), over_one, d);
    for (; size >= 64; data += 64, size -= 64) a = fold(a, over_one, load(data));
    state = reduce(a);
  }
  for (; size >= 8; data += 8, size -= 8) {
    std::uint64_t word;
    __builtin_memcpy(&word, data, 8);
    state = static_cast<std::uint32_t>(_mm_crc32_u64(state, word));
  }
  for (; size > 0; ++data, --size) state = _mm_crc32_u8(state, static_cast<std::uint8_t>(*data));
  return state;
}

}  // namespace ostraca
