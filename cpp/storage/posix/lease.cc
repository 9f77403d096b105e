// Leases: flocks. The kernel lets go of them when the process dies, however it dies.

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <chrono>
#include <thread>
#include <utility>

#include "storage/posix/file.h"
#include "storage/posix/open_files.h"

namespace ostraca {
namespace {

// Whoever removes a checkpoint holds its manifest exclusively for a rename and a sync. If it takes longer than this, it
// is another program that holds it, or a stopped one: reading matters more than the lease.
constexpr auto kWait = std::chrono::seconds(5);
constexpr auto kPause = std::chrono::milliseconds(1);
// Whoever replaces a checkpoint's manifest holds its lease for some reads, a rename and a sync.
constexpr auto kReplacingWait = std::chrono::seconds(60);

// What flock() answers where there are no locks.
bool has_no_locks(int error) {
  return error == ENOTSUP || error == EOPNOTSUPP || error == ENOLCK || error == EBADF || error == ENOSYS ||
         error == EINVAL;
}

// Opens a file to lock it: NFS locks what may be written.
UniqueFd open_to_lock(int directory, const std::string& name) {
  constexpr int kFlags = O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
  UniqueFd fd = open_descriptor([&] { return ::openat(directory, name.c_str(), O_RDWR | kFlags); });
  if (fd || (errno != EACCES && errno != EPERM && errno != EROFS)) return fd;
  return open_descriptor([&] { return ::openat(directory, name.c_str(), O_RDONLY | kFlags); });
}

// All kinds: the open file keeps its number from being used again.
class PosixLease : public Lease {
 public:
  PosixLease(Directory directory, std::string name, UniqueFd fd, const struct stat& about, int flags = 0)
      : directory_(std::move(directory)), name_(std::move(name)), fd_(std::move(fd)), about_(about), flags_(flags) {}

  bool current() const override { return posix_is_file(directory_->get(), name_, about_, flags_); }

 protected:
  const Directory directory_;
  const std::string name_;

 private:
  const UniqueFd fd_;
  const struct stat about_;
  const int flags_;  // of fstatat: whether a link is followed
};

class PosixReplacingLease final : public PosixLease {
 public:
  using PosixLease::PosixLease;
  ~PosixReplacingLease() override { (void)let_go(); }
  // The name goes first: who waits for the flock then sees that the file has lost it, and makes a new one.
  Status let_go() override {
    const bool is_ours = !std::exchange(has_ended_, true) && current();
    if (!is_ours || ::unlinkat(directory_->get(), name_.c_str(), 0) == 0 || errno == ENOENT) return {};
    return Status::system(errno, "remove", name_);
  }

 private:
  bool has_ended_ = false;
};

}  // namespace

Result<std::unique_ptr<Lease>> posix_lease(Directory directory, std::string name, const std::string& path,
                                           const PosixCalls& calls) {
  const auto give_up = std::chrono::steady_clock::now() + kWait;
  while (true) {
    UniqueFd fd = open_descriptor(
        [&] { return ::openat(directory->get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); });
    if (!fd && errno == ENOENT) return not_found("'" + path + "' does not exist");
    if (!fd) return Status::system(errno, "open", path);
    struct stat about = {};
    if (::fstat(fd.get(), &about) != 0) return Status::system(errno, "stat", path);
    const bool locked = retry_on_eintr([&] { return calls.flock(fd.get(), LOCK_SH | LOCK_NB); }) == 0;
    // Any other refusal: the file system has no such locks, or not now.
    const bool busy = !locked && errno == EWOULDBLOCK && std::chrono::steady_clock::now() < give_up;
    auto lease = std::make_unique<PosixLease>(directory, name, std::move(fd), about);
    if (!busy && lease->current()) return std::unique_ptr<Lease>(std::move(lease));
    if (busy) std::this_thread::sleep_for(kPause);
  }
}

namespace {

Result<std::unique_ptr<Lease>> lease_name(const Directory& directory, const std::string& name, const std::string& path,
                                          std::chrono::seconds wait, const PosixCalls& calls) {
  const std::string lock = name + ".lock", lock_path = path + ".lock";
  const auto give_up = std::chrono::steady_clock::now() + wait;
  constexpr int kFlags = O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
  while (true) {
    UniqueFd fd = open_descriptor([&] { return ::openat(directory->get(), lock.c_str(), kFlags, 0666); });
    if (!fd) return Status::system(errno, "open", lock_path);
    struct stat about = {};
    if (::fstat(fd.get(), &about) != 0) return Status::system(errno, "stat", lock_path);
    if (!S_ISREG(about.st_mode))
      return format_error("'" + lock_path + "' is not a plain file, as those who replace '" + name +
                          "' need it to be; remove it");
    const bool locked = retry_on_eintr([&] { return calls.flock(fd.get(), LOCK_EX | LOCK_NB); }) == 0;
    if (!locked && errno != EWOULDBLOCK && !has_no_locks(errno)) return Status::system(errno, "lock", lock_path);
    if (!locked && errno == EWOULDBLOCK) {
      if (wait.count() == 0) return Status::system(EWOULDBLOCK, "lock", lock_path);
      if (std::chrono::steady_clock::now() > give_up)
        return Status::system(ETIMEDOUT, "wait for another process to let go of", lock_path);
      std::this_thread::sleep_for(kPause);
      continue;
    }
    if (posix_is_file(directory->get(), lock, about, AT_SYMLINK_NOFOLLOW))
      return std::unique_ptr<Lease>(
          std::make_unique<PosixReplacingLease>(directory, lock, std::move(fd), about, AT_SYMLINK_NOFOLLOW));
  }
}

}  // namespace

Result<std::unique_ptr<Lease>> posix_lease_replacing(Directory directory, const std::string& name,
                                                     const std::string& path, const PosixCalls& calls) {
  return lease_name(directory, name, path, kReplacingWait, calls);
}

Result<std::unique_ptr<Lease>> posix_lease_removing(Directory directory, const std::string& name,
                                                    const std::string& path, const PosixCalls& calls) {
  Result<std::unique_ptr<Lease>> lease = lease_name(directory, name, path, std::chrono::seconds(0), calls);
  const int error = lease.status().os_error();
  if (error == ENOSPC || error == EDQUOT) return std::unique_ptr<Lease>(std::make_unique<NoLease>());
  return lease;
}

Result<std::unique_ptr<Lease>> posix_lease_exclusive(const Directory& directory, const std::string& name,
                                                     const std::string& path, const PosixCalls& calls) {
  while (true) {
    UniqueFd fd = open_to_lock(directory->get(), name);
    if (!fd && errno == ENOENT) return not_found("'" + path + "' does not exist");
    if (!fd) return Status::system(errno, "open", path);
    struct stat about = {};
    if (::fstat(fd.get(), &about) != 0) return Status::system(errno, "stat", path);
    const bool locked = retry_on_eintr([&] { return calls.flock(fd.get(), LOCK_EX | LOCK_NB); }) == 0;
    if (!locked && !has_no_locks(errno)) return Status::system(errno, "lock", path);
    auto lease = std::make_unique<PosixLease>(directory, name, std::move(fd), about, AT_SYMLINK_NOFOLLOW);
    if (lease->current()) return std::unique_ptr<Lease>(std::move(lease));
  }
}

}  // namespace ostraca
