// Arithmetic in GF(2)[x] modulo the CRC32C polynomial. A remainder is held reflected: bit 31 is the coefficient of
// x^0. A CRC register is such a remainder, and appending n bytes multiplies it by x^(8n).
#pragma once

#include <cstdint>

namespace ostraca {

inline constexpr std::uint32_t kCrc32cPolynomial = 0x82F63B78;  // x^32 is implied

constexpr std::uint32_t crc32c_times_x(std::uint32_t a) { return (a >> 1) ^ (a & 1 ? kCrc32cPolynomial : 0); }

constexpr std::uint32_t crc32c_multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (; a != 0; a <<= 1) {  // from x^0 upwards
    if (a & 0x80000000u) product ^= b;
    b = crc32c_times_x(b);
  }
  return product;
}

// x^n, by squaring. Kernels call this in constant expressions only, and so emit no code of this header.
constexpr std::uint32_t crc32c_x_power(std::uint64_t n) {
  std::uint32_t result = 0x80000000u, square = 0x40000000u;  // x^0, x^1
  for (; n != 0; n >>= 1) {
    if (n & 1) result = crc32c_multiply(result, square);
    square = crc32c_multiply(square, square);
  }
  return result;
}

}  // namespace ostraca
