// Every kernel of cpp/transform/delta.h against a reference written from its comment.
#include "transform/delta.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "transform/delta_kernels.h"

namespace ostraca {
namespace {

using Buffer = std::vector<std::byte>;

struct Kernels {
  const char* name;
  delta_kernels::Kernel zigzag;
  delta_kernels::Kernel apply;
  bool usable;
};

std::size_t zigzag_dispatched(const std::byte* in, const std::byte* base, std::size_t count, unsigned width,
                              std::byte* out) {
  zigzag_differences(in, base, count, width, out);
  return count;
}

std::size_t apply_dispatched(const std::byte* in, const std::byte* base, std::size_t count, unsigned width,
                             std::byte* out) {
  apply_differences(in, base, count, width, out);
  return count;
}

std::vector<Kernels> all_kernels() {
  std::vector<Kernels> kernels = {
      {"dispatched", zigzag_dispatched, apply_dispatched, true},
      {"portable", delta_kernels::zigzag_portable, delta_kernels::apply_portable, true},
  };
#if defined(__x86_64__)
  const CpuFeatures& cpu = cpu_features();
  kernels.push_back({"avx2", delta_kernels::zigzag_avx2, delta_kernels::apply_avx2, cpu.avx2});
  kernels.push_back({"avx512", delta_kernels::zigzag_avx512, delta_kernels::apply_avx512, cpu.avx512});
#elif defined(__aarch64__)
  kernels.push_back({"arm64", delta_kernels::zigzag_arm64, delta_kernels::apply_arm64, cpu_features().neon});
#endif
  return kernels;
}

std::uint64_t load_element(const std::byte* p, unsigned width) {
  std::uint64_t x = 0;
  for (unsigned i = width; i-- > 0;) x = (x << 8) | std::to_integer<std::uint64_t>(p[i]);
  return x;
}

// By cases, not by bits: differences of the lower half of the range are positive, the others negative.
std::uint64_t reference(std::uint64_t element, std::uint64_t base, unsigned width) {
  const std::uint64_t mask = ~std::uint64_t{0} >> (64 - 8 * width), half = (mask >> 1) + 1;
  const std::uint64_t d = (element - base) & mask;
  return d < half ? 2 * d : (2 * (mask - d) + 1);
}

Buffer random_bytes(std::size_t size, unsigned seed) {
  std::mt19937 generator(seed);
  Buffer bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(generator());
  return bytes;
}

constexpr std::byte kGuard{0xA5};

class DeltaTest : public testing::TestWithParam<Kernels> {
 protected:
  void SetUp() override {
    if (!GetParam().usable) GTEST_SKIP() << "this machine lacks " << GetParam().name;
  }
};

// A kernel may leave the tail to its caller, but what it claims to have done must be right, and nothing else touched.
void check(const Kernels& kernels, const Buffer& elements, const Buffer& base, std::size_t offset, std::size_t count,
           unsigned width) {
  SCOPED_TRACE(std::string(kernels.name) + " width " + std::to_string(width) + " count " + std::to_string(count) +
               " offset " + std::to_string(offset));
  Buffer z(offset + count * width + 64, kGuard);
  const std::byte *x = elements.data() + offset, *b = base.data() + offset;
  const std::size_t done = kernels.zigzag(x, b, count, width, z.data() + offset);
  ASSERT_LE(done, count);
  for (std::size_t i = 0; i < done; ++i)
    ASSERT_EQ(load_element(z.data() + offset + i * width, width),
              reference(load_element(x + i * width, width), load_element(b + i * width, width), width))
        << "at " << i;
  ASSERT_EQ(std::count(z.begin() + static_cast<std::ptrdiff_t>(offset + done * width), z.end(), kGuard),
            static_cast<std::ptrdiff_t>((count - done) * width + 64));

  // Back, in place.
  Buffer back = z;
  const std::size_t applied = kernels.apply(back.data() + offset, b, done, width, back.data() + offset);
  ASSERT_LE(applied, done);
  ASSERT_TRUE(std::equal(x, x + applied * width, back.data() + offset));
  ASSERT_TRUE(std::equal(back.begin() + static_cast<std::ptrdiff_t>(offset + applied * width), back.end(),
                         z.begin() + static_cast<std::ptrdiff_t>(offset + applied * width)));
}

TEST_P(DeltaTest, EveryShortLengthAndAlignment) {
  const Buffer elements = random_bytes(4000, 1), base = random_bytes(4000, 2);
  for (unsigned width : {1u, 2u, 4u, 8u})
    for (std::size_t count = 0; count <= 300 && !HasFatalFailure(); ++count)
      check(GetParam(), elements, base, count % 67, count, width);
}

TEST_P(DeltaTest, LongOddLength) {
  const Buffer elements = random_bytes(8 * 100003 + 1, 3), base = random_bytes(8 * 100003 + 1, 4);
  for (unsigned width : {1u, 2u, 4u, 8u}) check(GetParam(), elements, base, 1, 100003, width);
}

// Every pair of values at and around the ends and the middle of the range: smallest and largest integers, zeros of
// both signs, infinities.
template <class Word>
void check_extremes(const Kernels& kernels) {
  constexpr Word kLargest = std::numeric_limits<Word>::max(), kMiddle = static_cast<Word>(kLargest / 2);
  std::vector<Word> edges, elements, base;
  for (Word near : {Word{0}, kMiddle, kLargest})
    for (int d = -2; d <= 2; ++d) edges.push_back(static_cast<Word>(near + static_cast<Word>(d)));
  for (Word a : edges)
    for (Word b : edges) elements.push_back(a), base.push_back(b);
  const auto bytes = [](const std::vector<Word>& words) {
    const auto* first = reinterpret_cast<const std::byte*>(words.data());
    return Buffer(first, first + words.size() * sizeof(Word));
  };
  check(kernels, bytes(elements), bytes(base), 0, elements.size(), sizeof(Word));
}

TEST_P(DeltaTest, Extremes) {
  check_extremes<std::uint8_t>(GetParam());
  check_extremes<std::uint16_t>(GetParam());
  check_extremes<std::uint32_t>(GetParam());
  check_extremes<std::uint64_t>(GetParam());
}

TEST_P(DeltaTest, EveryPairOfBytes) {
  Buffer elements, base;
  for (unsigned a = 0; a < 256; ++a)
    for (unsigned b = 0; b < 256; ++b)
      elements.push_back(static_cast<std::byte>(a)), base.push_back(static_cast<std::byte>(b));
  check(GetParam(), elements, base, 0, elements.size(), 1);
}

INSTANTIATE_TEST_SUITE_P(Kernels, DeltaTest, testing::ValuesIn(all_kernels()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(DeltaPlanes, SplitAndMerge) {
  for (unsigned width : {1u, 2u, 4u, 8u})
    for (std::size_t count : {0, 1, 7, 1024, 1025, 4096, 8192, 8193, 50021}) {
      SCOPED_TRACE("width " + std::to_string(width) + " count " + std::to_string(count));
      const Buffer elements = random_bytes(count * width, 5), base = random_bytes(count * width, 6);
      std::vector<Buffer> memory(width, Buffer(count + 64, kGuard));
      std::array<std::byte*, 8> planes{};
      for (unsigned k = 0; k < width; ++k) planes[k] = memory[k].data();
      split_differences(elements.data(), base.data(), count, width, {planes.data(), width});
      for (unsigned k = 0; k < width; ++k) {
        for (std::size_t i = 0; i < count; ++i) {
          const std::uint64_t z = reference(load_element(elements.data() + i * width, width),
                                            load_element(base.data() + i * width, width), width);
          ASSERT_EQ(planes[k][i], static_cast<std::byte>(z >> (8 * k))) << "plane " << k << " at " << i;
        }
        ASSERT_EQ(std::count(memory[k].begin() + static_cast<std::ptrdiff_t>(count), memory[k].end(), kGuard), 64);
      }
      Buffer back(count * width + 64, kGuard);
      const std::array<const std::byte*, 8> sources = {planes[0], planes[1], planes[2], planes[3],
                                                       planes[4], planes[5], planes[6], planes[7]};
      merge_differences({sources.data(), width}, base.data(), count, width, back.data());
      ASSERT_TRUE(std::equal(elements.begin(), elements.end(), back.begin()));
      ASSERT_EQ(std::count(back.begin() + static_cast<std::ptrdiff_t>(count * width), back.end(), kGuard), 64);
    }
}

}  // namespace
}  // namespace ostraca
