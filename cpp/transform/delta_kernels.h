// The vector kernels behind delta.h, one pair per instruction set. Internal: delta.cc picks one by cpu_features(); the
// tests and benchmarks run each that the machine has.
#pragma once

#include <cstddef>

namespace ostraca::delta_kernels {

// Does the leading part of `count` elements that fills whole vectors and returns how many elements it did; the caller
// does the rest. Same REQUIRES as in delta.h. `in` are elements (zigzag) or differences (apply); `out` the other.
using Kernel = std::size_t (*)(const std::byte* in, const std::byte* base, std::size_t count, unsigned width,
                               std::byte* out);

// Complete: these two always do all `count` elements. They are the reference for the others.
std::size_t zigzag_portable(const std::byte* in, const std::byte* base, std::size_t count, unsigned width,
                            std::byte* out);
std::size_t apply_portable(const std::byte* in, const std::byte* base, std::size_t count, unsigned width,
                           std::byte* out);

#if defined(__x86_64__)
std::size_t zigzag_avx2(const std::byte* in, const std::byte* base, std::size_t count, unsigned width, std::byte* out);
std::size_t apply_avx2(const std::byte* in, const std::byte* base, std::size_t count, unsigned width, std::byte* out);
std::size_t zigzag_avx512(const std::byte* in, const std::byte* base, std::size_t count, unsigned width,
                          std::byte* out);
std::size_t apply_avx512(const std::byte* in, const std::byte* base, std::size_t count, unsigned width, std::byte* out);
#elif defined(__aarch64__)
std::size_t zigzag_arm64(const std::byte* in, const std::byte* base, std::size_t count, unsigned width, std::byte* out);
std::size_t apply_arm64(const std::byte* in, const std::byte* base, std::size_t count, unsigned width, std::byte* out);
#endif

}  // namespace ostraca::delta_kernels
