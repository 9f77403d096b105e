#include "checksum/crc32c.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "checksum/crc32c_kernels.h"

namespace ostraca {
namespace {

std::vector<std::byte> random_bytes(std::size_t size, unsigned seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(size);
  for (auto& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

class Crc32cKernelTest : public testing::TestWithParam<Crc32cKernel> {
 protected:
  static std::uint32_t crc(Bytes data) { return ~GetParam().update(~0u, data.data(), data.size()); }
};

TEST_P(Crc32cKernelTest, KnownVectors) {
  // RFC 3720, appendix B.4, and the check value of the CRC catalogues.
  std::vector<std::byte> data(32, std::byte{0});
  EXPECT_EQ(crc(data), 0x8A9136AAu);
  std::fill(data.begin(), data.end(), std::byte{0xFF});
  EXPECT_EQ(crc(data), 0x62A8AB43u);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i);
  EXPECT_EQ(crc(data), 0x46DD794Eu);
  std::reverse(data.begin(), data.end());
  EXPECT_EQ(crc(data), 0x113FDB5Cu);
  EXPECT_EQ(crc(as_bytes("123456789")), 0xE3069283u);
  EXPECT_EQ(crc({}), 0u);
}

TEST_P(Crc32cKernelTest, AgreesWithPortableAtEverySmallLengthAndAlignment) {
  const auto data = random_bytes(1024 + 64, 1);
  for (std::size_t start = 0; start < 64; start += start < 16 ? 1 : 7)
    for (std::size_t size = 0; size <= 1024; ++size)
      ASSERT_EQ(GetParam().update(0x12345678u, data.data() + start, size),
                crc32c_portable(0x12345678u, data.data() + start, size))
          << "start " << start << ", size " << size;
}

TEST_P(Crc32cKernelTest, AgreesWithPortableOnLargeOnes) {
  const auto data = random_bytes(1 << 20, 2);
  std::mt19937 random(3);
  for (int i = 0; i < 100; ++i) {
    const std::size_t start = random() % 4096, size = random() % (data.size() - 4096);
    const auto state = static_cast<std::uint32_t>(random());
    ASSERT_EQ(GetParam().update(state, data.data() + start, size), crc32c_portable(state, data.data() + start, size))
        << "start " << start << ", size " << size;
  }
}

TEST_P(Crc32cKernelTest, ContinuesWhereItStopped) {
  const auto data = random_bytes(20000, 4);
  const std::uint32_t whole = GetParam().update(~0u, data.data(), data.size());
  for (std::size_t cut = 0; cut <= data.size(); cut += 37) {
    const std::uint32_t head = GetParam().update(~0u, data.data(), cut);
    ASSERT_EQ(GetParam().update(head, data.data() + cut, data.size() - cut), whole) << "cut " << cut;
  }
}

INSTANTIATE_TEST_SUITE_P(AllKernels, Crc32cKernelTest,
                         testing::ValuesIn(crc32c_kernels().begin(), crc32c_kernels().end()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Crc32c, ContinuesFromAnEarlierCrc) {
  const auto data = random_bytes(5000, 5);
  const Bytes all(data);
  for (std::size_t cut : {0u, 1u, 63u, 2500u, 5000u})
    EXPECT_EQ(crc32c(all.subspan(cut), crc32c(all.first(cut))), crc32c(all)) << "cut " << cut;
}

TEST(Crc32c, EveryFlippedBitShows) {
  auto data = random_bytes(300, 6);
  const std::uint32_t good = crc32c(data);
  for (std::size_t bit = 0; bit < 8 * data.size(); ++bit) {
    const auto mask = static_cast<std::byte>(1u << bit % 8);
    data[bit / 8] ^= mask;
    EXPECT_NE(crc32c(data), good) << "bit " << bit;
    data[bit / 8] ^= mask;
  }
}

TEST(Crc32cCombine, IsTheCrcOfTheConcatenation) {
  const auto data = random_bytes(1 << 17, 7);
  const Bytes all(data);
  std::mt19937 random(8);
  for (int i = 0; i < 200; ++i) {
    const std::size_t size = random() % (all.size() + 1), cut = random() % (size + 1);
    const Bytes whole = all.first(size);
    ASSERT_EQ(crc32c_combine(crc32c(whole.first(cut)), crc32c(whole.subspan(cut)), size - cut), crc32c(whole))
        << "size " << size << ", cut " << cut;
  }
}

TEST(Crc32cCombine, EmptyEnds) {
  EXPECT_EQ(crc32c_combine(0xDEADBEEFu, 0, 0), 0xDEADBEEFu);
  EXPECT_EQ(crc32c_combine(0, 0xDEADBEEFu, 12345), 0xDEADBEEFu);
}

TEST(Crc32cCombine, IsAssociativeAtLengthsNoTestCouldStore) {
  const std::uint32_t a = 0x01234567, b = 0x89ABCDEF, c = 0x0F1E2D3C;
  const std::uint64_t length_b = (1ull << 40) + 12345, length_c = (1ull << 62) + 678;
  EXPECT_EQ(crc32c_combine(crc32c_combine(a, b, length_b), c, length_c),
            crc32c_combine(a, crc32c_combine(b, c, length_c), length_b + length_c));
}

}  // namespace
}  // namespace ostraca
