// A file that loses its name to another one, and gets it back.

#include <fcntl.h>
#include <sys/stat.h>

#include "storage/posix/file.h"
#include "storage/posix/open_files.h"

namespace ostraca {

bool posix_is_file(int directory, const std::string& name, const struct stat& about, int flags) {
  struct stat found = {};
  return ::fstatat(directory, name.c_str(), &found, flags) == 0 && found.st_dev == about.st_dev &&
         found.st_ino == about.st_ino;
}

bool posix_has_no_links(int error) {
  return error == EPERM || error == EOPNOTSUPP || error == EMLINK || error == ENOSYS || error == EXDEV ||
         error == EACCES;
}

Status posix_retire(const Directory& directory, const std::string& path, const std::string& name,
                    const std::string& version, const std::string& retired, const PosixCalls& calls) {
  const int in = directory->get();
  const std::string place = path + "/" + name;
  constexpr int kFlags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
  const UniqueFd fd = open_descriptor([&] { return ::openat(in, name.c_str(), kFlags); });
  if (!fd && errno == ENOENT) return exists("'" + place + "' changed meanwhile: it is gone");
  if (!fd) return Status::system(errno, "open", place);
  struct stat about = {};
  if (::fstat(fd.get(), &about) != 0) return Status::system(errno, "stat", place);
  if (posix_version(about) != version) return exists("'" + place + "' changed meanwhile");
  if (calls.date(fd.get()) != 0) return Status::system(errno, "date", place);
  if (retry_on_eintr([&] { return calls.rename(in, name.c_str(), retired.c_str()); }) != 0)
    return Status::system(errno, "rename", place);
  if (posix_is_file(in, retired, about, AT_SYMLINK_NOFOLLOW)) {
    // Two names of one file, which a crash left, are not renamed.
    if (posix_is_file(in, name, about, AT_SYMLINK_NOFOLLOW) && ::unlinkat(in, name.c_str(), 0) != 0 && errno != ENOENT)
      return Status::system(errno, "remove", place);
    return {};
  }
  // There are no leases here, and somebody came between: what was renamed is another file.
  OSTRACA_RETURN_IF_ERROR(posix_restore(directory, path, retired, name, calls));
  return exists("'" + place + "' changed meanwhile: it is being overwritten");
}

Status posix_restore(const Directory& directory, const std::string& path, const std::string& retired,
                     const std::string& name, const PosixCalls& calls) {
  const int in = directory->get();
  const std::string place = path + "/" + retired;
  if (retry_on_eintr([&] { return calls.link(in, retired.c_str(), name.c_str()); }) != 0 && errno != EEXIST) {
    if (!posix_has_no_links(errno)) return Status::system(errno, "give its name back to", place);
    if (retry_on_eintr([&] { return calls.rename_no_replace(in, retired.c_str(), name.c_str()); }) == 0) return {};
    if (errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP) {
      // One process alone may write there.
      const bool is_free = ::faccessat(in, name.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT;
      if (is_free && retry_on_eintr([&] { return calls.rename(in, retired.c_str(), name.c_str()); }) == 0) return {};
      if (is_free) return Status::system(errno, "give its name back to", place);
    } else if (errno != EEXIST) {
      return Status::system(errno, "give its name back to", place);
    }
  }
  if (::unlinkat(in, retired.c_str(), 0) == 0 || errno == ENOENT) return {};
  return Status::system(errno, "remove", place);
}

}  // namespace ostraca
