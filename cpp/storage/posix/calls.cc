#include "storage/posix/calls.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/limits.h"

namespace ostraca {
namespace {

// Whether the page cache lacks a part of the range; false too when the kernel (before 6.5) does not say.
// RWF_NOWAIT alone is no probe: a read that would wait starts readahead before it refuses, and the device then reads
// everything twice.
bool known_uncached(int fd, std::uint64_t offset, std::uint64_t size) {
  constexpr long kCachestatCall = 451;  // on every architecture; glibc has no name for it
  struct Range {
    std::uint64_t offset, size;
  } range = {offset, size};
  struct {
    std::uint64_t cached, dirty, writeback, evicted, recently_evicted;
  } pages = {};
  if (size == 0 || ::syscall(kCachestatCall, fd, &range, &pages, 0) != 0) return false;
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return pages.cached < (offset + size - 1) / page - offset / page + 1;
}

}  // namespace

std::size_t PosixCalls::direct_alignment([[maybe_unused]] int fd) const {
#ifdef STATX_DIOALIGN
  struct statx about = {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &about) == 0 && (about.stx_mask & STATX_DIOALIGN) != 0) {
    if (about.stx_dio_offset_align == 0 || about.stx_dio_mem_align == 0) return 0;
    return std::max<std::size_t>(about.stx_dio_offset_align, about.stx_dio_mem_align);
  }
#endif
  return kAlignmentMin;  // the kernel does not say; what every common device takes
}

int PosixCalls::set_direct(int fd, bool on) const {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0) return -1;
  return ::fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT);
}

int PosixCalls::open_direct(int directory, const char* name) const {
  return ::openat(directory, name, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
}

ssize_t PosixCalls::pwrite(int fd, const void* data, std::size_t size, off_t offset) const {
  return ::pwrite(fd, data, size, offset);
}

// Not posix_fallocate: where the file system cannot do it, that writes zeros.
int PosixCalls::allocate(int fd, off_t bytes) const { return ::fallocate(fd, 0, 0, bytes); }

std::uint64_t PosixCalls::free_bytes(int fd) const {
  struct statvfs about = {};
  return ::fstatvfs(fd, &about) == 0 ? std::uint64_t{about.f_bavail} * about.f_frsize : 0;
}

ssize_t PosixCalls::pread(int fd, void* data, std::size_t size, off_t offset) const {
  return ::pread(fd, data, size, offset);
}

ssize_t PosixCalls::pread_cached(int fd, void* data, std::size_t size, off_t offset) const {
  if (known_uncached(fd, static_cast<std::uint64_t>(offset), size)) {
    errno = EAGAIN;
    return -1;
  }
  const iovec target = {data, size};
  return ::preadv2(fd, &target, 1, offset, RWF_NOWAIT);
}

int PosixCalls::fdatasync(int fd) const { return ::fdatasync(fd); }

int PosixCalls::fsync(int fd) const { return ::fsync(fd); }

int PosixCalls::link(int directory, const char* from, const char* to) const {
  return ::linkat(directory, from, directory, to, 0);
}

int PosixCalls::rename(int directory, const char* from, const char* to) const {
  return ::renameat(directory, from, directory, to);
}

int PosixCalls::rename_no_replace(int directory, const char* from, const char* to) const {
  return ::renameat2(directory, from, directory, to, RENAME_NOREPLACE);
}

int PosixCalls::flock(int fd, int operation) const { return ::flock(fd, operation); }

int PosixCalls::date(int fd) const { return ::futimens(fd, nullptr); }

int PosixCalls::open_unnamed(int directory) const {
  return ::openat(directory, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
}

const PosixCalls& PosixCalls::kernel() {
  static const PosixCalls calls;
  return calls;
}

}  // namespace ostraca
