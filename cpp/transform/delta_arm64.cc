// Zigzagged differences with NEON.
#include <arm_neon.h>

#include <cstdint>

#include "transform/delta_kernels.h"

namespace ostraca::delta_kernels {
namespace {

constexpr std::size_t kVectorBytes = 16;

// All take and give bytes: vectors of every width are loaded alike.
template <unsigned kWidth>
uint8x16_t zigzag(uint8x16_t element, uint8x16_t base) {
  if constexpr (kWidth == 1) {
    const int8x16_t d = vreinterpretq_s8_u8(vsubq_u8(element, base));
    return vreinterpretq_u8_s8(veorq_s8(vshlq_n_s8(d, 1), vshrq_n_s8(d, 7)));
  } else if constexpr (kWidth == 2) {
    const int16x8_t d = vsubq_s16(vreinterpretq_s16_u8(element), vreinterpretq_s16_u8(base));
    return vreinterpretq_u8_s16(veorq_s16(vshlq_n_s16(d, 1), vshrq_n_s16(d, 15)));
  } else if constexpr (kWidth == 4) {
    const int32x4_t d = vsubq_s32(vreinterpretq_s32_u8(element), vreinterpretq_s32_u8(base));
    return vreinterpretq_u8_s32(veorq_s32(vshlq_n_s32(d, 1), vshrq_n_s32(d, 31)));
  } else {
    const int64x2_t d = vsubq_s64(vreinterpretq_s64_u8(element), vreinterpretq_s64_u8(base));
    return vreinterpretq_u8_s64(veorq_s64(vshlq_n_s64(d, 1), vshrq_n_s64(d, 63)));
  }
}

// The lowest bit becomes the sign mask by a shift to the top and an arithmetic one back.
template <unsigned kWidth>
uint8x16_t apply(uint8x16_t z, uint8x16_t base) {
  if constexpr (kWidth == 1) {
    const uint8x16_t sign = vreinterpretq_u8_s8(vshrq_n_s8(vreinterpretq_s8_u8(vshlq_n_u8(z, 7)), 7));
    return vaddq_u8(base, veorq_u8(vshrq_n_u8(z, 1), sign));
  } else if constexpr (kWidth == 2) {
    const uint16x8_t w = vreinterpretq_u16_u8(z);
    const uint16x8_t sign = vreinterpretq_u16_s16(vshrq_n_s16(vreinterpretq_s16_u16(vshlq_n_u16(w, 15)), 15));
    return vreinterpretq_u8_u16(vaddq_u16(vreinterpretq_u16_u8(base), veorq_u16(vshrq_n_u16(w, 1), sign)));
  } else if constexpr (kWidth == 4) {
    const uint32x4_t w = vreinterpretq_u32_u8(z);
    const uint32x4_t sign = vreinterpretq_u32_s32(vshrq_n_s32(vreinterpretq_s32_u32(vshlq_n_u32(w, 31)), 31));
    return vreinterpretq_u8_u32(vaddq_u32(vreinterpretq_u32_u8(base), veorq_u32(vshrq_n_u32(w, 1), sign)));
  } else {
    const uint64x2_t w = vreinterpretq_u64_u8(z);
    const uint64x2_t sign = vreinterpretq_u64_s64(vshrq_n_s64(vreinterpretq_s64_u64(vshlq_n_u64(w, 63)), 63));
    return vreinterpretq_u8_u64(vaddq_u64(vreinterpretq_u64_u8(base), veorq_u64(vshrq_n_u64(w, 1), sign)));
  }
}

const std::uint8_t* bytes(const std::byte* p) { return reinterpret_cast<const std::uint8_t*>(p); }
std::uint8_t* bytes(std::byte* p) { return reinterpret_cast<std::uint8_t*>(p); }

template <unsigned kWidth>
std::size_t zigzag_all(const std::byte* in, const std::byte* base, std::size_t size, std::byte* out) {
  std::size_t i = 0;
  for (; i + kVectorBytes <= size; i += kVectorBytes)
    vst1q_u8(bytes(out + i), zigzag<kWidth>(vld1q_u8(bytes(in + i)), vld1q_u8(bytes(base + i))));
  return i / kWidth;
}

template <unsigned kWidth>
std::size_t apply_all(const std::byte* in, const std::byte* base, std::size_t size, std::byte* out) {
  std::size_t i = 0;
  for (; i + kVectorBytes <= size; i += kVectorBytes)
    vst1q_u8(bytes(out + i), apply<kWidth>(vld1q_u8(bytes(in + i)), vld1q_u8(bytes(base + i))));
  return i / kWidth;
}

}  // namespace

std::size_t zigzag_arm64(const std::byte* in, const std::byte* base, std::size_t count, unsigned width,
                         std::byte* out) {
  if (width == 1) return zigzag_all<1>(in, base, count, out);
  if (width == 2) return zigzag_all<2>(in, base, 2 * count, out);
  if (width == 4) return zigzag_all<4>(in, base, 4 * count, out);
  return zigzag_all<8>(in, base, 8 * count, out);
}

std::size_t apply_arm64(const std::byte* in, const std::byte* base, std::size_t count, unsigned width, std::byte* out) {
  if (width == 1) return apply_all<1>(in, base, count, out);
  if (width == 2) return apply_all<2>(in, base, 2 * count, out);
  if (width == 4) return apply_all<4>(in, base, 4 * count, out);
  return apply_all<8>(in, base, 8 * count, out);
}

}  // namespace ostraca::delta_kernels
