// Internal to cpp/storage: what lies in one directory of a POSIX run.
#pragma once

#include <dirent.h>
#include <sys/stat.h>

#include <functional>
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

// Calls `take` for all names of an open directory but "." and "..". Threads may list it at once. `path`: for messages.
Status posix_list(int directory, const std::string& path, const std::function<void(const dirent&)>& take);

// Which directory `about` is of.
std::string posix_identity(const struct stat& about);
std::int64_t posix_changed_ns(const struct stat& about);
std::int64_t posix_nanoseconds(const timespec& time);

// Fills what a scan says of the directory called `child->name` in `run`, a descriptor.
void posix_visit(int run, const PosixLinks& links, const ScanOptions& options, Run::Child* child);

}  // namespace ostraca
