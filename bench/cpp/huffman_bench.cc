// Planes of skewed bytes as Huffman-only frames: ours, and libzstd's decoder on the same frames. "bits" are those of a
// byte.
#include <benchmark/benchmark.h>
#include <zstd.h>

#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/limits.h"
#include "codec/huffman_frame.h"
#include "codec/huffman_frame_decoder.h"

namespace ostraca {
namespace {

constexpr std::size_t kPlaneBytes = kMiB;

struct Plane {
  explicit Plane(double sigma) : content(kPlaneBytes), frame(2 * kPlaneBytes) {
    std::mt19937 generator(1);
    std::normal_distribution<double> normal(0, sigma);
    for (std::byte& b : content) b = static_cast<std::byte>(std::lround(normal(generator)));
    frame.resize(HuffmanFrameEncoder().encode(content, frame));
  }
  std::vector<std::byte> content, frame;
};

void count(benchmark::State& state, const Plane& plane) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * kPlaneBytes));
  state.counters["bits"] = 8 * static_cast<double>(plane.frame.size()) / kPlaneBytes;
}

void encode(benchmark::State& state, double sigma) {
  const Plane plane(sigma);
  std::vector<std::byte> out(plane.frame.size());
  HuffmanFrameEncoder encoder;
  for (auto _ : state)
    if (encoder.encode(plane.content, out) == 0) return state.SkipWithError("encode");
  count(state, plane);
}

void decode(benchmark::State& state, double sigma) {
  const Plane plane(sigma);
  std::vector<std::byte> out(kPlaneBytes);
  HuffmanFrameDecoder decoder;
  for (auto _ : state)
    if (!decoder.decode(plane.frame, out)) return state.SkipWithError("decode");
  count(state, plane);
}

void decode_by_libzstd(benchmark::State& state, double sigma) {
  const Plane plane(sigma);
  std::vector<std::byte> out(kPlaneBytes);
  const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(), ZSTD_freeDCtx);
  for (auto _ : state)
    if (ZSTD_isError(
            ZSTD_decompressDCtx(context.get(), out.data(), out.size(), plane.frame.data(), plane.frame.size())))
      return state.SkipWithError("decode");
  count(state, plane);
}

const bool registered = [] {
  for (const char* sigma : {"0.3", "1", "2.5", "5", "12", "16", "20", "40"}) {
    const std::string suffix = std::string("/sigma_") + sigma;
    benchmark::RegisterBenchmark(("huffman_encode" + suffix).c_str(), encode, std::stod(sigma));
    benchmark::RegisterBenchmark(("huffman_decode" + suffix).c_str(), decode, std::stod(sigma));
    benchmark::RegisterBenchmark(("huffman_decode_libzstd" + suffix).c_str(), decode_by_libzstd, std::stod(sigma));
  }
  return true;
}();

}  // namespace
}  // namespace ostraca
