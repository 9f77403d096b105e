#include <nmmintrin.h>
#include <wmmintrin.h>

#include "checksum/crc32c_kernels.h"
#include "checksum/crc32c_three_way.h"

namespace ostraca {
namespace {

struct Sse42 {
  static std::uint32_t word(std::uint32_t state, std::uint64_t value) {
    return static_cast<std::uint32_t>(_mm_crc32_u64(state, value));
  }
  static std::uint32_t byte(std::uint32_t state, std::uint8_t value) { return _mm_crc32_u8(state, value); }
  static std::uint64_t clmul(std::uint32_t a, std::uint32_t b) {
    const __m128i product =
        _mm_clmulepi64_si128(_mm_cvtsi32_si128(static_cast<int>(a)), _mm_cvtsi32_si128(static_cast<int>(b)), 0);
    return static_cast<std::uint64_t>(_mm_cvtsi128_si64(product));
  }
};

}  // namespace

std::uint32_t crc32c_sse42(std::uint32_t state, const std::byte* data, std::size_t size) {
  return crc32c_three_way<Sse42>(state, data, size);
}

}  // namespace ostraca
