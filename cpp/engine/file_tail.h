// How data and index files end: extent table, directory, padding, footer.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "container/directory.h"
#include "container/file_format.h"
#include "ostraca/status.h"

namespace ostraca {

// What the directory and footer of a data file before a process's last take at most.
inline constexpr std::size_t kPartTailBytesMax = 512;

// Immutable; made from what goes into it, before it is known where it goes.
class FileTail {
 public:
  // kInvalidArgument: the directory is too large.
  static Result<FileTail> make(const std::vector<Extent>& extents, const Directory& directory);

  // Without padding.
  std::size_t bytes() const { return table_.size() + frame_.size() + kFooterBytes; }
  // From `offset` to the end of the file, which is on the header's alignment. REQUIRES: offset is where extents end, or
  // after padding.
  std::vector<std::byte> encode(const FileHeader& header, std::uint64_t offset) const;

 private:
  std::vector<std::byte> table_, frame_;
  std::size_t extents_ = 0, directory_bytes_ = 0;
};

}  // namespace ostraca
