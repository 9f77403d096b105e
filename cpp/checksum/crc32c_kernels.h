// The implementations behind crc32c(), for its dispatcher, tests and benchmarks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace ostraca {

// All kernels are this function: they move the CRC register (not inverted, neither going in nor out) over the bytes.
using Crc32cUpdate = std::uint32_t (*)(std::uint32_t state, const std::byte* data, std::size_t size);

std::uint32_t crc32c_portable(std::uint32_t state, const std::byte* data, std::size_t size);
std::uint32_t crc32c_sse42(std::uint32_t state, const std::byte* data, std::size_t size);
std::uint32_t crc32c_avx512(std::uint32_t state, const std::byte* data, std::size_t size);
std::uint32_t crc32c_arm64(std::uint32_t state, const std::byte* data, std::size_t size);

struct Crc32cKernel {
  const char* name;
  Crc32cUpdate update;
};

// The kernels that this CPU runs (and OSTRACA_ISA allows), best first; the last one is portable.
std::span<const Crc32cKernel> crc32c_kernels();

}  // namespace ostraca
