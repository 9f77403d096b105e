// CRC32C by a CPU's CRC instruction. It takes three cycles but one starts in each, so three neighbouring lanes are
// advanced together and their registers merged by carry-less multiplication.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "checksum/crc32c_polynomial.h"

namespace ostraca {

// `Isa` supplies word(state, uint64), byte(state, uint8) and clmul(uint32, uint32). It lives in its kernel's anonymous
// namespace, which gives these functions internal linkage too: no code for one CPU leaks into another's.
template <class Isa, std::size_t kLaneBytes>
std::uint32_t crc32c_three_lanes(std::uint32_t state, const std::byte* data) {
  std::uint32_t a = state, b = 0, c = 0;
  for (std::size_t i = 0; i < kLaneBytes; i += 8) {
    std::uint64_t words[3];
    std::memcpy(&words[0], data + i, 8);
    std::memcpy(&words[1], data + kLaneBytes + i, 8);
    std::memcpy(&words[2], data + 2 * kLaneBytes + i, 8);
    a = Isa::word(a, words[0]);
    b = Isa::word(b, words[1]);
    c = Isa::word(c, words[2]);
  }
  // The product of two reflected remainders is short of one x as a 64-bit value, and word(0, .) multiplies by x^32.
  constexpr std::uint32_t kOver1 = crc32c_x_power(8 * kLaneBytes - 33), kOver2 = crc32c_x_power(16 * kLaneBytes - 33);
  return c ^ Isa::word(0, Isa::clmul(a, kOver2) ^ Isa::clmul(b, kOver1));
}

template <class Isa>
std::uint32_t crc32c_three_way(std::uint32_t state, const std::byte* data, std::size_t size) {
  // Bytes of a lane. Merging costs about 15 cycles, so short lanes lose a tenth. Between these two, hardware
  // prefetchers lose the three streams: from DRAM, lanes of 512 bytes to 8 KiB ran at half the speed.
  constexpr std::size_t kLong = 65536, kShort = 256;
  for (; size >= 3 * kLong; data += 3 * kLong, size -= 3 * kLong) state = crc32c_three_lanes<Isa, kLong>(state, data);
  for (; size >= 3 * kShort; data += 3 * kShort, size -= 3 * kShort)
    state = crc32c_three_lanes<Isa, kShort>(state, data);
  for (; size >= 8; data += 8, size -= 8) {
    std::uint64_t word;
    std::memcpy(&word, data, 8);
    state = Isa::word(state, word);
  }
  for (; size > 0; ++data, --size) state = Isa::byte(state, static_cast<std::uint8_t>(*data));
  return state;
}

}  // namespace ostraca
