// CRC32C (Castagnoli, reflected polynomial 0x82F63B78; RFC 3720 appendix B.4): the check on every stored byte.
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace ostraca {

// CRC of `data`; with `crc` the CRC of some earlier bytes, the CRC of those bytes followed by `data`.
std::uint32_t crc32c(Bytes data, std::uint32_t crc = 0);

// CRC of A followed by B, from crc32c(A), crc32c(B) and the length of B in bytes.
std::uint32_t crc32c_combine(std::uint32_t crc_a, std::uint32_t crc_b, std::uint64_t length_b);

}  // namespace ostraca
