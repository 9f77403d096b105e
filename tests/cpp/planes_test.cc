// Every kernel of cpp/transform/planes.h against a reference written from its comment.
#include "transform/planes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "transform/planes_kernels.h"

namespace ostraca {
namespace {

using planes_kernels::MergeKernel;
using planes_kernels::SplitKernel;

struct Kernels {
  const char* name;
  SplitKernel split;
  MergeKernel merge;
  bool usable;
};

std::size_t split_dispatched(const std::byte* elements, std::size_t count, unsigned width, bool rotate,
                             std::byte* const* planes) {
  split_planes(elements, count, width, rotate, {planes, width});
  return count;
}

std::size_t merge_dispatched(const std::byte* const* planes, std::size_t count, unsigned width, bool rotate,
                             std::byte* elements) {
  merge_planes({planes, width}, count, width, rotate, elements);
  return count;
}

std::vector<Kernels> all_kernels() {
  std::vector<Kernels> kernels = {
      {"dispatched", split_dispatched, merge_dispatched, true},
      {"portable", planes_kernels::split_portable, planes_kernels::merge_portable, true},
  };
#if defined(__x86_64__)
  const CpuFeatures& cpu = cpu_features();
  kernels.push_back({"avx2", planes_kernels::split_avx2, planes_kernels::merge_avx2, cpu.avx2});
  kernels.push_back({"avx512", planes_kernels::split_avx512, planes_kernels::merge_avx512, cpu.avx512});
#elif defined(__aarch64__)
  kernels.push_back({"arm64", planes_kernels::split_arm64, planes_kernels::merge_arm64, cpu_features().neon});
#endif
  return kernels;
}

std::byte reference_byte(const std::byte* element, unsigned width, bool rotate, unsigned k) {
  std::uint64_t x = 0;
  for (unsigned i = width; i-- > 0;) x = (x << 8) | std::to_integer<std::uint64_t>(element[i]);
  if (rotate) x = (x << 1) | (x >> (8 * width - 1));
  return static_cast<std::byte>(x >> (8 * k));
}

std::vector<std::byte> random_bytes(std::size_t size, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(generator());
  return bytes;
}

class PlanesTest : public testing::TestWithParam<Kernels> {
 protected:
  void SetUp() override {
    if (!GetParam().usable) GTEST_SKIP() << "this machine lacks " << GetParam().name;
  }
};

constexpr std::byte kGuard{0xA5};

// A kernel may leave the tail to its caller, but what it claims to have done must be right, and nothing else touched.
void check(const Kernels& kernels, std::size_t count, unsigned width, bool rotate, std::size_t misalign) {
  SCOPED_TRACE(std::string(kernels.name) + " width " + std::to_string(width) + " count " + std::to_string(count) +
               (rotate ? " rotated" : "") + " offset " + std::to_string(misalign));
  const std::vector<std::byte> source = random_bytes(misalign + count * width, static_cast<unsigned>(count + width));
  const std::byte* const elements = source.data() + misalign;
  std::vector<std::vector<std::byte>> memory(width, std::vector<std::byte>(misalign + count + 64, kGuard));
  std::array<std::byte*, 8> planes{};
  for (unsigned k = 0; k < width; ++k) planes[k] = memory[k].data() + misalign;

  const std::size_t split = kernels.split(elements, count, width, rotate, planes.data());
  ASSERT_LE(split, count);
  for (unsigned k = 0; k < width; ++k) {
    for (std::size_t i = 0; i < split; ++i)
      ASSERT_EQ(planes[k][i], reference_byte(elements + i * width, width, rotate, k)) << "plane " << k << " at " << i;
    for (std::size_t i = split; i < count + 64; ++i) ASSERT_EQ(planes[k][i], kGuard) << "plane " << k << " at " << i;
    for (std::size_t i = split; i < count; ++i) planes[k][i] = reference_byte(elements + i * width, width, rotate, k);
  }

  std::vector<std::byte> back(misalign + count * width + 64, kGuard);
  const std::size_t merged = kernels.merge(planes.data(), count, width, rotate, back.data() + misalign);
  ASSERT_LE(merged, count);
  ASSERT_TRUE(std::equal(elements, elements + merged * width, back.data() + misalign));
  for (std::size_t i = misalign + merged * width; i < back.size(); ++i) ASSERT_EQ(back[i], kGuard) << "at " << i;
}

TEST_P(PlanesTest, EveryShortLength) {
  for (unsigned width : {1u, 2u, 4u, 8u})
    for (bool rotate : {false, true})
      for (std::size_t count = 0; count <= 300 && !HasFatalFailure(); ++count)
        check(GetParam(), count, width, rotate, count % 3);
}

TEST_P(PlanesTest, EveryAlignment) {
  for (unsigned width : {1u, 2u, 4u, 8u})
    for (bool rotate : {false, true})
      for (std::size_t offset = 0; offset < 64 && !HasFatalFailure(); ++offset)
        check(GetParam(), 200, width, rotate, offset);
}

TEST_P(PlanesTest, LongOddLength) {
  for (unsigned width : {1u, 2u, 4u, 8u})
    for (bool rotate : {false, true}) check(GetParam(), 100003, width, rotate, 1);
}

INSTANTIATE_TEST_SUITE_P(Kernels, PlanesTest, testing::ValuesIn(all_kernels()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(PlanesExample, RotationPutsTheExponentOnTop) {
  const float value = -1.0f;  // 0xBF800000: sign 1, exponent 127, mantissa 0
  std::array<std::byte, 4> bytes{};
  std::array<std::byte*, 4> planes = {&bytes[0], &bytes[1], &bytes[2], &bytes[3]};
  split_planes(reinterpret_cast<const std::byte*>(&value), 1, 4, true, planes);
  EXPECT_EQ(bytes, (std::array<std::byte, 4>{std::byte{1}, std::byte{0}, std::byte{0}, std::byte{127}}));
}

}  // namespace
}  // namespace ostraca
