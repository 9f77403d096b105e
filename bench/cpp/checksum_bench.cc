// Bytes per second of every checksum and hash kernel this CPU runs, beside memcpy: from the cache (256 KiB) and from
// DRAM (256 MiB).
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "checksum/content_hash_kernels.h"
#include "checksum/crc32c_kernels.h"

namespace ostraca {
namespace {

constexpr std::int64_t kCache = 256 << 10, kDram = 256 << 20;

// Touched memory in huge pages, as the engine's own buffers are. Never freed: the benchmarks need it to the end.
std::byte* allocate(std::size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) std::abort();
#ifdef MADV_HUGEPAGE
  madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  std::memset(memory, 1, bytes);
  return static_cast<std::byte*>(memory);
}

// Random bytes, one buffer for all benchmarks.
const std::byte* source() {
  static const std::byte* const buffer = [] {
    std::byte* bytes = allocate(kDram);
    std::mt19937_64 random(1);
    for (std::int64_t i = 0; i < kDram; i += 8) {
      const std::uint64_t word = random();
      std::memcpy(bytes + i, &word, 8);
    }
    return bytes;
  }();
  return buffer;
}

template <class Function>
void add(const std::string& name, Function function) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [function](benchmark::State& state) {
                                 const std::byte* data = source();
                                 const auto size = static_cast<std::size_t>(state.range(0));
                                 function(data, size);  // allocates and warms up
                                 for (auto _ : state) function(data, size);
                                 state.SetBytesProcessed(state.iterations() * state.range(0));
                               })
      ->Arg(4 << 10)
      ->Arg(kCache)
      ->Arg(kDram);
}

const bool registered = [] {
  for (const Crc32cKernel& kernel : crc32c_kernels())
    add("crc32c/" + std::string(kernel.name), [update = kernel.update](const std::byte* data, std::size_t size) {
      benchmark::DoNotOptimize(update(0, data, size));
    });
  for (const ContentHashKernel& kernel : content_hash_kernels())
    add("xxh3_128/" + std::string(kernel.name), [hash = kernel.function](const std::byte* data, std::size_t size) {
      benchmark::DoNotOptimize(hash(data, size));
    });
  add("memcpy", [](const std::byte* data, std::size_t size) {
    static std::byte* const target = allocate(kDram);
    std::memcpy(target, data, size);
    benchmark::ClobberMemory();
  });
  return true;
}();

}  // namespace
}  // namespace ostraca
