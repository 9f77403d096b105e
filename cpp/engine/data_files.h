// The data files of an open checkpoint.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "container/directory.h"
#include "container/file_format.h"
#include "storage/storage.h"

namespace ostraca {

// A data file whose structure has been checked against the index.
struct DataFile {
  std::unique_ptr<ReadableFile> file;
  std::vector<Extent> extents;
  std::uint64_t table_offset = 0;
};

// Opens a checkpoint's data files and those of its base, each once. Thread-safe. Files are held open from the start, up
// to kOpenFilesMax, so that they outlive an overwrite; they are checked when they are first needed.
class DataFiles {
 public:
  // `base` is where the files of the directory's base lie; null when it has none. REQUIRES: all outlive this.
  DataFiles(Storage& storage, Storage* base, const IndexDirectory& directory);

  // The file, checked; an error that names it otherwise. Valid as long as this.
  Result<const DataFile*> get(std::uint32_t number);
  // The extent that a delta is the difference to, and its file's number. kFormat, kCorruption when it is not what
  // the delta says, or its file cannot be used.
  struct BaseExtent {
    std::uint32_t file;
    std::uint32_t extent;
  };
  Result<BaseExtent> base_of(const Extent& delta);
  // The number of the base's file that has this number in its own index.
  std::optional<std::uint32_t> base_file(std::uint32_t base_number) const;
  // Whether one of the checkpoint's own files opened at the start was not there.
  bool missing() const { return missing_; }

 private:
  struct Slot {
    std::mutex mutex;
    std::unique_ptr<ReadableFile> opened;
    std::unique_ptr<DataFile> checked;
  };
  Status check(std::uint32_t number, Slot& slot);
  Status check_extents(std::uint32_t number, const std::vector<Extent>& extents);
  Storage& storage_of(const FileRecord& record) { return record.in_base ? *base_ : storage_; }

  Storage& storage_;
  Storage* const base_;
  const IndexDirectory& directory_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::unordered_map<std::uint32_t, std::uint32_t> base_numbers_;  // of the base's files, in its index -> in this one
  std::mutex mutex_;
  std::optional<ReferencesByFile> references_;  // made when a file is first checked; guarded by mutex_ until then
  bool missing_ = false;
};

}  // namespace ostraca
