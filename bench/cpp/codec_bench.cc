// Byte planes in the cache, per kernel; whole chunks through the coder out of DRAM, with memcpy beside them.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/limits.h"
#include "codec/codec.h"
#include "transform/planes_kernels.h"

namespace ostraca {
namespace {

// ---- planes

struct Kernels {
  const char* name;
  planes_kernels::SplitKernel split;
  planes_kernels::MergeKernel merge;
  bool usable;
};

std::vector<Kernels> all_kernels() {
  std::vector<Kernels> kernels = {{"portable", planes_kernels::split_portable, planes_kernels::merge_portable, true}};
#if defined(__x86_64__)
  const CpuFeatures& cpu = cpu_features();
  kernels.push_back({"avx2", planes_kernels::split_avx2, planes_kernels::merge_avx2, cpu.avx2});
  kernels.push_back({"avx512", planes_kernels::split_avx512, planes_kernels::merge_avx512, cpu.avx512});
#elif defined(__aarch64__)
  kernels.push_back({"arm64", planes_kernels::split_arm64, planes_kernels::merge_arm64, cpu_features().neon});
#endif
  return kernels;
}

// 128 KiB of elements and as much of planes: inside every L2.
struct PlanesFixture {
  explicit PlanesFixture(unsigned width) : elements(kBytes), memory(kBytes + 8 * 256), count(kBytes / width) {
    for (unsigned k = 0; k < width; ++k) planes[k] = memory.data() + k * (count + 256);
  }
  static constexpr std::size_t kBytes = 128 * kKiB;
  std::vector<std::byte> elements, memory;
  std::byte* planes[8] = {};
  std::size_t count;
};

void count_bytes(benchmark::State& state, std::size_t bytes_each) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * bytes_each));
}

void split(benchmark::State& state, const Kernels& kernels, unsigned width, bool rotate) {
  PlanesFixture f(width);
  for (auto _ : state) {
    benchmark::DoNotOptimize(kernels.split(f.elements.data(), f.count, width, rotate, f.planes));
    benchmark::ClobberMemory();
  }
  count_bytes(state, PlanesFixture::kBytes);
}

void merge(benchmark::State& state, const Kernels& kernels, unsigned width, bool rotate) {
  PlanesFixture f(width);
  for (auto _ : state) {
    benchmark::DoNotOptimize(kernels.merge(f.planes, f.count, width, rotate, f.elements.data()));
    benchmark::ClobberMemory();
  }
  count_bytes(state, PlanesFixture::kBytes);
}

// ---- chunks

// Walked chunk by chunk, so that sources and results are far larger than any cache.
constexpr std::size_t kWalkBytes = 256 * kMiB;
constexpr std::size_t kChunks = kWalkBytes / kChunkBytesMax;

struct Kind {
  const char* name;
  ElementFormat format;
};
constexpr Kind kKinds[] = {{"fp32", {4, true}}, {"bf16", {2, true}}, {"zeros", {4, true}}, {"noise", {4, false}}};

std::vector<std::byte> make_data(const std::string& kind) {
  std::vector<std::byte> data(kWalkBytes);
  if (kind == "zeros") return data;
  // 16 MiB of distinct values, repeated: more than a chunk, so that no chunk sees a repetition.
  constexpr std::size_t kPeriod = 16 * kMiB;
  std::mt19937 generator(1);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  const std::size_t width = kind == "bf16" ? 2 : 4;
  for (std::size_t i = 0; i < kPeriod; i += width) {
    std::uint32_t bits = generator();
    const float value = kind == "noise" ? 0.0f : normal(generator);
    if (kind != "noise") std::memcpy(&bits, &value, sizeof bits);
    if (kind == "bf16") bits = (bits + 0x8000u) >> 16;
    std::memcpy(data.data() + i, &bits, width);
  }
  for (std::size_t i = kPeriod; i < data.size(); i += kPeriod) std::memcpy(data.data() + i, data.data(), kPeriod);
  return data;
}

void copy_chunks(benchmark::State& state) {
  std::vector<std::byte> source(kWalkBytes, std::byte{1}), target(kWalkBytes, std::byte{2});
  std::size_t i = 0;
  for (auto _ : state) {
    std::memcpy(target.data() + i * kChunkBytesMax, source.data() + i * kChunkBytesMax, kChunkBytesMax);
    benchmark::ClobberMemory();
    i = (i + 1) % kChunks;
  }
  count_bytes(state, kChunkBytesMax);
}

void encode(benchmark::State& state, const Kind& kind) {
  const std::vector<std::byte> source = make_data(kind.name);
  std::vector<std::byte> target(kWalkBytes, std::byte{2});
  ChunkEncoder encoder;
  std::size_t i = 0, stored = 0;
  for (auto _ : state) {
    const std::size_t at = i * kChunkBytesMax;
    const auto encoded = encoder.encode(Bytes(source).subspan(at, kChunkBytesMax), kind.format, CodecPolicy::kAuto,
                                        MutableBytes(target).subspan(at, kChunkBytesMax));
    if (!encoded.ok()) return state.SkipWithError("encode");
    stored += encoded->stored_bytes;
    i = (i + 1) % kChunks;
  }
  count_bytes(state, kChunkBytesMax);
  state.counters["ratio"] = static_cast<double>(stored) / (static_cast<double>(state.iterations()) * kChunkBytesMax);
}

void decode(benchmark::State& state, const Kind& kind) {
  const std::vector<std::byte> source = make_data(kind.name);
  std::vector<std::byte> stored(kWalkBytes), target(kWalkBytes, std::byte{2});
  std::vector<Encoded> encoded(kChunks);
  ChunkEncoder encoder;
  for (std::size_t i = 0; i < kChunks; ++i) {
    const std::size_t at = i * kChunkBytesMax;
    encoded[i] = *encoder.encode(Bytes(source).subspan(at, kChunkBytesMax), kind.format, CodecPolicy::kAuto,
                                 MutableBytes(stored).subspan(at, kChunkBytesMax));
  }
  ChunkDecoder decoder;
  std::size_t i = 0;
  for (auto _ : state) {
    const std::size_t at = i * kChunkBytesMax;
    if (!decoder
             .decode(encoded[i].codec, Bytes(stored).subspan(at, encoded[i].stored_bytes),
                     MutableBytes(target).subspan(at, kChunkBytesMax))
             .ok())
      return state.SkipWithError("decode");
    i = (i + 1) % kChunks;
  }
  count_bytes(state, kChunkBytesMax);
}

const bool registered = [] {
  for (const Kernels& kernels : all_kernels()) {
    if (!kernels.usable) continue;
    for (unsigned width : {2u, 4u, 8u})
      for (bool rotate : {false, true}) {
        const std::string name = std::string(kernels.name) + "/w" + std::to_string(width) + (rotate ? "/rotate" : "");
        benchmark::RegisterBenchmark(("split_planes/" + name).c_str(), split, kernels, width, rotate);
        benchmark::RegisterBenchmark(("merge_planes/" + name).c_str(), merge, kernels, width, rotate);
      }
  }
  benchmark::RegisterBenchmark("chunk_memcpy", copy_chunks);
  for (const Kind& kind : kKinds) {
    benchmark::RegisterBenchmark((std::string("chunk_encode/") + kind.name).c_str(), encode, kind);
    benchmark::RegisterBenchmark((std::string("chunk_decode/") + kind.name).c_str(), decode, kind);
  }
  return true;
}();

}  // namespace
}  // namespace ostraca
