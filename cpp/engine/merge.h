// One directory out of those of several processes' data files.
#pragma once

#include <vector>

#include "container/directory.h"
#include "container/file_format.h"
#include "ostraca/status.h"

namespace ostraca {

// One process's part of a checkpoint: its data file, and what that says of itself.
struct Part {
  FileRecord record;
  DataDirectory directory;
  std::vector<Extent> extents;
};

// All processes' leaves, in the order in which they first appear; a leaf's shards together. kMismatch where processes
// disagree on a leaf. The result is what the index holds; it has not been checked for completeness.
Result<IndexDirectory> merge(const std::vector<Part>& parts);

}  // namespace ostraca
