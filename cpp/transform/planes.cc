#include "transform/planes.h"

#include <array>
#include <cstdint>
#include <cstring>

#include "base/cpu.h"
#include "transform/planes_kernels.h"

namespace ostraca {
namespace planes_kernels {
namespace {

template <class Word>
Word rotate_left(Word x) {
  return static_cast<Word>((x << 1) | (x >> (8 * sizeof(Word) - 1)));
}

template <class Word>
Word rotate_right(Word x) {
  return static_cast<Word>((x >> 1) | (x << (8 * sizeof(Word) - 1)));
}

// The planes' addresses are copied first: a store of bytes might otherwise change them, for all a compiler knows.
template <class Word, bool kRotate>
void split(const std::byte* __restrict elements, std::size_t count, std::byte* const* planes_in) {
  constexpr unsigned kWidth = sizeof(Word);
  std::byte* planes[kWidth];
  for (unsigned k = 0; k < kWidth; ++k) planes[k] = planes_in[k];
  for (std::size_t i = 0; i < count; ++i) {
    Word x;
    std::memcpy(&x, elements + i * kWidth, kWidth);
    if constexpr (kRotate) x = rotate_left(x);
    for (unsigned k = 0; k < kWidth; ++k) planes[k][i] = static_cast<std::byte>(x >> (8 * k));
  }
}

template <class Word, bool kRotate>
void merge(const std::byte* const* planes_in, std::size_t count, std::byte* __restrict elements) {
  constexpr unsigned kWidth = sizeof(Word);
  const std::byte* planes[kWidth];
  for (unsigned k = 0; k < kWidth; ++k) planes[k] = planes_in[k];
  for (std::size_t i = 0; i < count; ++i) {
    Word x = 0;
    for (unsigned k = 0; k < kWidth; ++k) x = static_cast<Word>(x | static_cast<Word>(planes[k][i]) << (8 * k));
    if constexpr (kRotate) x = rotate_right(x);
    std::memcpy(elements + i * kWidth, &x, kWidth);
  }
}

}  // namespace

std::size_t split_portable(const std::byte* elements, std::size_t count, unsigned width, bool rotate,
                           std::byte* const* planes) {
  switch (width) {
    case 1:
      rotate ? split<std::uint8_t, true>(elements, count, planes) : split<std::uint8_t, false>(elements, count, planes);
      break;
    case 2:
      rotate ? split<std::uint16_t, true>(elements, count, planes)
             : split<std::uint16_t, false>(elements, count, planes);
      break;
    case 4:
      rotate ? split<std::uint32_t, true>(elements, count, planes)
             : split<std::uint32_t, false>(elements, count, planes);
      break;
    case 8:
      rotate ? split<std::uint64_t, true>(elements, count, planes)
             : split<std::uint64_t, false>(elements, count, planes);
      break;
  }
  return count;
}

std::size_t merge_portable(const std::byte* const* planes, std::size_t count, unsigned width, bool rotate,
                           std::byte* elements) {
  switch (width) {
    case 1:
      rotate ? merge<std::uint8_t, true>(planes, count, elements) : merge<std::uint8_t, false>(planes, count, elements);
      break;
    case 2:
      rotate ? merge<std::uint16_t, true>(planes, count, elements)
             : merge<std::uint16_t, false>(planes, count, elements);
      break;
    case 4:
      rotate ? merge<std::uint32_t, true>(planes, count, elements)
             : merge<std::uint32_t, false>(planes, count, elements);
      break;
    case 8:
      rotate ? merge<std::uint64_t, true>(planes, count, elements)
             : merge<std::uint64_t, false>(planes, count, elements);
      break;
  }
  return count;
}

}  // namespace planes_kernels

namespace {

planes_kernels::SplitKernel pick_split() {
#if defined(__x86_64__)
  if (cpu_features().avx512) return planes_kernels::split_avx512;
  if (cpu_features().avx2) return planes_kernels::split_avx2;
#elif defined(__aarch64__)
  if (cpu_features().neon) return planes_kernels::split_arm64;
#endif
  return planes_kernels::split_portable;
}

planes_kernels::MergeKernel pick_merge() {
#if defined(__x86_64__)
  if (cpu_features().avx512) return planes_kernels::merge_avx512;
  if (cpu_features().avx2) return planes_kernels::merge_avx2;
#elif defined(__aarch64__)
  if (cpu_features().neon) return planes_kernels::merge_arm64;
#endif
  return planes_kernels::merge_portable;
}

}  // namespace

void split_planes(const std::byte* elements, std::size_t count, unsigned width, bool rotate,
                  std::span<std::byte* const> planes) {
  if (count == 0) return;
  if (width == 1 && !rotate) {
    std::memcpy(planes[0], elements, count);
    return;
  }
  static const planes_kernels::SplitKernel kernel = pick_split();
  const std::size_t done = kernel(elements, count, width, rotate, planes.data());
  if (done == count) return;
  std::array<std::byte*, 8> rest{};
  for (unsigned k = 0; k < width; ++k) rest[k] = planes[k] + done;
  planes_kernels::split_portable(elements + done * width, count - done, width, rotate, rest.data());
}

void merge_planes(std::span<const std::byte* const> planes, std::size_t count, unsigned width, bool rotate,
                  std::byte* elements) {
  if (count == 0) return;
  if (width == 1 && !rotate) {
    std::memcpy(elements, planes[0], count);
    return;
  }
  static const planes_kernels::MergeKernel kernel = pick_merge();
  const std::size_t done = kernel(planes.data(), count, width, rotate, elements);
  if (done == count) return;
  std::array<const std::byte*, 8> rest{};
  for (unsigned k = 0; k < width; ++k) rest[k] = planes[k] + done;
  planes_kernels::merge_portable(rest.data(), count - done, width, rotate, elements + done * width);
}

}  // namespace ostraca
