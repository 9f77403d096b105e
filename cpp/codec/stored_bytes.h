// What is stored as it is, on its way into an output block.
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace ostraca {

// Copies `from` to `to`, past the caches, since only the device reads it there; returns the CRC32C of what precedes,
// which is `crc`, followed by it. REQUIRES: no overlap.
std::uint32_t store_bytes(Bytes from, std::byte* to, std::uint32_t crc);

}  // namespace ostraca
