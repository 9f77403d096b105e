// Byte planes with NEON: its structure loads and stores are the transform, and rotating an element by one bit means
// carrying each plane's top bit into the next plane.
#include <arm_neon.h>

#include <cstdint>

#include "transform/planes_kernels.h"

namespace ostraca::planes_kernels {
namespace {

constexpr std::size_t kLanes = 16;  // elements per step: one vector of every plane

const std::uint8_t* bytes(const std::byte* p) { return reinterpret_cast<const std::uint8_t*>(p); }
std::uint8_t* bytes(std::byte* p) { return reinterpret_cast<std::uint8_t*>(p); }

// p[k] is plane k; the top bit of the last plane goes to the bottom of the first.
template <unsigned kWidth>
void rotate_left(uint8x16_t* p) {
  const uint8x16_t top = p[kWidth - 1];
  for (unsigned k = kWidth - 1; k > 0; --k) p[k] = vsriq_n_u8(vshlq_n_u8(p[k], 1), p[k - 1], 7);
  p[0] = vsriq_n_u8(vshlq_n_u8(p[0], 1), top, 7);
}

template <unsigned kWidth>
void rotate_right(uint8x16_t* p) {
  const uint8x16_t bottom = p[0];
  for (unsigned k = 0; k + 1 < kWidth; ++k) p[k] = vsliq_n_u8(vshrq_n_u8(p[k], 1), p[k + 1], 7);
  p[kWidth - 1] = vsliq_n_u8(vshrq_n_u8(p[kWidth - 1], 1), bottom, 7);
}

void load_planes2(const std::byte* in, uint8x16_t* p) {
  const uint8x16x2_t v = vld2q_u8(bytes(in));
  p[0] = v.val[0], p[1] = v.val[1];
}

void load_planes4(const std::byte* in, uint8x16_t* p) {
  const uint8x16x4_t v = vld4q_u8(bytes(in));
  p[0] = v.val[0], p[1] = v.val[1], p[2] = v.val[2], p[3] = v.val[3];
}

// Two four-way loads give byte k of the eight-byte elements' low halves in even places and byte k + 4 in odd ones.
void load_planes8(const std::byte* in, uint8x16_t* p) {
  const uint8x16x4_t a = vld4q_u8(bytes(in)), b = vld4q_u8(bytes(in) + 64);
  for (unsigned k = 0; k < 4; ++k) {
    p[k] = vuzp1q_u8(a.val[k], b.val[k]);
    p[k + 4] = vuzp2q_u8(a.val[k], b.val[k]);
  }
}

void store_elements2(std::byte* out, const uint8x16_t* p) {
  uint8x16x2_t v;
  v.val[0] = p[0], v.val[1] = p[1];
  vst2q_u8(bytes(out), v);
}

void store_elements4(std::byte* out, const uint8x16_t* p) {
  uint8x16x4_t v;
  v.val[0] = p[0], v.val[1] = p[1], v.val[2] = p[2], v.val[3] = p[3];
  vst4q_u8(bytes(out), v);
}

void store_elements8(std::byte* out, const uint8x16_t* p) {
  uint8x16x4_t a, b;
  for (unsigned k = 0; k < 4; ++k) {
    a.val[k] = vzip1q_u8(p[k], p[k + 4]);
    b.val[k] = vzip2q_u8(p[k], p[k + 4]);
  }
  vst4q_u8(bytes(out), a);
  vst4q_u8(bytes(out) + 64, b);
}

template <unsigned kWidth>
std::size_t split(const std::byte* in, std::size_t count, bool rotate, std::byte* const* planes) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    uint8x16_t p[kWidth];
    if constexpr (kWidth == 2) load_planes2(in + kWidth * i, p);
    if constexpr (kWidth == 4) load_planes4(in + kWidth * i, p);
    if constexpr (kWidth == 8) load_planes8(in + kWidth * i, p);
    if (rotate) rotate_left<kWidth>(p);
    for (unsigned k = 0; k < kWidth; ++k) vst1q_u8(bytes(planes[k] + i), p[k]);
  }
  return i;
}

template <unsigned kWidth>
std::size_t merge(const std::byte* const* planes, std::size_t count, bool rotate, std::byte* out) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    uint8x16_t p[kWidth];
    for (unsigned k = 0; k < kWidth; ++k) p[k] = vld1q_u8(bytes(planes[k] + i));
    if (rotate) rotate_right<kWidth>(p);
    if constexpr (kWidth == 2) store_elements2(out + kWidth * i, p);
    if constexpr (kWidth == 4) store_elements4(out + kWidth * i, p);
    if constexpr (kWidth == 8) store_elements8(out + kWidth * i, p);
  }
  return i;
}

}  // namespace

std::size_t split_arm64(const std::byte* elements, std::size_t count, unsigned width, bool rotate,
                        std::byte* const* planes) {
  switch (width) {
    case 2:
      return split<2>(elements, count, rotate, planes);
    case 4:
      return split<4>(elements, count, rotate, planes);
    case 8:
      return split<8>(elements, count, rotate, planes);
  }
  return 0;
}

std::size_t merge_arm64(const std::byte* const* planes, std::size_t count, unsigned width, bool rotate,
                        std::byte* elements) {
  switch (width) {
    case 2:
      return merge<2>(planes, count, rotate, elements);
    case 4:
      return merge<4>(planes, count, rotate, elements);
    case 8:
      return merge<8>(planes, count, rotate, elements);
  }
  return 0;
}

}  // namespace ostraca::planes_kernels
