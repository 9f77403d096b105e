// How a POSIX file system gives a name to contents: step 5 of storage.cc.

#include <fcntl.h>
#include <sys/stat.h>

#include "base/limits.h"
#include "storage/posix/open_files.h"
#include "storage/posix/storage.h"

namespace ostraca {

PosixStorage::Published PosixStorage::is_published(int directory, const std::string& to, const struct stat& ours) {
  struct stat about = {};
  if (::fstatat(directory, to.c_str(), &about, AT_SYMLINK_NOFOLLOW) != 0)
    return errno == ENOENT ? Published::kNo : Published::kUnknown;
  return about.st_dev == ours.st_dev && about.st_ino == ours.st_ino ? Published::kYes : Published::kNo;
}

// After a failed call: ok if it did its work all the same. Over NFS the answer can be lost, and the request then
// repeated by the client and refused by the server, because it was already served.
Status PosixStorage::not_published(int directory, const std::string& to, const struct stat& ours, int error,
                                   const char* what) {
  switch (is_published(directory, to, ours)) {
    case Published::kYes:
      return {};
    case Published::kNo:
      if (error == EEXIST) return exists("'" + path_of(to) + "' exists already");
      return Status::system(error, what, path_of(to));
    case Published::kUnknown:
      break;
  }
  return {Code::kCommitUncertain, Status::system(error, what, path_of(to)).message() + "; it may be there nonetheless"};
}

// Neither hard links nor RENAME_NOREPLACE: an empty file takes the name, which nobody else can then, and is replaced at
// once. Who reads in between finds a manifest that is cut off.
Status PosixStorage::publish_claimed(int directory, const std::string& from, const std::string& to,
                                     const struct stat& ours) {
  constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
  claims_names_ = true;
  const UniqueFd claim = open_descriptor([&] { return ::openat(directory, to.c_str(), kFlags, 0666); });
  if (!claim && errno == EEXIST) return exists("'" + path_of(to) + "' exists already");
  if (!claim) return Status::system(errno, "publish", path_of(to));
  if (retry_on_eintr([&] { return calls_.rename(directory, from.c_str(), to.c_str()); }) == 0) return {};
  Status status = not_published(directory, to, ours, errno, "publish");
  if (!status.ok() && status.code() != Code::kCommitUncertain) (void)::unlinkat(directory, to.c_str(), 0);
  return status;
}

Status PosixStorage::publish_new(int directory, const std::string& from, const std::string& to,
                                 const struct stat& ours) {
  if (retry_on_eintr([&] { return calls_.link(directory, from.c_str(), to.c_str()); }) != 0) {
    const int error = errno;
    if (!posix_has_no_links(error)) {
      OSTRACA_RETURN_IF_ERROR(not_published(directory, to, ours, error, "publish"));
    } else {
      if (retry_on_eintr([&] { return calls_.rename_no_replace(directory, from.c_str(), to.c_str()); }) == 0) return {};
      const bool no_rename = errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP;
      return no_rename ? publish_claimed(directory, from, to, ours)
                       : not_published(directory, to, ours, errno, "publish");
    }
  }
  // It is published. A temporary name that stays is a second name of the manifest, swept with the attempt's files.
  (void)::unlinkat(directory, from.c_str(), 0);
  return {};
}

Status PosixStorage::check_version(int directory, const Publication& publication) const {
  const std::string* expected = publication.expected.is_version();
  if (expected == nullptr) return {};
  struct stat about = {};
  const bool there = ::fstatat(directory, publication.name.c_str(), &about, 0) == 0;
  if (!there && errno != ENOENT) return Status::system(errno, "stat", path_of(publication.name));
  if (there && posix_version(about) == *expected) return {};
  return exists("'" + path_of(publication.name) + "' changed meanwhile");
}

// A second name; a copy of it, durable, where the file system has no links. One that is there was left by a crash.
Status PosixStorage::add_name(int directory, const std::string& from, const std::string& to) {
  if (retry_on_eintr([&] { return calls_.link(directory, from.c_str(), to.c_str()); }) == 0 || errno == EEXIST)
    return {};
  if (!posix_has_no_links(errno)) return Status::system(errno, "link", path_of(to));
  OSTRACA_ASSIGN_OR_RETURN(const std::string text, read_small(from, kManifestBytesMax));
  const Status status = write_small(to, as_bytes(text));
  return status.code() == Code::kExists ? Status() : status;
}

Status PosixStorage::publish_written(int directory, const std::string& from, const Publication& publication) {
  const std::string& to = publication.name;
  struct stat ours = {};
  if (::fstatat(directory, from.c_str(), &ours, AT_SYMLINK_NOFOLLOW) != 0)
    return Status::system(errno, "publish", path_of(from));
  if (publication.expected.is_absent()) return publish_new(directory, from, to, ours);
  OSTRACA_RETURN_IF_ERROR(check_version(directory, publication));
  if (!publication.retired.empty()) OSTRACA_RETURN_IF_ERROR(add_name(directory, to, publication.retired));
  if (retry_on_eintr([&] { return calls_.rename(directory, from.c_str(), to.c_str()); }) == 0) return {};
  Status status = not_published(directory, to, ours, errno, "publish");
  const bool nothing_changed = !status.ok() && status.code() != Code::kCommitUncertain;
  if (nothing_changed && !publication.retired.empty()) (void)remove(publication.retired);
  return status;
}

Status PosixStorage::publish(const Publication& publication) {
  OSTRACA_RETURN_IF_ERROR(check_name(publication.name));
  if (!publication.retired.empty()) OSTRACA_RETURN_IF_ERROR(check_name(publication.retired));
  OSTRACA_ASSIGN_OR_RETURN(Directory in, directory());
  const std::string temporary = temporary_name(publication.token);
  Status status = write_small(temporary, publication.contents);
  if (status.code() == Code::kExists) {  // the token is the caller's alone: an earlier publication could not remove it
    OSTRACA_RETURN_IF_ERROR(remove(temporary));
    status = write_small(temporary, publication.contents);
  }
  if (status.code() == Code::kExists) return Status::system(EEXIST, "publish", path_of(temporary));
  OSTRACA_RETURN_IF_ERROR(status);
  status = publish_written(in->get(), temporary, publication);
  if (!status.ok() && status.code() != Code::kCommitUncertain) (void)remove(temporary);
  return status;
}

}  // namespace ostraca
