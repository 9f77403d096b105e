// One directory out of those of several processes' data files.
#pragma once

#include <vector>

#include "container/directory.h"
#include "container/file_format.h"
#include "ostraca/status.h"

namespace ostraca {

// One process's share of a checkpoint: its data files, and what the last one says of them.
struct Share {
  std::vector<FileRecord> files;  // by part
  DataDirectory directory;
  std::vector<std::vector<Extent>> extents;  // of each file
};

// Whether a directory is that of a file before its process's last, which this is: it names that alone.
bool names_itself_alone(const DataDirectory& directory, const FileRecord& file);

// All processes' leaves, in the order in which they first appear; a leaf's shards together. kMismatch where processes
// disagree on a leaf. The result is what the index holds; it has not been checked for completeness.
Result<IndexDirectory> merge(const std::vector<Share>& shares);

}  // namespace ostraca
