#include "storage/posix_calls.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstdio>

#include "base/limits.h"

namespace ostraca {

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

ssize_t PosixCalls::pread(int fd, void* data, std::size_t size, off_t offset) const {
  return ::pread(fd, data, size, offset);
}

ssize_t PosixCalls::pread_cached(int fd, void* data, std::size_t size, off_t offset) const {
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

const PosixCalls& PosixCalls::kernel() {
  static const PosixCalls calls;
  return calls;
}

}  // namespace ostraca
