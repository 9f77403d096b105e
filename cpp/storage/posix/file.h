// Internal to cpp/storage: files of a POSIX directory.
#pragma once

#include <sys/stat.h>

#include <memory>
#include <string>

#include "storage/posix/calls.h"
#include "storage/storage.h"

namespace ostraca {

// A shared descriptor: an open file needs its directory after the storage is gone (the second, direct descriptor).
using Directory = std::shared_ptr<const UniqueFd>;

// A new file in `directory`. `path` is for messages.
Result<std::unique_ptr<WritableFile>> posix_create(const Directory& directory, const std::string& name,
                                                   std::string path, IoMode mode, const PosixCalls& calls);

Result<std::unique_ptr<ReadableFile>> posix_open(Directory directory, std::string name, std::string path,
                                                 const PosixCalls& calls);

// A shared flock on a file, as Storage::lease says. `path` is for messages.
Result<std::unique_ptr<Lease>> posix_lease(Directory directory, std::string name, const std::string& path,
                                           const PosixCalls& calls);

// The exclusive lease of Storage::lease_replacing: a flock on the file `name`.lock, which is there while it is held.
// Whoever gets the flock looks whether the file still has the name: the one before removed it. A file that a killed
// process left is used by the next.
Result<std::unique_ptr<Lease>> posix_lease_replacing(Directory directory, const std::string& name,
                                                     const std::string& path, const PosixCalls& calls);

// Those of Storage::lease_exclusive and lease_removing.
Result<std::unique_ptr<Lease>> posix_lease_exclusive(const Directory& directory, const std::string& name,
                                                     const std::string& path, const PosixCalls& calls);
Result<std::unique_ptr<Lease>> posix_lease_removing(Directory directory, const std::string& name,
                                                    const std::string& path, const PosixCalls& calls);

// As Storage says. `path` is of the directory, for messages.
Status posix_retire(const Directory& directory, const std::string& path, const std::string& name,
                    const std::string& version, const std::string& retired, const PosixCalls& calls);
Status posix_restore(const Directory& directory, const std::string& path, const std::string& retired,
                     const std::string& name, const PosixCalls& calls);

// Whether `name` is the file that `about` is of. `flags` as fstatat takes them.
bool posix_is_file(int directory, const std::string& name, const struct stat& about, int flags);

// What link() answers where there are no links, or none of this file or in this directory, or no more of them.
bool posix_has_no_links(int error);

// Which version of a file `about` is of: what is renamed over it, or linked anew, is another one.
std::string posix_version(const struct stat& about);

// What a symbolic link points to; empty where there is none. `name` is of `directory`, or a path with AT_FDCWD.
std::string posix_link_target(int directory, const std::string& name);

// O_EXCL. The descriptor is for writing through the page cache.
Result<UniqueFd> posix_open_exclusive(const UniqueFd& directory, const std::string& name, const std::string& path);

// Writes all of `data` at `offset`; 0 or an errno.
int posix_write_all(int fd, std::uint64_t offset, Bytes data, const PosixCalls& calls);

}  // namespace ostraca
