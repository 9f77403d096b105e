#include "codec/codec.h"

#include <gtest/gtest.h>

#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/limits.h"
#include "checksum/crc32c.h"
#include "codec/zstd_frames.h"

namespace ostraca {
namespace {

using Buffer = std::vector<std::byte>;

constexpr ElementFormat kByte{1, false}, kInt32{4, false}, kInt64{8, false};
constexpr ElementFormat kFloat16{2, true}, kFloat32{4, true}, kFloat64{8, true}, kFloat8{1, true};

template <class T>
Buffer to_buffer(const std::vector<T>& values) {
  Buffer bytes(values.size() * sizeof(T));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

template <class T>
Buffer generate(std::size_t bytes, const std::function<T(std::mt19937_64&, std::size_t)>& next) {
  std::mt19937_64 generator(11);
  std::vector<T> values(bytes / sizeof(T));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = next(generator, i);
  return to_buffer(values);
}

float weight(std::mt19937_64& generator) {
  thread_local std::normal_distribution<float> normal(0.0f, 0.02f);
  return normal(generator);
}

std::uint32_t float_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

Buffer noise(std::size_t n) {
  return generate<std::uint8_t>(n, [](auto& g, std::size_t) { return static_cast<std::uint8_t>(g()); });
}
Buffer weights_fp32(std::size_t n) {
  return generate<float>(n, [](auto& g, std::size_t) { return weight(g); });
}
Buffer weights_bf16(std::size_t n) {
  return generate<std::uint16_t>(
      n, [](auto& g, std::size_t) { return static_cast<std::uint16_t>((float_bits(weight(g)) + 0x8000u) >> 16); });
}
// Normal numbers only: weights of 0.02 are far above fp16's smallest.
Buffer weights_fp16(std::size_t n) {
  return generate<std::uint16_t>(n, [](auto& g, std::size_t) {
    const std::uint32_t b = float_bits(weight(g));
    const int exponent = std::max(static_cast<int>(b >> 23 & 0xFF) - 112, 0);
    return static_cast<std::uint16_t>((b >> 16 & 0x8000) | static_cast<unsigned>(exponent) << 10 | (b >> 13 & 0x3FF));
  });
}
Buffer weights_fp64(std::size_t n) {
  return generate<double>(n, [](auto& g, std::size_t) { return std::normal_distribution<double>(0, 0.02)(g); });
}
Buffer text(std::size_t n) {
  const std::string words[] = {"checkpoint ", "shard ", "of ",         "the ", "model ",
                               "and ",        "its ",   "optimizer\n", "step "};
  std::mt19937 generator(3);
  Buffer bytes;
  while (bytes.size() < n)
    for (char c : words[generator() % std::size(words)]) bytes.push_back(static_cast<std::byte>(c));
  bytes.resize(n);
  return bytes;
}

struct Coded {
  Codec codec;
  Buffer stored;
};

// Encodes, decodes with a fresh decoder, compares. The room behind `out` must stay untouched.
Coded round_trip(const Buffer& chunk, ElementFormat format, CodecPolicy policy = CodecPolicy::kAuto) {
  static ChunkEncoder encoder;
  ChunkDecoder decoder;
  Buffer out(chunk.size() + 64, std::byte{0xCD});
  const Result<Encoded> encoded = encoder.encode(chunk, format, policy, MutableBytes(out).first(chunk.size()));
  EXPECT_TRUE(encoded.ok()) << encoded.status().message();
  if (!encoded.ok()) return {Codec::kRaw, {}};
  EXPECT_LE(encoded->stored_bytes, chunk.size());
  EXPECT_TRUE(std::all_of(out.begin() + static_cast<std::ptrdiff_t>(chunk.size()), out.end(),
                          [](std::byte b) { return b == std::byte{0xCD}; }));
  out.resize(encoded->stored_bytes);
  EXPECT_EQ(encoded->crc, crc32c(out));
  Buffer back(chunk.size(), std::byte{0xEE});
  const Status status = decoder.decode(encoded->codec, out, back);
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(back == chunk);
  return {encoded->codec, std::move(out)};
}

double ratio(const Buffer& chunk, ElementFormat format) {
  return static_cast<double>(round_trip(chunk, format).stored.size()) / static_cast<double>(chunk.size());
}

TEST(Codec, RatiosOfWeights) {
  EXPECT_LE(ratio(weights_fp32(kChunkBytesMax), kFloat32), 0.84);
  EXPECT_LE(ratio(weights_bf16(kChunkBytesMax), kFloat16), 0.67);
  EXPECT_LE(ratio(weights_fp16(kChunkBytesMax), kFloat16), 0.90);
  EXPECT_LE(ratio(weights_fp64(kChunkBytesMax), kFloat64), 0.91);
}

TEST(Codec, NoiseIsStoredRaw) {
  const Buffer data = noise(kMiB);
  for (ElementFormat format : {kByte, kInt32, kInt64, kFloat16, kFloat32, kFloat64}) {
    const Coded coded = round_trip(data, format);
    EXPECT_EQ(coded.codec, Codec::kRaw);
    EXPECT_EQ(coded.stored.size(), data.size());
  }
}

TEST(Codec, ConstantsShrinkToNothing) {
  for (ElementFormat format : {kByte, kInt32, kInt64, kFloat16, kFloat32, kFloat64, kFloat8}) {
    EXPECT_LE(round_trip(Buffer(kChunkBytesMax), format).stored.size(), 68u);
    EXPECT_LE(round_trip(Buffer(kMiB, std::byte{0x7F}), format).stored.size(), 68u);
  }
  const Coded ones = round_trip(to_buffer(std::vector<float>(100003, -1.5f)), kFloat32);
  EXPECT_EQ(ones.codec, Codec::kPlanes);
  EXPECT_EQ(ones.stored.size(), 4u + 4 * 8);
}

// One element that breaks a constant plane where no window of the sample looks, in each plane in turn.
TEST(Codec, ConstantBrokenOutsideTheSample) {
  for (std::size_t k = 0; k < 4; ++k) {
    Buffer chunk = weights_fp32(kMiB);
    for (std::size_t i = 0; i < chunk.size(); i += 4) chunk[i] = chunk[i + 1] = std::byte{0};
    chunk[4 * 50000 + k] ^= std::byte{0x40};
    const double r = static_cast<double>(round_trip(chunk, kFloat32).stored.size()) / static_cast<double>(chunk.size());
    EXPECT_LE(r, 0.45) << "plane " << k;
  }
  Buffer zeros(kMiB);
  zeros[300001] = std::byte{1};
  EXPECT_LE(round_trip(zeros, kFloat32).stored.size(), 2000u);
}

TEST(Codec, OtherData) {
  EXPECT_LE(ratio(text(kMiB), kByte), 0.45);
  // Index tables, token ids, masks, small integers, repeated rows of otherwise random floats.
  EXPECT_LE(
      ratio(generate<std::int64_t>(kMiB, [](auto&, std::size_t i) { return static_cast<std::int64_t>(i); }), kInt64),
      0.02);
  EXPECT_LE(
      ratio(generate<std::int32_t>(kMiB, [](auto& g, std::size_t) { return static_cast<std::int32_t>(g() % 50000); }),
            kInt32),
      0.51);
  EXPECT_LE(ratio(generate<std::uint8_t>(kMiB, [](auto& g, std::size_t) { return std::uint8_t(g() & 1); }), kByte),
            0.13);
  EXPECT_LE(
      ratio(generate<std::uint8_t>(kMiB, [](auto& g, std::size_t) { return std::uint8_t(g() % 100 == 0); }), kByte),
      0.04);
  Buffer rows = weights_fp32(8 * kKiB);
  while (rows.size() < kMiB) rows.insert(rows.end(), rows.begin(), rows.begin() + 8 * kKiB);
  EXPECT_LE(ratio(rows, kFloat32), 0.1);
}

TEST(Codec, EverySmallAndOddSize) {
  const Buffer sources[] = {noise(5000), weights_fp32(5000), weights_bf16(5000), text(5000), Buffer(5000)};
  for (const Buffer& source : sources)
    for (ElementFormat format : {kByte, kInt32, kInt64, kFloat16, kFloat32, kFloat64, kFloat8})
      for (std::size_t size = 1; size <= source.size(); size += size < 300 ? 1 : 391)
        for (CodecPolicy policy : {CodecPolicy::kAuto, CodecPolicy::kRaw, CodecPolicy::kZstd}) {
          round_trip(Buffer(source.begin(), source.begin() + static_cast<std::ptrdiff_t>(size)), format, policy);
          if (HasFailure()) FAIL() << "size " << size << " width " << int{format.width};
        }
}

TEST(Codec, Policies) {
  const Buffer chunk = text(kMiB);
  EXPECT_EQ(round_trip(chunk, kByte, CodecPolicy::kRaw).stored, chunk);
  const Coded zstd = round_trip(chunk, kByte, CodecPolicy::kZstd);
  EXPECT_EQ(zstd.codec, Codec::kZstd);
  EXPECT_EQ(ZSTD_getFrameContentSize(zstd.stored.data(), zstd.stored.size()), chunk.size());
  EXPECT_EQ(round_trip(noise(kMiB), kByte, CodecPolicy::kZstd).codec, Codec::kRaw);
  // Already compressed data stays as it is.
  EXPECT_EQ(round_trip(zstd.stored, kByte).codec, Codec::kRaw);
}

TEST(Codec, EqualChunksAreCodedEqually) {
  const Buffer chunk = weights_fp32(kMiB);
  const Coded once = round_trip(chunk, kFloat32);
  round_trip(text(kMiB), kByte);  // leaves other contents in the contexts
  ChunkEncoder fresh;
  Buffer out(chunk.size());
  const Result<Encoded> again = fresh.encode(chunk, kFloat32, CodecPolicy::kAuto, out);
  ASSERT_TRUE(again.ok());
  out.resize(again->stored_bytes);
  EXPECT_EQ(out, once.stored);
}

TEST(Codec, FramesAreStandardOnes) {
  const Buffer chunk = weights_bf16(kMiB);
  const Coded coded = round_trip(chunk, kFloat16);
  ASSERT_EQ(coded.codec, Codec::kPlanes);
  const std::byte* const record = coded.stored.data() + 4 + 8;
  ASSERT_EQ(record[0], static_cast<std::byte>(PlaneMode::kHuffman));
  const auto bytes = load_le<std::uint32_t>(record + 4);
  const std::byte* const frame = coded.stored.data() + coded.stored.size() - bytes;
  Buffer plane(chunk.size() / 2);
  EXPECT_EQ(ZSTD_decompress(plane.data(), plane.size(), frame, bytes), plane.size());
}

TEST(Codec, WrongArguments) {
  ChunkEncoder encoder;
  Buffer data(16), out(16);
  EXPECT_EQ(encoder.encode({}, kByte, CodecPolicy::kAuto, out).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(encoder.encode(data, kByte, CodecPolicy::kAuto, MutableBytes(out).first(15)).status().code(),
            Code::kInvalidArgument);
  EXPECT_EQ(encoder.encode(data, {3, false}, CodecPolicy::kAuto, out).status().code(), Code::kInvalidArgument);
  const Buffer large(kChunkBytesMax + 1);
  Buffer room(large.size());
  EXPECT_EQ(encoder.encode(large, kByte, CodecPolicy::kAuto, room).status().code(), Code::kInvalidArgument);
}

// ---- what a malicious or damaged payload may do: fail with kFormat, or decode to the size that was asked for

void expect_refused(Codec codec, const Buffer& stored, std::size_t decoded_bytes) {
  ChunkDecoder decoder;
  Buffer out(decoded_bytes);
  const Status status = decoder.decode(codec, stored, out);
  EXPECT_EQ(status.code(), Code::kFormat) << "accepted";
  EXPECT_FALSE(status.message().empty());
}

Coded small_planes() {
  Buffer chunk = weights_fp32(16 * kKiB);
  for (std::size_t i = 0; i < chunk.size(); i += 4) chunk[i] = std::byte{0x12};  // not constant once rotated: sign bits
  return round_trip(chunk, kFloat32);
}

TEST(CodecDamage, PlanesHeader) {
  const std::size_t decoded = 16 * kKiB;
  const Coded good = small_planes();
  ASSERT_EQ(good.codec, Codec::kPlanes);
  for (std::size_t at = 0; at < 36; ++at) {
    for (unsigned delta = 1; delta < 256; ++delta) {
      Buffer bad = good.stored;
      bad[at] ^= static_cast<std::byte>(delta);
      const bool transform = at == 1 && delta == 1;  // rotation off: other values
      const bool mode =
          (at - 4) % 8 == 0 && at >= 4 && delta == 1 && good.stored[at] >= std::byte{2};  // both are frames
      if (transform || mode) continue;
      expect_refused(Codec::kPlanes, bad, decoded);
      if (HasFailure()) FAIL() << "byte " << at << " xor " << delta;
    }
  }
}

TEST(CodecDamage, EveryTruncationAndExtension) {
  const Coded good = small_planes();
  for (std::size_t size = 0; size < good.stored.size(); ++size)
    expect_refused(Codec::kPlanes, Buffer(good.stored.begin(), good.stored.begin() + static_cast<std::ptrdiff_t>(size)),
                   16 * kKiB);
  Buffer longer = good.stored;
  longer.push_back(std::byte{0});
  expect_refused(Codec::kPlanes, longer, 16 * kKiB);
  for (std::size_t decoded : {16 * kKiB - 4, 16 * kKiB + 4, 16 * kKiB - 1, std::size_t{0}})
    expect_refused(Codec::kPlanes, good.stored, decoded);

  const Coded zstd = round_trip(text(2000), kByte, CodecPolicy::kZstd);
  ASSERT_EQ(zstd.codec, Codec::kZstd);
  for (std::size_t size = 0; size < zstd.stored.size(); ++size)
    expect_refused(Codec::kZstd, Buffer(zstd.stored.begin(), zstd.stored.begin() + static_cast<std::ptrdiff_t>(size)),
                   2000);
  expect_refused(Codec::kZstd, zstd.stored, 1999);
  expect_refused(Codec::kZstd, zstd.stored, 2001);
  Buffer twice = zstd.stored;
  twice.insert(twice.end(), zstd.stored.begin(), zstd.stored.end());
  expect_refused(Codec::kZstd, twice, 2000);
  expect_refused(Codec::kZstd, twice, 4000);
}

TEST(CodecDamage, FramesOfTheWrongKind) {
  const Buffer data = text(1000);
  Buffer frame(2000);
  const auto compress = [&](ZSTD_cParameter parameter, int value) {
    ZSTD_CCtx* const context = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(context, parameter, value);
    frame.resize(2000);
    frame.resize(ZSTD_compress2(context, frame.data(), frame.size(), data.data(), data.size()));
    ZSTD_freeCCtx(context);
  };
  compress(ZSTD_c_checksumFlag, 1);
  expect_refused(Codec::kZstd, frame, data.size());
  compress(ZSTD_c_contentSizeFlag, 0);
  expect_refused(Codec::kZstd, frame, data.size());
  compress(ZSTD_c_format, ZSTD_f_zstd1_magicless);
  expect_refused(Codec::kZstd, frame, data.size());
  // A skippable frame, alone and before a good one.
  Buffer skippable(8);
  store_le<std::uint32_t>(skippable.data(), 0x184D2A50);
  expect_refused(Codec::kZstd, skippable, 0);
  compress(ZSTD_c_checksumFlag, 0);
  skippable.insert(skippable.end(), frame.begin(), frame.end());
  expect_refused(Codec::kZstd, skippable, data.size());
  Buffer out(data.size());
  EXPECT_TRUE(zstd_decompress(frame, out).ok());
  EXPECT_EQ(out, data);
}

TEST(CodecDamage, DeltaUnknownAndRaw) {
  const Buffer stored(100);
  expect_refused(Codec::kDelta, stored, 100);
  expect_refused(static_cast<Codec>(9), stored, 100);
  expect_refused(Codec::kRaw, stored, 99);
  expect_refused(Codec::kRaw, stored, 101);
}

TEST(CodecDamage, RandomBytesAndFlips) {
  std::mt19937 generator(5);
  const Coded planes = small_planes(), zstd = round_trip(text(3000), kByte, CodecPolicy::kZstd);
  ChunkDecoder decoder;
  Buffer out(16 * kKiB);
  for (int round = 0; round < 20000; ++round) {
    const Coded& base = round % 2 == 0 ? planes : zstd;
    Buffer bad = base.stored;
    if (round % 3 == 0) {
      bad.resize(generator() % 200);
      for (std::byte& b : bad) b = static_cast<std::byte>(generator());
      if (bad.size() > 4 && round % 2 == 0) bad[0] = std::byte{4}, bad[1] = bad[2] = bad[3] = std::byte{0};
    } else {
      for (unsigned i = 0; i <= generator() % 4; ++i)
        bad[generator() % bad.size()] ^= static_cast<std::byte>(1u << generator() % 8);
    }
    const std::size_t size = base.codec == Codec::kPlanes ? 16 * kKiB : 3000;
    const Status status = decoder.decode(base.codec, bad, MutableBytes(out).first(size));
    if (!status.ok()) {
      ASSERT_EQ(status.code(), Code::kFormat);
    }
  }
  // The decoder still works after all that.
  EXPECT_TRUE(decoder.decode(planes.codec, planes.stored, out).ok());
}

// zstd 1.5.4, left to itself, writes in front of a room that is smaller than a frame's header may be.
TEST(ZstdFrames, TooLittleRoom) {
  FrameEncoder frames;
  Buffer data(72);
  for (std::size_t i = 0; i < data.size(); i += 20) data[i] = std::byte{1};
  for (std::size_t room = 0; room < 100; ++room)
    for (bool runs : {false, true}) {
      Buffer out(300, std::byte{0xCD});
      const MutableBytes target = MutableBytes(out).subspan(100, room);
      const std::size_t size = runs ? frames.zero_runs(data, target) : frames.huffman(data, target);
      ASSERT_LE(size, room);
      for (std::size_t i = 0; i < out.size(); ++i)
        if (i < 100 || i >= 100 + room) {
          ASSERT_EQ(out[i], std::byte{0xCD}) << "room " << room << " at " << i;
        }
      if (size == 0) continue;
      Buffer back(data.size());
      ASSERT_TRUE(zstd_decompress(target.first(size), back).ok()) << "room " << room;
      ASSERT_EQ(back, data);
    }
}

TEST(ZstdFrames, RoundTripAndBounds) {
  for (std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{100}, std::size_t{300000}}) {
    const Buffer data = text(size);
    Buffer frame(zstd_bound(size));
    const Result<std::size_t> stored = zstd_compress(data, 3, frame);
    ASSERT_TRUE(stored.ok());
    frame.resize(*stored);
    Buffer back(size);
    const Status status = zstd_decompress(frame, back);
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(back, data);
  }
  Buffer tiny(3);
  EXPECT_EQ(zstd_compress(text(100), 3, tiny).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace ostraca
