// Zigzagged differences in the cache, per kernel; whole chunks against their base out of DRAM, with simulated AdamW
// steps between the two. "ratio" is stored to decoded bytes.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/limits.h"
#include "codec/codec.h"
#include "transform/delta_kernels.h"

namespace ostraca {
namespace {

void count_bytes(benchmark::State& state, std::size_t bytes_each) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * bytes_each));
}

// ---- kernels

// 3 * 16 KiB: where they run inside split_differences, the L1 cache.
void kernel(benchmark::State& state, delta_kernels::Kernel kernel, unsigned width) {
  constexpr std::size_t kBytes = 16 * kKiB;
  std::vector<std::byte> in(kBytes, std::byte{7}), base(kBytes, std::byte{9}), out(kBytes);
  for (auto _ : state) {
    benchmark::DoNotOptimize(kernel(in.data(), base.data(), kBytes / width, width, out.data()));
    benchmark::ClobberMemory();
  }
  count_bytes(state, kBytes);
}

void register_kernels(const std::string& name, delta_kernels::Kernel zigzag, delta_kernels::Kernel apply) {
  for (unsigned width : {1u, 2u, 4u, 8u}) {
    const std::string suffix = name + "/w" + std::to_string(width);
    benchmark::RegisterBenchmark(("zigzag_differences/" + suffix).c_str(), kernel, zigzag, width);
    benchmark::RegisterBenchmark(("apply_differences/" + suffix).c_str(), kernel, apply, width);
  }
}

// ---- chunks

constexpr std::size_t kWalkBytes = 128 * kMiB;  // as one chunk, again and again: only the coder's own view is a chunk
constexpr std::size_t kChunks = kWalkBytes / kChunkBytesMax;

struct Kind {
  const char* name;
  ElementFormat format;
  int steps;
  float learning_rate;
};
constexpr Kind kKinds[] = {
    {"fp32/1_step", {4, true}, 1, 1e-4f},      {"fp32/10_steps", {4, true}, 10, 1e-4f},
    {"fp32/100_steps", {4, true}, 100, 1e-4f}, {"fp32/fine_tuning", {4, true}, 1, 1e-5f},
    {"bf16/1_step", {2, true}, 1, 1e-4f},      {"bf16/10_steps", {2, true}, 10, 1e-4f},
    {"bf16/100_steps", {2, true}, 100, 1e-4f}, {"bf16/fine_tuning", {2, true}, 1, 1e-5f},
};

// The sum of four uniform numbers: as good as normal here, and cheap.
float noise(std::mt19937_64& generator) {
  const std::uint64_t bits = generator();
  float sum = 0;
  for (unsigned i = 0; i < 4; ++i) sum += static_cast<float>(bits >> (16 * i) & 0xFFFF);
  return (sum / 65536.0f - 2.0f) * 1.7f;
}

void append(std::vector<std::byte>& to, float value, unsigned width) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (width == 2) bits = (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16;
  const auto* first = reinterpret_cast<const std::byte*>(&bits);
  to.insert(to.end(), first, first + width);
}

struct Pair {
  std::vector<std::byte> base, chunk;
};

// Weights of one chunk, and the same some steps of AdamW later; each gradient has a small constant part.
const Pair& train(const Kind& kind) {
  static std::map<std::string, Pair> made;
  Pair& pair = made[kind.name];
  if (!pair.base.empty()) return pair;
  constexpr int kWarmUp = 20;
  std::mt19937_64 generator(1);
  for (std::size_t i = 0; i < kChunkBytesMax / kind.format.width; ++i) {
    float w = 0.02f * noise(generator), m = 0, v = 1;
    const float mean = 0.1f * noise(generator);
    for (int step = 0; step < kWarmUp + kind.steps; ++step) {
      if (step == kWarmUp) append(pair.base, w, kind.format.width);
      const float gradient = mean + noise(generator);
      m = 0.9f * m + 0.1f * gradient;
      v = 0.95f * v + 0.05f * gradient * gradient;
      w -= kind.learning_rate * (m / std::sqrt(v) + 0.1f * w);
    }
    append(pair.chunk, w, kind.format.width);
  }
  return pair;
}

struct Walk {
  explicit Walk(const Kind& kind) {
    for (std::size_t i = 0; i < kChunks; ++i) {
      const Pair& pair = train(kind);
      base.insert(base.end(), pair.base.begin(), pair.base.end());
      chunks.insert(chunks.end(), pair.chunk.begin(), pair.chunk.end());
    }
  }
  std::vector<std::byte> base, chunks, target = std::vector<std::byte>(kWalkBytes, std::byte{2});
};

Bytes nth(const std::vector<std::byte>& bytes, std::size_t i) {
  return Bytes(bytes).subspan(i * kChunkBytesMax, kChunkBytesMax);
}
MutableBytes nth(std::vector<std::byte>& bytes, std::size_t i) {
  return MutableBytes(bytes).subspan(i * kChunkBytesMax, kChunkBytesMax);
}

void encode(benchmark::State& state, const Kind& kind) {
  Walk walk(kind);
  const std::vector<std::byte>&base = walk.base, &chunks = walk.chunks;
  ChunkEncoder encoder;
  std::size_t i = 0, stored = 0;
  for (auto _ : state) {
    const Plan plan = encoder.estimate(nth(chunks, i), nth(base, i), kind.format)->plan;
    const auto encoded = encoder.encode_delta(nth(chunks, i), nth(base, i), plan, nth(walk.target, i));
    if (!encoded.ok() || encoded->stored_bytes == 0) return state.SkipWithError("encode");
    stored = encoded->stored_bytes;
    i = (i + 1) % kChunks;
  }
  count_bytes(state, kChunkBytesMax);
  state.counters["ratio"] = static_cast<double>(stored) / kChunkBytesMax;
  const auto estimate = encoder.estimate(nth(chunks, 0), nth(base, 0), kind.format);
  state.counters["estimate"] = static_cast<double>(estimate->delta_bytes) / kChunkBytesMax;
  state.counters["full_estimate"] = static_cast<double>(estimate->full_bytes) / kChunkBytesMax;
}

void decode(benchmark::State& state, const Kind& kind) {
  Walk walk(kind);
  const std::vector<std::byte>& base = walk.base;
  std::vector<std::byte> stored(kWalkBytes);
  std::vector<Encoded> encoded(kChunks);
  ChunkEncoder encoder;
  for (std::size_t i = 0; i < kChunks; ++i) {
    const Plan plan = encoder.estimate(nth(walk.chunks, i), nth(base, i), kind.format)->plan;
    encoded[i] = *encoder.encode_delta(nth(walk.chunks, i), nth(base, i), plan, nth(stored, i));
  }
  ChunkDecoder decoder;
  std::size_t i = 0;
  for (auto _ : state) {
    const Bytes payload = Bytes(nth(stored, i)).first(encoded[i].stored_bytes);
    if (!decoder.decode_delta(payload, nth(base, i), nth(walk.target, i)).ok()) return state.SkipWithError("decode");
    i = (i + 1) % kChunks;
  }
  count_bytes(state, kChunkBytesMax);
}

void estimate(benchmark::State& state, const Kind& kind) {
  const Pair& pair = train(kind);
  ChunkEncoder encoder;
  for (auto _ : state) benchmark::DoNotOptimize(encoder.estimate(pair.chunk, pair.base, kind.format));
}

const bool registered = [] {
  register_kernels("portable", delta_kernels::zigzag_portable, delta_kernels::apply_portable);
#if defined(__x86_64__)
  if (cpu_features().avx2) register_kernels("avx2", delta_kernels::zigzag_avx2, delta_kernels::apply_avx2);
  if (cpu_features().avx512) register_kernels("avx512", delta_kernels::zigzag_avx512, delta_kernels::apply_avx512);
#elif defined(__aarch64__)
  register_kernels("arm64", delta_kernels::zigzag_arm64, delta_kernels::apply_arm64);
#endif
  for (const Kind& kind : kKinds) {
    benchmark::RegisterBenchmark((std::string("delta_encode/") + kind.name).c_str(), encode, kind);
    benchmark::RegisterBenchmark((std::string("delta_decode/") + kind.name).c_str(), decode, kind);
    benchmark::RegisterBenchmark((std::string("delta_estimate/") + kind.name).c_str(), estimate, kind)
        ->Unit(benchmark::kMicrosecond);
  }
  return true;
}();

}  // namespace
}  // namespace ostraca
