#include "codec/stored_bytes.h"

#include <algorithm>

#include "base/limits.h"
#include "base/stream_copy.h"
#include "checksum/crc32c.h"

namespace ostraca {

std::uint32_t store_bytes(Bytes from, std::byte* to, std::uint32_t crc) {
  constexpr std::size_t kPieceBytes = 64 * kKiB;  // read for the CRC, still in the L2 cache when it is copied
  while (!from.empty()) {
    const Bytes piece = from.first(std::min(from.size(), kPieceBytes));
    crc = crc32c(piece, crc);
    stream_copy(to, piece.data(), piece.size());
    from = from.subspan(piece.size());
    to += piece.size();
  }
  return crc;
}

}  // namespace ostraca
