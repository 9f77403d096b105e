// The implementations behind content_hash(), for its dispatcher, tests and benchmarks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace ostraca {

// XXH3-128 with seed 0, as two numbers: plain data, so that kernels share no inline code.
struct Hash128 {
  std::uint64_t low;
  std::uint64_t high;
};

using ContentHashFunction = Hash128 (*)(const std::byte* data, std::size_t size);

Hash128 content_hash_portable(const std::byte* data, std::size_t size);
Hash128 content_hash_avx2(const std::byte* data, std::size_t size);
Hash128 content_hash_avx512(const std::byte* data, std::size_t size);

struct ContentHashKernel {
  const char* name;
  ContentHashFunction function;
};

// The kernels that this CPU runs (and OSTRACA_ISA allows), best first; the last one is portable.
std::span<const ContentHashKernel> content_hash_kernels();

}  // namespace ostraca
