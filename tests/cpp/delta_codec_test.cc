// Codec "delta": ChunkEncoder::encode_delta and estimate, ChunkDecoder::decode_delta.
#include <gtest/gtest.h>

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
#include "codec/codec.h"

namespace ostraca {
namespace {

using Buffer = std::vector<std::byte>;

constexpr ElementFormat kByte{1, false}, kInt32{4, false}, kInt64{8, false};
constexpr ElementFormat kBFloat16{2, true}, kFloat32{4, true}, kFloat64{8, true};

struct Versions {
  Buffer base, chunk;
};

template <class T>
Buffer to_buffer(const std::vector<T>& values) {
  Buffer bytes(values.size() * sizeof(T));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

Buffer to_bf16(const std::vector<float>& values) {
  std::vector<std::uint16_t> halves;
  for (float value : values) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    halves.push_back(static_cast<std::uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16));
  }
  return to_buffer(halves);
}

// Weights and the same after updates of the given size.
Versions weights(std::size_t bytes, ElementFormat format, float update) {
  std::mt19937 generator(7);
  std::normal_distribution<float> weight(0.0f, 0.02f), step(0.0f, update);
  std::vector<float> before(bytes / format.width), after;
  for (float& w : before) w = weight(generator);
  for (float w : before) after.push_back(w + step(generator));
  if (format.width == 2) return {to_bf16(before), to_bf16(after)};
  return {to_buffer(before), to_buffer(after)};
}

Buffer noise(std::size_t n, unsigned seed) {
  std::mt19937 generator(seed);
  Buffer bytes(n);
  for (std::byte& b : bytes) b = static_cast<std::byte>(generator());
  return bytes;
}

struct Coded {
  Encoded encoded;
  Buffer stored;
};

// Encodes within `limit`, checks that nothing behind it was touched, decodes with a fresh decoder, compares.
Coded round_trip(const Versions& v, ElementFormat format, std::size_t limit) {
  static ChunkEncoder encoder;
  Buffer out(limit + 64, std::byte{0xCD});
  const Plan plan = encoder.estimate(v.chunk, v.base, format)->plan;
  const Result<Encoded> encoded = encoder.encode_delta(v.chunk, v.base, plan, MutableBytes(out).first(limit));
  EXPECT_TRUE(encoded.ok()) << encoded.status().message();
  EXPECT_LE(encoded->stored_bytes, std::min(limit, v.chunk.size() - v.chunk.size() / 64));
  EXPECT_EQ(std::count(out.begin() + static_cast<std::ptrdiff_t>(limit), out.end(), std::byte{0xCD}), 64);
  EXPECT_EQ(encoded->codec, encoded->stored_bytes == 0 ? Codec::kRaw : Codec::kDelta);
  out.resize(encoded->stored_bytes);
  EXPECT_EQ(encoded->crc, crc32c(out));
  if (encoded->stored_bytes == 0) return {*encoded, out};
  ChunkDecoder decoder;
  Buffer back(v.chunk.size(), std::byte{0xEE});
  const Status status = decoder.decode_delta(out, v.base, back);
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(back == v.chunk);
  return {*encoded, out};
}

// 1 where it was not worth it.
double ratio(const Versions& v, ElementFormat format) {
  const std::size_t stored = round_trip(v, format, v.chunk.size()).stored.size();
  return stored == 0 ? 1 : static_cast<double>(stored) / static_cast<double>(v.chunk.size());
}

TEST(Delta, RatiosOfTraining) {
  EXPECT_LE(ratio(weights(kChunkBytesMax, kFloat32, 1e-4f), kFloat32), 0.63);
  EXPECT_LE(ratio(weights(kChunkBytesMax, kFloat32, 1e-5f), kFloat32), 0.54);
  EXPECT_LE(ratio(weights(kChunkBytesMax, kBFloat16, 1e-4f), kBFloat16), 0.24);
  EXPECT_LE(ratio(weights(kChunkBytesMax, kBFloat16, 2e-6f), kBFloat16), 0.05);
}

TEST(Delta, IntegersAndSparseUpdates) {
  Versions counters;
  std::vector<std::int64_t> values(kMiB / 8);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::int64_t>(i * i);
  counters.base = to_buffer(values);
  for (std::int64_t& x : values) x -= 1000;
  counters.chunk = to_buffer(values);
  EXPECT_EQ(round_trip(counters, kInt64, kMiB).stored.size(), 4u + 8 * 8);  // one difference: constant planes

  Versions rows{noise(kMiB, 1), {}};  // an embedding of which two rows in a thousand were touched
  rows.chunk = rows.base;
  const Buffer fresh = noise(kMiB, 2);
  for (std::size_t row = 17; row < 1024; row += 500) std::copy_n(fresh.begin(), 1024, rows.chunk.begin() + row * 1024);
  for (ElementFormat format : {kByte, kInt32, kInt64, kBFloat16, kFloat32}) EXPECT_LE(ratio(rows, format), 0.01);

  // One element where no window of the sample looks, in each plane in turn.
  for (std::size_t k = 0; k < 4; ++k) {
    Versions v{noise(kMiB, 3), {}};
    v.chunk = v.base;
    v.chunk[4 * 50000 + k] ^= std::byte{0x40};
    EXPECT_LE(ratio(v, kInt32), 0.001) << "plane " << k;
  }
}

// So few elements changed that a part of the sample shows none.
TEST(Delta, VerySparse) {
  for (ElementFormat format : {kBFloat16, kFloat32, kInt32})
    for (std::size_t gap : {300, 1000, 3000, 5000, 10'000, 40'000})
      for (unsigned seed = 1; seed <= 8; ++seed) {
        std::mt19937 generator(seed);
        Versions v{noise(kMiB, seed), {}};
        v.chunk = v.base;
        std::size_t changed = 0;
        for (std::size_t i = generator() % gap; i < kMiB / format.width; i += 1 + generator() % (2 * gap), ++changed)
          for (std::size_t k = 0; k < format.width; ++k) v.chunk[i * format.width + k] ^= std::byte{0x55};
        EXPECT_LE(round_trip(v, format, kMiB).stored.size(), 300 + 16 * changed) << format.width << ' ' << gap;
      }
}

// Zeros with something else in every so many places: what FrameEncoder::zero_runs finds, across its words and blocks.
TEST(Delta, RunsOfZeros) {
  for (std::size_t size : {std::size_t{1000}, 128 * kKiB, 128 * kKiB + 1, 300 * kKiB + 63, kChunkBytesMax})
    for (std::size_t gap : {2, 8, 9, 10, 11, 63, 64, 65, 1000, 65537, 131071, 131072, 131073, 5000000})
      for (std::size_t first : {0, 1, 8, 9, 131071}) {
        Versions v{Buffer(size), Buffer(size)};
        for (std::size_t i = first, k = 1; i < size; i += gap, ++k) v.chunk[i] = static_cast<std::byte>(k % 7 + 1);
        round_trip(v, kByte, size);
        if (HasFailure()) FAIL() << "size " << size << " gap " << gap << " first " << first;
      }
}

TEST(Delta, NotWorthIt) {
  const Versions unrelated{noise(kMiB, 1), noise(kMiB, 2)};
  for (ElementFormat format : {kByte, kInt32, kInt64, kBFloat16, kFloat32, kFloat64})
    EXPECT_EQ(round_trip(unrelated, format, kMiB).encoded.stored_bytes, 0u);
  const Versions tiny{noise(100, 1), noise(100, 1)};
  EXPECT_EQ(round_trip(tiny, kByte, 100).encoded.stored_bytes, 0u);
}

// Around what it really takes: never more than the limit, and taken wherever it fits.
TEST(Delta, Limits) {
  const Versions v = weights(kMiB, kBFloat16, 1e-4f);
  const std::size_t needed = round_trip(v, kBFloat16, kMiB).stored.size();
  ASSERT_GT(needed, 0u);
  EXPECT_EQ(round_trip(v, kBFloat16, needed - 1).encoded.stored_bytes, 0u);
  for (std::size_t limit : {std::size_t{0}, std::size_t{1}, std::size_t{19}, std::size_t{21}, needed / 2})
    EXPECT_EQ(round_trip(v, kBFloat16, limit).encoded.stored_bytes, 0u);
  // zstd may want some room beyond what it writes.
  EXPECT_EQ(round_trip(v, kBFloat16, needed + needed / 100).stored.size(), needed);
}

// Every limit, so that each plane in turn finds too little room: less than a frame's header, less than its frame.
TEST(Delta, EveryLimit) {
  for (ElementFormat format : {kByte, kBFloat16, kFloat32, kFloat64}) {
    const Versions v = weights(600, kBFloat16, 1e-4f);
    for (std::size_t limit = 0; limit <= 600; ++limit) {
      round_trip(v, format, limit);
      if (HasFailure()) FAIL() << "limit " << limit << " width " << int{format.width};
    }
  }
}

TEST(Delta, EverySmallAndOddSize) {
  const Versions sources[] = {weights(5000, kFloat32, 1e-5f),
                              weights(5000, kBFloat16, 1e-5f),
                              {Buffer(5000), noise(5000, 4)},
                              {noise(5000, 5), Buffer(5000)}};
  for (const Versions& source : sources)
    for (ElementFormat format : {kByte, kInt32, kInt64, kBFloat16, kFloat32, kFloat64})
      for (std::ptrdiff_t size = 1; size <= 5000; size += size < 300 ? 1 : 391) {
        round_trip({Buffer(source.base.begin(), source.base.begin() + size),
                    Buffer(source.chunk.begin(), source.chunk.begin() + size)},
                   format, static_cast<std::size_t>(size));
        if (HasFailure()) FAIL() << "size " << size << " width " << int{format.width};
      }
}

TEST(Delta, Estimates) {
  ChunkEncoder encoder;
  Buffer out(kChunkBytesMax);
  for (ElementFormat format : {kBFloat16, kFloat32})
    for (float update : {1e-6f, 1e-5f, 1e-4f, 1e-3f}) {
      const Versions v = weights(kChunkBytesMax, format, update);
      const Result<DeltaEstimate> estimate = encoder.estimate(v.chunk, v.base, format);
      ASSERT_TRUE(estimate.ok());
      const auto full = static_cast<double>(encoder.encode(v.chunk, format, CodecPolicy::kAuto, out)->stored_bytes);
      const auto delta = static_cast<double>(round_trip(v, format, kChunkBytesMax).stored.size());
      EXPECT_NEAR(static_cast<double>(estimate->full_bytes), full, 0.03 * full) << update;
      EXPECT_NEAR(static_cast<double>(estimate->delta_bytes), delta, 0.1 * delta + 1000) << update;
    }
  const Result<DeltaEstimate> unrelated = encoder.estimate(noise(kMiB, 1), noise(kMiB, 2), kFloat32);
  EXPECT_EQ(unrelated->full_bytes, kMiB);
  EXPECT_EQ(unrelated->delta_bytes, kMiB);
  const Buffer same = noise(kMiB, 1);
  EXPECT_LE(encoder.estimate(same, same, kFloat32)->delta_bytes, 100u);
}

TEST(Delta, EqualChunksAreCodedEqually) {
  const Versions v = weights(kMiB, kFloat32, 1e-4f);
  const Buffer once = round_trip(v, kFloat32, kMiB).stored;
  round_trip(weights(kMiB, kBFloat16, 1e-6f), kBFloat16, kMiB);  // leaves other contents in the contexts
  ChunkEncoder fresh;
  Buffer out(kMiB);
  const Plan plan = fresh.estimate(v.chunk, v.base, kFloat32)->plan;
  out.resize(fresh.encode_delta(v.chunk, v.base, plan, out)->stored_bytes);
  EXPECT_EQ(out, once);
}

TEST(Delta, WrongArguments) {
  ChunkEncoder encoder;
  Buffer data(16), shorter(15), out(16), large(kChunkBytesMax + 1);
  const auto code = [&](Bytes chunk, Bytes base, ElementFormat format) {
    return encoder.estimate(chunk, base, format).status().code();
  };
  EXPECT_EQ(code(data, shorter, kByte), Code::kInvalidArgument);
  EXPECT_EQ(encoder.encode_delta(data, shorter, {}, out).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(code(data, {}, kByte), Code::kInvalidArgument);
  EXPECT_EQ(code({}, {}, kByte), Code::kInvalidArgument);
  EXPECT_EQ(code(data, data, {3, false}), Code::kInvalidArgument);
  EXPECT_EQ(code(large, large, kByte), Code::kInvalidArgument);
}

// ---- what a malicious or damaged payload may do: fail with kFormat, or decode to the size that was asked for

constexpr std::size_t kSmall = 16 * kKiB;

void expect_refused(Bytes stored, Bytes base, std::size_t decoded_bytes) {
  ChunkDecoder decoder;
  Buffer out(decoded_bytes);
  const Status status = decoder.decode_delta(stored, base, out);
  EXPECT_EQ(status.code(), Code::kFormat) << "accepted";
  EXPECT_FALSE(status.message().empty());
}

TEST(DeltaDamage, Header) {
  const Versions v = weights(kSmall, kFloat32, 1e-4f);
  const Buffer good = round_trip(v, kFloat32, kSmall).stored;
  ASSERT_FALSE(good.empty());
  for (std::size_t at = 0; at < 36; ++at)
    for (unsigned delta = 1; delta < 256; ++delta) {
      Buffer bad = good;
      bad[at] ^= static_cast<std::byte>(delta);
      const bool is_mode = at >= 4 && (at - 4) % 8 == 0;
      if (is_mode && delta == 1 && good[at] >= std::byte{2}) continue;             // both are frames
      if (at >= 4 && (at - 4) % 8 == 1 && good[at - 1] == std::byte{1}) continue;  // a constant's value
      expect_refused(bad, v.base, kSmall);
      if (HasFailure()) FAIL() << "byte " << at << " xor " << delta;
    }
  // A constant's record, by hand: width 1, the difference 2.
  const Buffer base(10, std::byte{40});
  Buffer payload(12), out(10);
  payload[0] = std::byte{1}, payload[4] = std::byte{1}, payload[5] = std::byte{4};
  ChunkDecoder decoder;
  ASSERT_TRUE(decoder.decode_delta(payload, base, out).ok());
  EXPECT_EQ(out, Buffer(10, std::byte{42}));
  for (unsigned transform = 1; transform < 256; ++transform) {
    payload[1] = static_cast<std::byte>(transform);
    expect_refused(payload, base, 10);
  }
}

TEST(DeltaDamage, SizesThatDisagree) {
  const Versions v = weights(kSmall, kBFloat16, 1e-4f);
  const Buffer good = round_trip(v, kBFloat16, kSmall).stored;
  for (std::size_t size = 0; size < good.size(); ++size) expect_refused(Bytes(good).first(size), v.base, kSmall);
  Buffer longer = good;
  longer.push_back(std::byte{0});
  expect_refused(longer, v.base, kSmall);
  expect_refused(good, Bytes(v.base).first(kSmall - 2), kSmall);
  expect_refused(good, v.base, kSmall - 2);
  expect_refused(good, {}, kSmall);
  expect_refused(good, {}, 0);
  for (std::size_t decoded : {kSmall - 2, kSmall - 1}) expect_refused(good, Bytes(v.base).first(decoded), decoded);
}

TEST(DeltaDamage, RandomBytesAndFlips) {
  std::mt19937 generator(5);
  const Versions v = weights(kSmall, kBFloat16, 2e-6f);
  const Buffer good = round_trip(v, kBFloat16, kSmall).stored;
  ASSERT_FALSE(good.empty());
  ChunkDecoder decoder;
  Buffer out(kSmall);
  for (int round = 0; round < 20000; ++round) {
    Buffer bad = good;
    if (round % 3 == 0) {
      bad.resize(generator() % 200);
      for (std::byte& b : bad) b = static_cast<std::byte>(generator());
      if (bad.size() > 4) bad[0] = std::byte{2}, bad[1] = bad[2] = bad[3] = std::byte{0};
    } else {
      for (unsigned i = 0; i <= generator() % 4; ++i)
        bad[generator() % bad.size()] ^= static_cast<std::byte>(1u << generator() % 8);
    }
    const Status status = decoder.decode_delta(bad, v.base, out);
    if (!status.ok()) {
      ASSERT_EQ(status.code(), Code::kFormat);
    }
  }
  ASSERT_TRUE(decoder.decode_delta(good, v.base, out).ok());  // it still works after all that
  EXPECT_EQ(out, v.chunk);
}

}  // namespace
}  // namespace ostraca
