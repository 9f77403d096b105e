// The data files of an open checkpoint.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
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

// Opens a checkpoint's data files, each once. Thread-safe. Files are held open from the start, up to
// kOpenFilesMax, so that they outlive an overwrite; they are checked when they are first needed.
class DataFiles {
 public:
  // REQUIRES: both outlive this.
  DataFiles(Storage& storage, const Directory& directory);

  // The file, checked; an error that names it otherwise. Valid as long as this.
  Result<const DataFile*> get(std::uint32_t number);
  // Whether one of the files opened at the start was not there.
  bool missing() const { return missing_; }

 private:
  struct Slot {
    std::mutex mutex;
    std::unique_ptr<ReadableFile> opened;
    std::unique_ptr<DataFile> checked;
  };
  Status check(std::uint32_t number, Slot& slot);

  Storage& storage_;
  const Directory& directory_;
  std::vector<std::unique_ptr<Slot>> slots_;
  bool missing_ = false;
};

}  // namespace ostraca
