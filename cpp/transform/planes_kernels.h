// The vector kernels behind planes.h, one pair per instruction set. Internal: planes.cc picks one by cpu_features();
// the tests and benchmarks run each that the machine has.
#pragma once

#include <cstddef>

namespace ostraca::planes_kernels {

// Splits or merges the leading part of `count` elements that fills whole vectors and returns how many elements it
// did; the caller does the rest. Same REQUIRES as in planes.h. Widths or lengths a kernel does not know yield 0.
using SplitKernel = std::size_t (*)(const std::byte* elements, std::size_t count, unsigned width, bool rotate,
                                    std::byte* const* planes);
using MergeKernel = std::size_t (*)(const std::byte* const* planes, std::size_t count, unsigned width, bool rotate,
                                    std::byte* elements);

// Complete: these two always do all `count` elements. They are the reference for the others.
std::size_t split_portable(const std::byte* elements, std::size_t count, unsigned width, bool rotate,
                           std::byte* const* planes);
std::size_t merge_portable(const std::byte* const* planes, std::size_t count, unsigned width, bool rotate,
                           std::byte* elements);

#if defined(__x86_64__)
std::size_t split_avx2(const std::byte* elements, std::size_t count, unsigned width, bool rotate,
                       std::byte* const* planes);
std::size_t merge_avx2(const std::byte* const* planes, std::size_t count, unsigned width, bool rotate,
                       std::byte* elements);
std::size_t split_avx512(const std::byte* elements, std::size_t count, unsigned width, bool rotate,
                         std::byte* const* planes);
std::size_t merge_avx512(const std::byte* const* planes, std::size_t count, unsigned width, bool rotate,
                         std::byte* elements);
#elif defined(__aarch64__)
std::size_t split_arm64(const std::byte* elements, std::size_t count, unsigned width, bool rotate,
                        std::byte* const* planes);
std::size_t merge_arm64(const std::byte* const* planes, std::size_t count, unsigned width, bool rotate,
                        std::byte* elements);
#endif

}  // namespace ostraca::planes_kernels
