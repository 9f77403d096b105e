// The data files that one process writes in a save.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "container/directory.h"
#include "container/file_format.h"
#include "engine/file_tail.h"
#include "storage/storage.h"

namespace ostraca {

// Makes each file when it is first written to, and ends it. All but the last have a directory that names themselves
// alone: the last one's says what all of them hold (docs/decisions/0017). Thread-safe.
class PartFiles {
 public:
  // `header` is the first file's, but for its alignment. REQUIRES: `storage` outlives this.
  PartFiles(Storage& storage, IoMode io, const FileHeader& header, std::uint64_t file_bytes)
      : storage_(storage), io_(io), header_(header), file_bytes_(file_bytes) {}

  Status open();  // makes the first file; once, before everything else
  std::size_t alignment() const { return header_.alignment; }
  std::uint64_t file_bytes() const { return file_bytes_; }  // that a file may have; 0: there is one
  FileHeader header(std::uint32_t part) const;

  // The file, with its header, but the first one's, which is its first block's. Valid until the file has ended.
  Result<WritableFile*> get(std::uint32_t part);
  // Ends a file before the last: writes its tables from `offset` on. REQUIRES: all else is written.
  Status end(std::uint32_t part, const std::vector<Extent>& extents, std::uint64_t offset);
  // Notes that the file has all its bytes, of which `tail` are the last, and makes it durable.
  Status close(std::uint32_t part, std::uint64_t bytes, Bytes tail);

  // Of the first `count` files, which have ended.
  std::vector<FileRecord> records(std::uint32_t count);
  // Closes and removes them all. REQUIRES: nobody writes any more.
  void remove();

 private:
  struct Part {
    std::mutex mutex;
    std::unique_ptr<WritableFile> file;
    bool is_ours = false;  // made here, so that it may be removed
    FileRecord record;
  };
  Part& part(std::uint32_t number);
  Status make(Part& part, std::uint32_t number);

  Storage& storage_;
  const IoMode io_;
  FileHeader header_;
  const std::uint64_t file_bytes_;
  std::mutex mutex_;  // guards parts_, not what is in them
  std::deque<Part> parts_;
};

}  // namespace ostraca
