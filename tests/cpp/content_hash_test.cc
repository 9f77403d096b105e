#include "checksum/content_hash.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "checksum/content_hash_kernels.h"

namespace ostraca {
namespace {

std::string hex(const ContentHash& hash) {
  std::string text;
  for (std::byte b : hash) {
    text += "0123456789abcdef"[static_cast<unsigned>(b) >> 4];
    text += "0123456789abcdef"[static_cast<unsigned>(b) & 15];
  }
  return text;
}

std::vector<std::byte> counting_bytes(std::size_t size) {
  std::vector<std::byte> data(size);
  for (std::size_t i = 0; i < size; ++i) data[i] = static_cast<std::byte>(i * 7 % 251);
  return data;
}

// What `xxhsum -H128` 0.8.1 prints for these bytes.
TEST(ContentHash, KnownVectors) {
  EXPECT_EQ(hex(content_hash({})), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(hex(content_hash(as_bytes("a"))), "a96faf705af16834e6c632b61e964e1f");
  EXPECT_EQ(hex(content_hash(as_bytes("Nobody inspects the spammish repetition"))), "a32c6f55b80b5f449f1a957522431b91");
  EXPECT_EQ(hex(content_hash(counting_bytes(200))), "5451071ed36ad47079ad90815b45bbd9");
  EXPECT_EQ(hex(content_hash(counting_bytes(1000))), "5ed35fc6b4f0ef20d1eb8367bf3294e7");
  EXPECT_EQ(hex(content_hash(counting_bytes(100000))), "70227b16fd5f74ef17a701075a95b432");
}

class ContentHashKernelTest : public testing::TestWithParam<ContentHashKernel> {};

TEST_P(ContentHashKernelTest, AgreesWithPortable) {
  std::mt19937_64 random(1);
  std::vector<std::byte> data(1 << 18);
  for (auto& b : data) b = static_cast<std::byte>(random());
  const auto check = [&](std::size_t start, std::size_t size) {
    const Hash128 expected = content_hash_portable(data.data() + start, size);
    const Hash128 actual = GetParam().function(data.data() + start, size);
    ASSERT_TRUE(actual.low == expected.low && actual.high == expected.high) << "start " << start << ", size " << size;
  };
  for (std::size_t start = 0; start < 64; start += 9)
    for (std::size_t size = 0; size <= 1200; ++size) check(start, size);
  for (int i = 0; i < 200; ++i) check(random() % 4096, random() % (data.size() - 4096));
}

INSTANTIATE_TEST_SUITE_P(AllKernels, ContentHashKernelTest,
                         testing::ValuesIn(content_hash_kernels().begin(), content_hash_kernels().end()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace ostraca
