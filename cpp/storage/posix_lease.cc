// Leases: shared flocks. The kernel lets go of them when the process dies, however it dies.

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <chrono>
#include <thread>

#include "storage/open_files.h"
#include "storage/posix_file.h"

namespace ostraca {
namespace {

// Whoever removes a checkpoint holds its manifest exclusively for a rename and a sync. If it takes longer than this, it
// is another program that holds it, or a stopped one: reading matters more than the lease.
constexpr auto kWait = std::chrono::seconds(5);
constexpr auto kPause = std::chrono::milliseconds(1);

class PosixLease final : public Lease {
 public:
  PosixLease(Directory directory, std::string name, UniqueFd fd, const struct stat& about)
      : directory_(std::move(directory)),
        name_(std::move(name)),
        fd_(std::move(fd)),
        device_(about.st_dev),
        inode_(about.st_ino) {}

  bool current() const override {
    struct stat about = {};
    return ::fstatat(directory_->get(), name_.c_str(), &about, 0) == 0 && about.st_dev == device_ &&
           about.st_ino == inode_;
  }

 private:
  const Directory directory_;
  const std::string name_;
  const UniqueFd fd_;  // also keeps the inode's number from being used again
  const dev_t device_;
  const ino_t inode_;
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

}  // namespace ostraca
