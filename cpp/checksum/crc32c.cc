#include "checksum/crc32c.h"

#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "base/cpu.h"
#include "checksum/crc32c_kernels.h"
#include "checksum/crc32c_polynomial.h"

namespace ostraca {
namespace {

// kSliceTables[k][b]: the register after byte b and then k zero bytes, from zero.
using SliceTables = std::array<std::array<std::uint32_t, 256>, 8>;
constexpr SliceTables kSliceTables = [] {
  SliceTables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t state = byte;
    for (auto& table : tables) {
      for (int bit = 0; bit < 8; ++bit) state = crc32c_times_x(state);
      table[byte] = state;
    }
  }
  return tables;
}();

// kSquares[k]: x^(8 * 2^k), what appending 2^k bytes multiplies a register by.
constexpr auto kSquares = [] {
  std::array<std::uint32_t, 64> squares{};
  squares[0] = crc32c_x_power(8);
  for (std::size_t k = 1; k < squares.size(); ++k) squares[k] = crc32c_multiply(squares[k - 1], squares[k - 1]);
  return squares;
}();

std::vector<Crc32cKernel> find_kernels() {
  std::vector<Crc32cKernel> kernels;
#if defined(__x86_64__)
  if (cpu_features().vpclmulqdq) kernels.push_back({"avx512", crc32c_avx512});
  if (cpu_features().sse42) kernels.push_back({"sse42", crc32c_sse42});
#elif defined(__aarch64__)
  if (cpu_features().arm_crc) kernels.push_back({"arm64", crc32c_arm64});
#endif
  kernels.push_back({"portable", crc32c_portable});
  return kernels;
}

}  // namespace

std::uint32_t crc32c_portable(std::uint32_t state, const std::byte* data, std::size_t size) {
  const auto& t = kSliceTables;
  for (; size >= 8; data += 8, size -= 8) {  // eight bytes by eight independent look-ups
    const std::uint64_t v = load_le<std::uint64_t>(data) ^ state;
    state = t[7][v & 255] ^ t[6][v >> 8 & 255] ^ t[5][v >> 16 & 255] ^ t[4][v >> 24 & 255] ^  //
            t[3][v >> 32 & 255] ^ t[2][v >> 40 & 255] ^ t[1][v >> 48 & 255] ^ t[0][v >> 56];
  }
  for (; size > 0; ++data, --size) state = state >> 8 ^ t[0][(state ^ static_cast<std::uint32_t>(*data)) & 255];
  return state;
}

std::span<const Crc32cKernel> crc32c_kernels() {
  static const std::vector<Crc32cKernel> kernels = find_kernels();
  return kernels;
}

std::uint32_t crc32c(Bytes data, std::uint32_t crc) {
  static const Crc32cUpdate update = crc32c_kernels().front().update;
  return ~update(~crc, data.data(), data.size());
}

std::uint32_t crc32c_combine(std::uint32_t crc_a, std::uint32_t crc_b, std::uint64_t length_b) {
  // The inversions before and after cancel out, as the CRC of B starts from an inverted zero as well.
  for (; length_b != 0; length_b &= length_b - 1) crc_a = crc32c_multiply(crc_a, kSquares[std::countr_zero(length_b)]);
  return crc_a ^ crc_b;
}

}  // namespace ostraca
