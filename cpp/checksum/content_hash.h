// The 128-bit content hash of decoded chunks: XXH3-128, seed 0, canonical (big-endian) byte order.
// It guards against accidents and names content for deduplication; it is no defence against an adversary.
#pragma once

#include <array>
#include <cstddef>

#include "base/bytes.h"

namespace ostraca {

using ContentHash = std::array<std::byte, 16>;

ContentHash content_hash(Bytes data);

}  // namespace ostraca
