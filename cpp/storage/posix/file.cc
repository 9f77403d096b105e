#include "storage/posix/file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <climits>
#include <memory>
#include <mutex>
#include <shared_mutex>

#include "base/checked.h"
#include "base/limits.h"
#include "storage/posix/open_files.h"

namespace ostraca {
namespace {

std::size_t round_down(std::size_t value, std::size_t alignment) { return value & ~(alignment - 1); }

Status check_aligned(const std::string& path, std::uint64_t offset, Bytes data, std::size_t alignment) {
  const std::uint64_t bits = offset | data.size() | reinterpret_cast<std::uintptr_t>(data.data());
  if ((bits & (alignment - 1)) == 0) return {};
  return invalid_argument("'" + path + "': offset " + std::to_string(offset) + ", size " + std::to_string(data.size()) +
                          " and the buffer's address must be multiples of " + std::to_string(alignment));
}

// The alignment our blocks take for direct I/O on this file; 0 when it is not worth trying.
std::size_t usable_alignment(int fd, const PosixCalls& calls) {
  const std::size_t needed = calls.direct_alignment(fd);
  if (needed == 0 || needed > kAlignmentMax) return 0;
  return std::max(std::bit_ceil(needed), kAlignmentMin);
}

// Files that live in memory anyway: past the page cache there is nothing.
bool lives_in_memory(int fd) {
  struct statfs about = {};
  if (::fstatfs(fd, &about) != 0) return false;
  return about.f_type == TMPFS_MAGIC || about.f_type == RAMFS_MAGIC;
}

// One descriptor, whose O_DIRECT flag is taken off when the file system refuses a direct write after all. Direct
// and buffered writes never overlap in time: a buffered write may read and write back the rest of its block, and
// would undo a direct write beside it.
class PosixWritableFile final : public WritableFile {
 public:
  PosixWritableFile(UniqueFd fd, std::string path, std::size_t direct_alignment, const PosixCalls& calls)
      : calls_(calls),
        path_(std::move(path)),
        fd_(std::move(fd)),
        alignment_(std::max(direct_alignment, kAlignmentMin)),
        direct_(direct_alignment != 0),
        flag_is_set_(direct_alignment != 0) {}

  std::size_t alignment() const override { return alignment_; }

  void reserve(std::uint64_t bytes) override {
    const std::lock_guard lock(reserving_);
    if (!fd_ || !direct_ || calls_.free_bytes(fd_.get()) / 2 < bytes) return;  // leave room for others' files
    (void)retry_on_eintr([&] { return calls_.allocate(fd_.get(), static_cast<off_t>(bytes)); });
    reserved_ = true;
  }

  Status write_at(std::uint64_t offset, Bytes data) override {
    if (!fd_) return invalid_argument("write to '" + path_ + "', which is closed");
    OSTRACA_RETURN_IF_ERROR(check_aligned(path_, offset, data, alignment_));
    std::size_t done = 0;
    if (direct_) {
      std::shared_lock in_flight(direct_writes_);
      if (direct_) {
        const int error = write_direct(offset, data, &done);
        if (error == 0) return note_end(offset + data.size());
        if (error != EINVAL) return fail(error, "write");
        direct_ = false;
      }
    }
    if (const int error = leave_direct_mode(); error != 0) return fail(error, "leave direct mode of");
    if (const int error = posix_write_all(fd_.get(), offset + done, data.subspan(done), calls_); error != 0)
      return fail(error, "write");
    return note_end(offset + data.size());
  }

  Status sync_and_close() override {
    const std::lock_guard lock(reserving_);  // the file is as long as what is reserved at last
    if (!fd_) return invalid_argument("close of '" + path_ + "', which is closed");
    Status status;
    if (error_ != 0) {
      status = Status::system(error_, "write", path_);  // the caller saw it already; it must not commit this file
    } else if (reserved_ && retry_on_eintr([&] { return ::ftruncate(fd_.get(), static_cast<off_t>(end_)); }) != 0) {
      status = Status::system(errno, "truncate", path_);
    } else if (retry_on_eintr([&] { return calls_.fdatasync(fd_.get()); }) != 0) {
      status = Status::system(errno, "sync", path_);
    }
    // Linux has closed the descriptor even where close() is interrupted.
    if (::close(fd_.release()) != 0 && errno != EINTR && status.ok()) status = Status::system(errno, "close", path_);
    return status;
  }

 private:
  // 0 or an errno; EINVAL also where the device leaves a part of a block. *done is a multiple of the alignment.
  int write_direct(std::uint64_t offset, Bytes data, std::size_t* done) {
    while (*done < data.size()) {
      const Bytes rest = data.subspan(*done);
      const ssize_t n = retry_on_eintr(
          [&] { return calls_.pwrite(fd_.get(), rest.data(), rest.size(), static_cast<off_t>(offset + *done)); });
      if (n < 0) return errno;
      const std::size_t whole = round_down(static_cast<std::size_t>(n), alignment_);
      if (whole == 0) return EINVAL;
      *done += whole;
    }
    return 0;
  }

  Status note_end(std::uint64_t end) {
    std::uint64_t known = end_;
    while (known < end && !end_.compare_exchange_weak(known, end)) {
    }
    return {};
  }

  // Waits for the direct writes in flight. 0 or an errno.
  int leave_direct_mode() {
    std::unique_lock none_in_flight(direct_writes_);
    if (!flag_is_set_) return 0;
    if (calls_.set_direct(fd_.get(), false) != 0) return errno;
    flag_is_set_ = false;
    return 0;
  }

  Status fail(int error, const char* what) {
    error_ = error;
    return Status::system(error, what, path_);
  }

  const PosixCalls& calls_;
  const std::string path_;
  UniqueFd fd_;
  const std::size_t alignment_;
  std::shared_mutex direct_writes_;    // shared: during a direct write
  std::atomic<bool> direct_;           // new writes try O_DIRECT
  bool flag_is_set_;                   // the descriptor has O_DIRECT; guarded by direct_writes_
  std::atomic<int> error_{0};          // errno of a failed write
  std::atomic<std::uint64_t> end_{0};  // of what was written
  std::mutex reserving_;               // held by who reserves, or closes
  bool reserved_ = false;              // the file may be longer than that; guarded by reserving_
};

// O_NONBLOCK: opening a FIFO that somebody put here must not hang.
UniqueFd open_for_reading(const UniqueFd& directory, const std::string& name) {
  constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  return open_descriptor([&] { return ::openat(directory.get(), name.c_str(), kFlags); });
}

// A cached descriptor, and a direct one opened when first asked for. Both may be closed between two uses, and are
// opened again by name.
class PosixReadableFile final : public ReadableFile {
 public:
  PosixReadableFile(Directory directory, std::string name, std::string path, UniqueFd fd, const struct stat& about,
                    const PosixCalls& calls)
      : calls_(calls),
        directory_(std::move(directory)),
        name_(std::move(name)),
        path_(std::move(path)),
        version_(posix_version(about)),
        device_(about.st_dev),
        inode_(about.st_ino),
        size_(static_cast<std::uint64_t>(about.st_size)) {
    const std::size_t alignment = usable_alignment(fd.get(), calls_);
    alignment_ = std::max(alignment, kAlignmentMin);
    direct_ = alignment != 0;
    keep(std::move(fd));
  }

  std::uint64_t size() const override { return size_; }
  const std::string& path() const override { return path_; }
  const std::string& version() const override { return version_; }
  std::size_t direct_alignment() const override { return alignment_; }

  Status read_at(std::uint64_t offset, MutableBytes out) override {
    if (!inside(offset, out.size(), size_)) return ends_early(offset, out.size(), offset < size_ ? size_ - offset : 0);
    OSTRACA_ASSIGN_OR_RETURN(const Open open, use());
    return read_rest(*open, offset, out, 0);
  }

  std::size_t read_cached(std::uint64_t offset, MutableBytes out) override {
    if (!cached_reads_ || !inside(offset, out.size(), size_)) return 0;
    const Result<Open> open = use();
    if (!open.ok()) return 0;
    std::size_t done = 0;
    while (done < out.size()) {
      const MutableBytes rest = out.subspan(done);
      const ssize_t n = retry_on_eintr([&] {
        return calls_.pread_cached((*open)->cached.get(), rest.data(), rest.size(), static_cast<off_t>(offset + done));
      });
      if (n < 0 && errno != EAGAIN) cached_reads_ = false;  // EOPNOTSUPP, ENOSYS: it will not learn it
      if (n <= 0) break;
      done += static_cast<std::size_t>(n);
    }
    return done;
  }

  Status read_direct(std::uint64_t offset, MutableBytes out) override {
    OSTRACA_RETURN_IF_ERROR(check_aligned(path_, offset, out, alignment_));
    if (out.empty()) return {};
    if (offset >= size_) return ends_early(offset, out.size(), 0);
    OSTRACA_ASSIGN_OR_RETURN(const Open open, use());
    const std::size_t wanted = static_cast<std::size_t>(std::min<std::uint64_t>(out.size(), size_ - offset));
    std::size_t done = 0;
    while (open_direct(*open) && done < wanted) {
      const MutableBytes rest = out.subspan(done);
      const ssize_t n = retry_on_eintr([&] {
        return calls_.pread(open->direct.get(), rest.data(), rest.size(), static_cast<off_t>(offset + done));
      });
      if (n < 0 && errno != EINVAL) return Status::system(errno, "read", path_);
      if (n < 0) direct_ = false;
      if (n > 0 && static_cast<std::size_t>(n) >= wanted - done) return {};
      const std::size_t whole = n > 0 ? round_down(static_cast<std::size_t>(n), alignment_) : 0;
      if (whole == 0) break;  // refused, or the file ends inside a block: the cached descriptor tells which
      done += whole;
    }
    return read_rest(*open, offset, out.first(wanted), done);
  }

 private:
  using Descriptors = OpenFiles::Descriptors;
  using Open = std::shared_ptr<Descriptors>;

  Open keep(UniqueFd fd) {
    auto fresh = std::make_shared<Descriptors>();
    fresh->cached = std::move(fd);
    return OpenFiles::instance().open(slot_, std::move(fresh));
  }

  // The descriptors, which stay open for as long as the result is held.
  Result<Open> use() {
    if (Open open = OpenFiles::instance().use(slot_)) return open;
    UniqueFd fd = open_for_reading(*directory_, name_);
    if (!fd && errno != ENOENT) return Status::system(errno, "open", path_);
    if (!fd || !is_same(fd))
      return not_found("'" + path_ + "' is gone: its checkpoint was overwritten or removed while it was read, and of " +
                       std::to_string(OpenFiles::limit()) +
                       " files that this process may hold open (a quarter of ulimit -n) it was none any more. Open the "
                       "checkpoint again, or raise the limit");
    return keep(std::move(fd));
  }

  bool is_same(const UniqueFd& fd) const {
    struct stat about = {};
    return ::fstat(fd.get(), &about) == 0 && about.st_dev == device_ && about.st_ino == inode_;
  }

  // Reads out[done...] through the page cache.
  Status read_rest(const Descriptors& open, std::uint64_t offset, MutableBytes out, std::size_t done) {
    while (done < out.size()) {
      const MutableBytes rest = out.subspan(done);
      const ssize_t n = retry_on_eintr(
          [&] { return calls_.pread(open.cached.get(), rest.data(), rest.size(), static_cast<off_t>(offset + done)); });
      if (n < 0) return Status::system(errno, "read", path_);
      if (n == 0) return ends_early(offset, out.size(), done);
      done += static_cast<std::size_t>(n);
    }
    return {};
  }

  // Whether direct reads are possible.
  bool open_direct(Descriptors& open) {
    std::call_once(open.direct_once, [&] {
      if (!direct_) return;
      UniqueFd fd = open_descriptor([&] { return calls_.open_direct(directory_->get(), name_.c_str()); });
      if (!fd && (errno == EMFILE || errno == ENFILE)) return;  // for now
      // The name may be another file by now, or gone; the one we hold is still readable.
      if (fd && is_same(fd))
        open.direct = std::move(fd);
      else
        direct_ = false;
    });
    return direct_ && open.direct;
  }

  Status ends_early(std::uint64_t offset, std::uint64_t expected, std::uint64_t found) const {
    return corruption("'" + path_ + "' ends early: expected " + std::to_string(expected) + " bytes at offset " +
                      std::to_string(offset) + ", found " + std::to_string(found));
  }

  const PosixCalls& calls_;
  const Directory directory_;
  const std::string name_;
  const std::string path_;
  const std::string version_;
  const dev_t device_;
  const ino_t inode_;
  const std::uint64_t size_;
  std::size_t alignment_ = kAlignmentMin;
  std::atomic<bool> direct_{false};       // direct reads are worth trying
  std::atomic<bool> cached_reads_{true};  // RWF_NOWAIT is known here
  OpenFiles::Slot slot_;
};

}  // namespace

std::string posix_link_target(int directory, const std::string& name) {
  std::string target(PATH_MAX, '\0');
  const ssize_t size = ::readlinkat(directory, name.c_str(), target.data(), target.size());
  target.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
  return target;
}

Result<UniqueFd> posix_open_exclusive(const UniqueFd& directory, const std::string& name, const std::string& path) {
  // 0666 and not 0600: who may read a checkpoint is the umask's decision.
  UniqueFd fd = open_descriptor(
      [&] { return ::openat(directory.get(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666); });
  if (!fd && errno == EEXIST) return exists("'" + path + "' exists already");
  if (!fd) return Status::system(errno, "create", path);
  return fd;
}

int posix_write_all(int fd, std::uint64_t offset, Bytes data, const PosixCalls& calls) {
  while (!data.empty()) {
    const ssize_t n =
        retry_on_eintr([&] { return calls.pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset)); });
    if (n < 0) return errno;
    if (n == 0) return EIO;  // never seen; better than a loop without end
    offset += static_cast<std::uint64_t>(n);
    data = data.subspan(static_cast<std::size_t>(n));
  }
  return 0;
}

Result<std::unique_ptr<WritableFile>> posix_create(const Directory& directory, const std::string& name,
                                                   std::string path, IoMode mode, const PosixCalls& calls) {
  OSTRACA_ASSIGN_OR_RETURN(UniqueFd fd, posix_open_exclusive(*directory, name, path));
  std::size_t alignment = 0;
  if (mode == IoMode::kDirect || (mode == IoMode::kAuto && !lives_in_memory(fd.get())))
    alignment = usable_alignment(fd.get(), calls);
  if (alignment != 0 && calls.set_direct(fd.get(), true) != 0) alignment = 0;
  return std::unique_ptr<WritableFile>(
      std::make_unique<PosixWritableFile>(std::move(fd), std::move(path), alignment, calls));
}

std::string posix_version(const struct stat& about) {
  return std::to_string(about.st_dev) + ":" + std::to_string(about.st_ino) + ":" + std::to_string(about.st_size) + ":" +
         std::to_string(about.st_ctim.tv_sec) + "." + std::to_string(about.st_ctim.tv_nsec);
}

Result<std::unique_ptr<ReadableFile>> posix_open(Directory directory, std::string name, std::string path,
                                                 const PosixCalls& calls) {
  UniqueFd fd = open_for_reading(*directory, name);
  if (!fd && errno == ENOENT) {
    const std::string target = posix_link_target(directory->get(), name);
    if (target.empty()) return not_found("'" + path + "' does not exist");
    // Not "not found": what the link leads to may be out of reach only now.
    return Status::system(ENOENT, "follow the symbolic link to '" + target + "' at", path);
  }
  if (!fd) return Status::system(errno, "open", path);
  struct stat about = {};
  if (::fstat(fd.get(), &about) != 0) return Status::system(errno, "stat", path);
  if (!S_ISREG(about.st_mode)) return format_error("'" + path + "' is not a plain file");
  return std::unique_ptr<ReadableFile>(std::make_unique<PosixReadableFile>(
      std::move(directory), std::move(name), std::move(path), std::move(fd), about, calls));
}

}  // namespace ostraca
