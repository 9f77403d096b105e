#include "engine/file_tail.h"

#include <algorithm>

#include "base/limits.h"
#include "checksum/crc32c.h"
#include "codec/codec.h"

namespace ostraca {
namespace {

constexpr int kDirectoryLevel = 1;  // zstd level: directories are small next to the data, and repetitive

}  // namespace

Result<FileTail> FileTail::make(const std::vector<Extent>& extents, const Directory& directory) {
  const std::vector<std::byte> decoded = encode_directory(directory);
  if (decoded.size() > kDirectoryBytesMax) return invalid_argument("the checkpoint has too many leaves for one file");
  FileTail tail;
  tail.table_ = encode_extents(extents);
  tail.extents_ = extents.size();
  tail.directory_bytes_ = decoded.size();
  tail.frame_.resize(zstd_bound(decoded.size()));
  OSTRACA_ASSIGN_OR_RETURN(const std::size_t frame_bytes, zstd_compress(decoded, kDirectoryLevel, tail.frame_));
  tail.frame_.resize(frame_bytes);
  return tail;
}

std::vector<std::byte> FileTail::encode(const FileHeader& header, std::uint64_t offset) const {
  const std::uint64_t end = round_up(offset + bytes(), header.alignment);
  std::vector<std::byte> out(end - offset);
  std::ranges::copy(table_, out.begin());
  std::ranges::copy(frame_, out.begin() + static_cast<std::ptrdiff_t>(table_.size()));
  const auto footer = encode_footer({.table_offset = offset,
                                     .extent_count = extents_,
                                     .directory_offset = offset + table_.size(),
                                     .directory_stored_bytes = frame_.size(),
                                     .directory_decoded_bytes = directory_bytes_,
                                     .table_crc = crc32c(table_),
                                     .directory_crc = crc32c(frame_),
                                     .id = header.id,
                                     .file_bytes = end,
                                     .header_crc = header_crc(encode_header(header))});
  std::ranges::copy(footer, out.end() - kFooterBytes);
  return out;
}

}  // namespace ostraca
