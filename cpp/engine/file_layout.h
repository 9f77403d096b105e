// Where coded contents go in the data files of one process. Neither memory nor I/O: what the pipeline writes follows
// it.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "checksum/content_hash.h"
#include "container/file_format.h"

namespace ostraca {

// Blocks come in order, each with the contents that were coded into it. What the files hold already is left out, and
// the block closed up. A block goes to the current file; where that would pass `file_bytes`, the file ends and the next
// one begins. The files so depend on the contents alone. Not thread-safe.
class FileLayout {
 public:
  struct Limits {
    std::uint64_t file_bytes = 0;             // of one file, if it holds more than one block; 0: there is one file
    std::uint32_t parts_max = kPartCountMax;  // the last of so many files takes what is left
  };
  struct Content {
    std::uint32_t part;    // the file that holds it
    std::uint32_t extent;  // in that file
    std::size_t position;  // in the block; of a new one
    bool is_new;           // this block brings it
  };
  struct Block {
    std::uint32_t part = 0;
    std::uint64_t offset = 0;  // in that file, on the alignment
    std::size_t bytes = 0;     // 0: it brings nothing, and is not written
    bool begins_part = false;  // the file before it is complete but for its tables
    std::vector<Content> contents;
  };

  explicit FileLayout(const Limits& limits) : limits_(limits) {}

  // REQUIRES: before the first block.
  void set_alignment(std::size_t alignment) { alignment_ = alignment; }
  bool knows(const ContentHash& hash, std::uint32_t decoded_bytes) const {
    return places_.contains({hash, decoded_bytes});
  }
  // `contents` are extents without an offset. The very first block begins with the first file's header; of the others'
  // headers, each has an alignment unit to itself.
  Block place(std::span<const Extent> contents);

  std::uint32_t parts() const { return static_cast<std::uint32_t>(files_.size()); }
  // Of a file, in the order of their offsets. The reference stays valid; those of ended files do not change any more.
  const std::vector<Extent>& extents(std::uint32_t part) const { return files_[part].extents; }
  // Where the next block of the file would go: on the alignment.
  std::uint64_t end(std::uint32_t part) const { return files_[part].end; }

 private:
  struct File {
    std::vector<Extent> extents;
    std::uint64_t end = 0;
    bool has_block = false;
  };
  bool is_full(std::size_t more_bytes, std::size_t more_extents) const;

  const Limits limits_;
  std::size_t alignment_ = kAlignmentMin;
  std::deque<File> files_{1};
  std::map<std::pair<ContentHash, std::uint32_t>, std::pair<std::uint32_t, std::uint32_t>> places_;  // -> part, extent
};

}  // namespace ostraca
