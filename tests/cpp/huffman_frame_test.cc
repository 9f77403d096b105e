// Our own Huffman-only frames: standard ones that libzstd decodes as our decoder does, of libzstd's size, alike from
// every kernel.
#include "codec/huffman_frame.h"

#include <gtest/gtest.h>

#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/cpu.h"
#include "base/limits.h"
#include "codec/huffman_frame_decoder.h"
#include "codec/huffman_tree.h"

namespace ostraca {
namespace {

using Buffer = std::vector<std::byte>;
using huffman_kernels::Kernels;

constexpr std::byte kGuard{0xA5};
constexpr std::size_t kBlock = HuffmanFrameEncoder::kBlockBytes;

struct Named {
  const char* name;
  Kernels kernels;
  bool usable;
};

const std::vector<Named>& all_kernels() {
  static const std::vector<Named> kernels = [] {
    std::vector<Named> k = {{"portable", {}, true}};
#if defined(__x86_64__)
    using namespace huffman_kernels;
    k.push_back({"avx2", {encode_avx2, presence_portable}, cpu_features().avx2});
    k.push_back({"avx512", {encode_avx512, presence_avx512}, cpu_features().avx512});
#endif
    return k;
  }();
  return kernels;
}

// The frame of every usable kernel, which must be one and the same, decode, and leave what is behind it alone.
Buffer frame_of(const Buffer& data) {
  static std::vector<std::unique_ptr<HuffmanFrameEncoder>> encoders;
  if (encoders.empty())
    for (const Named& k : all_kernels())
      if (k.usable) encoders.push_back(std::make_unique<HuffmanFrameEncoder>(k.kernels));
  Buffer first;
  for (const auto& encoder : encoders) {
    const std::size_t room = data.size() + data.size() / 256 + 64;
    Buffer out(room + 256, kGuard);
    const std::size_t size = encoder->encode(data, MutableBytes(out).first(room));
    EXPECT_GT(size, 0u);
    EXPECT_TRUE(std::all_of(out.begin() + static_cast<std::ptrdiff_t>(room), out.end(),
                            [](std::byte b) { return b == kGuard; }));
    out.resize(size);
    if (&encoder == &encoders.front())
      first = out;
    else
      EXPECT_TRUE(out == first) << "kernels differ";
  }
  EXPECT_EQ(ZSTD_getFrameContentSize(first.data(), first.size()), data.size());
  EXPECT_EQ(ZSTD_findFrameCompressedSize(first.data(), first.size()), first.size());
  Buffer back(data.size() + 1, kGuard);
  const std::size_t decoded = ZSTD_decompress(back.data(), data.size(), first.data(), first.size());
  EXPECT_FALSE(ZSTD_isError(decoded)) << ZSTD_getErrorName(decoded);
  EXPECT_EQ(decoded, data.size());
  EXPECT_EQ(back.back(), kGuard);
  back.resize(data.size());
  EXPECT_TRUE(back == data);
  static HuffmanFrameDecoder decoder;
  Buffer ours(data.size() + 64, kGuard);
  EXPECT_TRUE(decoder.decode(first, MutableBytes(ours).first(data.size())));
  EXPECT_TRUE(std::equal(data.begin(), data.end(), ours.begin()));
  EXPECT_EQ(std::count(ours.end() - 64, ours.end(), kGuard), 64);
  return first;
}

// What libzstd makes of the same: one "sequence" of literals for each block.
std::size_t libzstd_bytes(const Buffer& data) {
  const std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context(ZSTD_createCCtx(), ZSTD_freeCCtx);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_literalCompressionMode, ZSTD_ps_enable);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_blockDelimiters, ZSTD_sf_explicitBlockDelimiters);
  std::vector<ZSTD_Sequence> blocks;
  for (std::size_t at = 0; at < data.size(); at += kBlock)
    blocks.push_back({0, static_cast<unsigned>(std::min(kBlock, data.size() - at)), 0, 0});
  Buffer out(ZSTD_compressBound(data.size()));
  const std::size_t size = ZSTD_compressSequences(context.get(), out.data(), out.size(), blocks.data(), blocks.size(),
                                                  data.data(), data.size());
  EXPECT_FALSE(ZSTD_isError(size)) << ZSTD_getErrorName(size);
  return size;
}

void expect_size(const Buffer& data, double tolerance = 0.002) {
  const auto ours = static_cast<double>(frame_of(data).size()), theirs = static_cast<double>(libzstd_bytes(data));
  EXPECT_LE(ours, theirs * (1 + tolerance) + 32) << "libzstd: " << theirs;
}

template <class Next>
Buffer generate(std::size_t size, Next next) {
  Buffer data(size);
  for (std::byte& b : data) b = static_cast<std::byte>(next());
  return data;
}

// The plane that this is all about: sign apart, the exponents of normally distributed floats.
Buffer exponents(std::size_t size, float sigma, unsigned seed = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, sigma);
  return generate(size, [&] { return std::clamp(std::ilogb(normal(generator)) + 127, 0, 255); });
}

Buffer noise(std::size_t size, unsigned symbols, unsigned seed = 1) {
  std::mt19937 generator(seed);
  return generate(size, [&] { return generator() % symbols; });
}

// Symbols by random weights of a kind: flat, geometric, of a few heavy ones, on a few scattered symbols.
Buffer skewed(std::size_t size, unsigned seed) {
  std::mt19937 generator(seed);
  const unsigned symbols = 1 + generator() % 256, kind = generator() % 4, stride = 1 + generator() % 7;
  std::vector<double> weights(256);
  double weight = 1;
  const double ratio = 0.3 + 0.7 * std::generate_canonical<double, 32>(generator);
  for (unsigned i = 0; i < symbols; ++i, weight *= ratio) {
    const double random = std::generate_canonical<double, 32>(generator);
    weights[i * stride % 256] += kind == 0   ? 1
                                 : kind == 1 ? weight
                                 : kind == 2 ? std::pow(random, 12)
                                             : weight + random;
  }
  std::discrete_distribution<unsigned> distribution(weights.begin(), weights.end());
  return generate(size, [&] { return distribution(generator); });
}

TEST(HuffmanFrame, SizesOfExponentPlanes) {
  for (float sigma : {0.02f, 1.0f, 1e-6f, 300.0f})
    for (std::size_t size : {kMiB, 2 * kMiB, kMiB / 4 + 17, std::size_t{10000}})
      expect_size(exponents(size, sigma), 0.001);
}

TEST(HuffmanFrame, SizesOfOtherPlanes) {
  for (unsigned symbols : {2u, 3u, 17u, 100u, 129u, 200u, 256u}) expect_size(noise(kMiB, symbols));
  for (unsigned seed = 0; seed < 40; ++seed) expect_size(skewed(seed % 2 ? kMiB / 2 : 100 * kKiB, seed));
}

TEST(HuffmanFrame, EverySmallSize) {
  for (std::size_t size = 0; size <= 3000 && !HasFailure(); size += size < 1100 ? 1 : 37) {
    frame_of(exponents(size, 0.02f));
    frame_of(noise(size, 256));
    frame_of(noise(size, 2));
    frame_of(Buffer(size, std::byte{7}));
  }
}

TEST(HuffmanFrame, SizesAroundItsLimits) {
  for (std::size_t limit : {255ul, 256ul, 1023ul, 16383ul, 65791ul, kBlock, 2 * kBlock, kChunkBytesMax - 1})
    for (std::size_t size : {limit - 1, limit, limit + 1}) {
      frame_of(exponents(size, 0.02f));
      frame_of(noise(size, 140));
    }
}

TEST(HuffmanFrame, ConstantAndNearlyConstant) {
  for (std::size_t size : {std::size_t{1}, kBlock, kBlock + 1, kChunkBytesMax}) {
    Buffer data(size, std::byte{200});
    EXPECT_LE(frame_of(data).size(), 12 + 4 * 33u);
    data[size / 2] = std::byte{3};
    frame_of(data);
    data.back() = std::byte{0};
    frame_of(data);
  }
}

// Every count doubles, so that an unlimited code would be 30 bits long.
TEST(HuffmanFrame, LengthsAreLimited) {
  for (unsigned first : {0u, 100u, 226u}) {
    Buffer data;
    for (unsigned k = 0; k < 20; ++k) data.insert(data.end(), std::size_t{1} << k, static_cast<std::byte>(first + k));
    for (unsigned k = 20; k < 30; ++k) data.push_back(static_cast<std::byte>(first + k));
    std::shuffle(data.begin(), data.end(), std::mt19937(first));
    expect_size(data);
  }
}

// A plane of several kinds: each block in its own way, and trees that come back.
TEST(HuffmanFrame, ChangingData) {
  Buffer data;
  for (unsigned i = 0; i < 16; ++i) {
    const Buffer kinds[] = {exponents(kBlock, 0.02f, i), noise(kBlock, 256, i), Buffer(kBlock, std::byte{9}),
                            exponents(kBlock, 1e6f, i),  skewed(kBlock, i),     noise(kBlock, 3, i)};
    const Buffer& kind = kinds[i * 5 / 3 % 6];
    data.insert(data.end(), kind.begin(), kind.end());
  }
  expect_size(data);
  data.erase(data.begin(), data.begin() + 777);  // the kinds no longer end where blocks do
  expect_size(data, 0.02);
}

// What no sample sees still gets a code.
TEST(HuffmanFrame, OneRareSymbolAnywhere) {
  Buffer data = exponents(kBlock, 0.02f);
  std::mt19937 generator(3);
  for (int i = 0; i < 300 && !HasFailure(); ++i) {
    const std::size_t at = generator() % data.size();
    const std::byte old = std::exchange(data[at], static_cast<std::byte>(generator()));
    frame_of(data);
    data[at] = old;
  }
}

TEST(HuffmanFrame, TenThousandSmallOnes) {
  std::mt19937 generator(5);
  for (unsigned seed = 0; seed < 10000 && !HasFailure(); ++seed) frame_of(skewed(1 + generator() % 4000, seed));
}

TEST(HuffmanFrame, OutIsNeverExceeded) {
  HuffmanFrameEncoder encoder;
  Buffer mixed = exponents(kBlock, 0.02f);
  const Buffer tail = noise(3000, 256);
  mixed.insert(mixed.end(), tail.begin(), tail.end());
  for (const Buffer& data : {exponents(700, 0.02f), exponents(5000, 0.02f), noise(300, 256), mixed}) {
    const Buffer whole = frame_of(data);
    const std::size_t step = data.size() > 10000 ? 331 : 1;
    for (std::size_t room = 0; room <= whole.size() + 40; room += room + step < whole.size() ? step : 1) {
      Buffer out(room + 128, kGuard);
      const std::size_t size = encoder.encode(data, MutableBytes(out).first(room));
      ASSERT_EQ(size, room < whole.size() ? 0 : whole.size()) << "room " << room;
      ASSERT_TRUE(std::all_of(out.begin() + static_cast<std::ptrdiff_t>(room), out.end(),
                              [](std::byte b) { return b == kGuard; }))
          << "room " << room;
      if (size != 0) {
        ASSERT_TRUE(std::equal(whole.begin(), whole.end(), out.begin()));
      }
    }
  }
}

// Kernels alone: every count, every alignment, trees with codes of all lengths, also beyond symbol 127.
TEST(HuffmanKernels, AgreeWithThePortableOne) {
  for (const Named& k : all_kernels()) {
    if (!k.usable) continue;
    for (unsigned seed = 0; seed < 60; ++seed) {
      const Buffer data = skewed(700, seed);
      SymbolCounts counts{};
      for (std::byte b : data) ++counts[std::to_integer<unsigned>(b)];
      if (std::count(counts.begin(), counts.end(), 0u) > 254) continue;
      huffman_kernels::CodeTable table;
      HuffmanTree(counts).fill(&table);
      for (std::size_t count = 0; count <= data.size(); count += 1 + seed) {
        const std::byte* const symbols = data.data() + data.size() - count;
        Buffer expected(1100), got(1100);
        huffman_kernels::BitSink a{expected.data(), 0, 0}, b{got.data(), 0, 0};
        huffman_kernels::encode_portable(symbols, count, table, &a);
        const std::size_t left = k.kernels.encode(symbols, count, table, &b);
        ASSERT_LE(left, count);
        huffman_kernels::encode_portable(symbols, left, table, &b);
        ASSERT_EQ(a.bits, b.bits);
        ASSERT_EQ(a.carry, b.carry);
        ASSERT_TRUE(
            std::equal(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(a.bits / 8), got.begin()));
      }
      std::vector<std::uint8_t> present(256), seen(256);
      for (std::byte b : data) seen[std::to_integer<unsigned>(b)] = 1;
      const std::size_t done = k.kernels.presence(data.data(), data.size(), present.data());
      huffman_kernels::presence_portable(data.data() + done, data.size() - done, present.data());
      ASSERT_EQ(present, seen) << k.name;
    }
  }
}

// A code is complete, within 11 bits, and no worse than one bit above the entropy.
TEST(HuffmanTree, LengthsFormACompleteCode) {
  for (unsigned seed = 0; seed < 500; ++seed) {
    const Buffer data = skewed(1 + seed * 13, seed);
    SymbolCounts counts{};
    for (std::byte b : data) ++counts[std::to_integer<unsigned>(b)];
    if (std::count(counts.begin(), counts.end(), 0u) > 254) continue;
    const HuffmanTree tree(counts);
    huffman_kernels::CodeTable table;
    tree.fill(&table);
    unsigned space = 0;
    std::uint64_t bits = 0;
    for (unsigned s = 0; s < 256; ++s) {
      ASSERT_EQ(table.lengths[s] == 0, counts[s] == 0);
      ASSERT_LE(table.lengths[s], kCodeBitsMax);
      if (table.lengths[s] != 0) space += 1u << (kCodeBitsMax - table.lengths[s]);
      bits += std::uint64_t{counts[s]} * table.lengths[s];
      ASSERT_EQ(table.codes[s], table.low[s] | (table.high[s] & 15u) << 8);
      ASSERT_EQ(table.lengths[s], table.high[s] >> 4);
    }
    ASSERT_EQ(space, 1u << kCodeBitsMax);
    ASSERT_EQ(tree.cost_bits(counts), bits);
  }
}

}  // namespace
}  // namespace ostraca
