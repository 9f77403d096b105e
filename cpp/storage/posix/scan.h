// Internal to cpp/storage: what lies in one directory of a POSIX run.
#pragma once

#include <sys/stat.h>

#include <string>

#include "storage/posix/calls.h"
#include "storage/storage.h"

namespace ostraca {

// Where symbolic links of a run lead. Thread-safe.
class PosixLinks {
 public:
  explicit PosixLinks(const std::string& run);  // its path
  // `path`: of the link, in the run. Sets `whole` if it leads to the child itself. Leading nowhere is ok.
  Result<std::string> child_of(const std::string& path, bool* whole = nullptr) const;

 private:
  const std::string run_, real_;
};

// Which directory `about` is of.
std::string posix_identity(const struct stat& about);
std::int64_t posix_changed_ns(const struct stat& about);

// Fills what a scan says of the directory called `child->name` in `run`, a descriptor.
void posix_visit(int run, const PosixLinks& links, const ScanOptions& options, Run::Child* child);

}  // namespace ostraca
