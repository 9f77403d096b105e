// Internal to cpp/storage: the system calls a file system may refuse, and a descriptor's owner.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "storage/storage.h"

namespace ostraca {

// The calls whose refusals the storage must survive and which no file system here refuses on demand. Tests derive
// from it; everybody else gets the kernel. Results and errno are those of the call. Thread-safe.
class PosixCalls {
 public:
  virtual ~PosixCalls() = default;
  // Bytes that direct I/O on this open file must be aligned to; 0 when the kernel says that it cannot be done.
  virtual std::size_t direct_alignment(int fd) const;
  virtual int set_direct(int fd, bool on) const;
  virtual int open_direct(int directory, const char* name) const;  // for reading
  virtual ssize_t pwrite(int fd, const void* data, std::size_t size, off_t offset) const;
  virtual int allocate(int fd, off_t bytes) const;
  virtual std::uint64_t free_bytes(int fd) const;  // on its file system; 0 when that is not known
  virtual ssize_t pread(int fd, void* data, std::size_t size, off_t offset) const;
  virtual ssize_t pread_cached(int fd, void* data, std::size_t size, off_t offset) const;
  virtual int fdatasync(int fd) const;
  virtual int fsync(int fd) const;
  virtual int link(int directory, const char* from, const char* to) const;
  virtual int rename(int directory, const char* from, const char* to) const;
  virtual int rename_no_replace(int directory, const char* from, const char* to) const;
  virtual int flock(int fd, int operation) const;
  virtual int date(int fd) const;  // now
  virtual int open_unnamed(int directory) const;

  static const PosixCalls& kernel();
};

// REQUIRES: `calls` outlives the storage and its files. make_posix_storage(directory) is this with the kernel's.
std::unique_ptr<Storage> make_posix_storage(const std::string& directory, const PosixCalls& calls);
std::unique_ptr<Run> make_posix_run(const std::string& directory, const PosixCalls& calls);

// Owns a descriptor.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = other.release();
    }
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

// A storage of a directory that is open already.
std::unique_ptr<Storage> make_posix_storage(const std::string& directory, UniqueFd open, const PosixCalls& calls);

// Absolute, so that a later chdir does not move it; no slash at the end.
std::string posix_absolute(const std::string& directory);

template <class Call>
auto retry_on_eintr(Call call) {
  auto result = call();
  while (result == -1 && errno == EINTR) result = call();
  return result;
}

}  // namespace ostraca
