#include "transform/delta.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "base/cpu.h"
#include "base/stream_copy.h"
#include "transform/delta_kernels.h"
#include "transform/planes.h"

namespace ostraca {
namespace delta_kernels {
namespace {

template <class Word>
void zigzag(const std::byte* in, const std::byte* base, std::size_t count, std::byte* out) {
  for (std::size_t i = 0; i < count; ++i) {
    Word x, b;
    std::memcpy(&x, in + i * sizeof(Word), sizeof x);
    std::memcpy(&b, base + i * sizeof(Word), sizeof b);
    const Word d = static_cast<Word>(x - b);
    const Word sign = static_cast<Word>(d >> (8 * sizeof(Word) - 1));
    const Word z = static_cast<Word>(static_cast<Word>(d << 1) ^ static_cast<Word>(Word{0} - sign));
    std::memcpy(out + i * sizeof(Word), &z, sizeof z);
  }
}

template <class Word>
void apply(const std::byte* in, const std::byte* base, std::size_t count, std::byte* out) {
  for (std::size_t i = 0; i < count; ++i) {
    Word z, b;
    std::memcpy(&z, in + i * sizeof(Word), sizeof z);
    std::memcpy(&b, base + i * sizeof(Word), sizeof b);
    const Word d = static_cast<Word>((z >> 1) ^ static_cast<Word>(Word{0} - (z & Word{1})));
    const Word x = static_cast<Word>(b + d);
    std::memcpy(out + i * sizeof(Word), &x, sizeof x);
  }
}

}  // namespace

std::size_t zigzag_portable(const std::byte* in, const std::byte* base, std::size_t count, unsigned width,
                            std::byte* out) {
  if (width == 1) zigzag<std::uint8_t>(in, base, count, out);
  if (width == 2) zigzag<std::uint16_t>(in, base, count, out);
  if (width == 4) zigzag<std::uint32_t>(in, base, count, out);
  if (width == 8) zigzag<std::uint64_t>(in, base, count, out);
  return count;
}

std::size_t apply_portable(const std::byte* in, const std::byte* base, std::size_t count, unsigned width,
                           std::byte* out) {
  if (width == 1) apply<std::uint8_t>(in, base, count, out);
  if (width == 2) apply<std::uint16_t>(in, base, count, out);
  if (width == 4) apply<std::uint32_t>(in, base, count, out);
  if (width == 8) apply<std::uint64_t>(in, base, count, out);
  return count;
}

}  // namespace delta_kernels

namespace {

// Differences pass from one kernel to the next in pieces that stay in the L1 cache beside what they are made of and
// what becomes of them. Entropy coding takes twenty times as long, so kernels that do both would gain nothing.
constexpr std::size_t kPieceBytes = 4096;

delta_kernels::Kernel pick_zigzag() {
#if defined(__x86_64__)
  if (cpu_features().avx512) return delta_kernels::zigzag_avx512;
  if (cpu_features().avx2) return delta_kernels::zigzag_avx2;
#elif defined(__aarch64__)
  if (cpu_features().neon) return delta_kernels::zigzag_arm64;
#endif
  return delta_kernels::zigzag_portable;
}

delta_kernels::Kernel pick_apply() {
#if defined(__x86_64__)
  if (cpu_features().avx512) return delta_kernels::apply_avx512;
  if (cpu_features().avx2) return delta_kernels::apply_avx2;
#elif defined(__aarch64__)
  if (cpu_features().neon) return delta_kernels::apply_arm64;
#endif
  return delta_kernels::apply_portable;
}

}  // namespace

void zigzag_differences(const std::byte* elements, const std::byte* base, std::size_t count, unsigned width,
                        std::byte* differences) {
  static const delta_kernels::Kernel kernel = pick_zigzag();
  const std::size_t done = kernel(elements, base, count, width, differences), at = done * width;
  delta_kernels::zigzag_portable(elements + at, base + at, count - done, width, differences + at);
}

void apply_differences(const std::byte* differences, const std::byte* base, std::size_t count, unsigned width,
                       std::byte* elements) {
  static const delta_kernels::Kernel kernel = pick_apply();
  const std::size_t done = kernel(differences, base, count, width, elements), at = done * width;
  delta_kernels::apply_portable(differences + at, base + at, count - done, width, elements + at);
}

void split_differences(const std::byte* elements, const std::byte* base, std::size_t count, unsigned width,
                       std::span<std::byte* const> planes) {
  if (width == 1) return zigzag_differences(elements, base, count, 1, planes[0]);
  alignas(64) std::byte piece[kPieceBytes];
  std::array<std::byte*, 8> targets{};
  for (std::size_t done = 0; done < count;) {
    const std::size_t n = std::min(kPieceBytes / width, count - done), at = done * width;
    zigzag_differences(elements + at, base + at, n, width, piece);
    for (unsigned k = 0; k < width; ++k) targets[k] = planes[k] + done;
    split_planes(piece, n, width, false, {targets.data(), width});
    done += n;
  }
}

// Elements go past the caches, which are full of what they are made from.
void merge_differences(std::span<const std::byte* const> planes, const std::byte* base, std::size_t count,
                       unsigned width, std::byte* elements) {
  if (width == 1) return apply_differences(planes[0], base, count, 1, elements);
  alignas(64) std::byte piece[kPieceBytes];
  std::array<const std::byte*, 8> sources{};
  for (std::size_t done = 0; done < count;) {
    const std::size_t n = std::min(kPieceBytes / width, count - done), at = done * width;
    for (unsigned k = 0; k < width; ++k) sources[k] = planes[k] + done;
    merge_planes({sources.data(), width}, n, width, false, piece);
    apply_differences(piece, base + at, n, width, piece);
    stream_piece(elements + at, piece, n * width);
    done += n;
  }
  stream_fence();
}

}  // namespace ostraca
