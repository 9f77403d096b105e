// A directory of checkpoints on a POSIX file system. Names are resolved against a descriptor of it: once open, a run
// that is moved, or has another directory in its place, stays the one that it was.

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <new>
#include <thread>

#include "base/for_each.h"
#include "storage/posix/calls.h"
#include "storage/posix/file.h"
#include "storage/posix/open_files.h"
#include "storage/posix/scan.h"
#include "storage/storage.h"

namespace ostraca {
namespace {

constexpr int kDirectory = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
constexpr std::size_t kThreads = 64;  // that look into children: a file server's clients wait, and do not compute
constexpr std::chrono::milliseconds kClosingWait{1000}, kClosingPause{2};
constexpr std::size_t kForOneThread = 16, kDatesForOneThread = 256;  // children

class PosixRun final : public Run {
 public:
  PosixRun(const std::string& path, const PosixCalls& calls) : calls_(calls), path_(posix_absolute(path)) {}

  const std::string& path() const override { return path_; }
  std::unique_ptr<Storage> checkpoint(const std::string& name) override {
    return make_posix_storage(path_ + "/" + name, calls_);
  }
  Result<std::unique_ptr<Storage>> child(const std::string& name, const std::string& identity) override;
  Result<std::vector<Child>> scan(const ScanOptions& options) override;
  Result<std::int64_t> changed_ns() override;
  Child itself(const ScanOptions& options) override;
  Result<std::int64_t> now(bool may_write) override;
  Status remove_directory(const std::string& name) override;

 private:
  Result<Directory> directory();
  Result<std::vector<Child>> children(int directory) const;
  void look_at(int directory, const PosixLinks& links, const ScanOptions& options, Child* child) const;

  const PosixCalls& calls_;
  const std::string path_;
  std::mutex mutex_;     // guards the rest
  Directory directory_;  // opened at the first use
};

Result<Directory> PosixRun::directory() {
  const std::lock_guard lock(mutex_);
  if (directory_ != nullptr) return directory_;
  UniqueFd fd = open_descriptor([&] { return ::open(path_.c_str(), kDirectory); });
  if (!fd && errno == ENOENT) return not_found("directory '" + path_ + "' does not exist");
  if (!fd) return Status::system(errno, "open directory", path_);
  directory_ = std::make_shared<const UniqueFd>(std::move(fd));
  return directory_;
}

Result<std::unique_ptr<Storage>> PosixRun::child(const std::string& name, const std::string& identity) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  OSTRACA_ASSIGN_OR_RETURN(const Directory in, directory());
  const std::string path = path_ + "/" + name;
  UniqueFd fd = open_descriptor([&] { return ::openat(in->get(), name.c_str(), kDirectory | O_NOFOLLOW); });
  struct stat about = {};
  if (!fd && errno != ENOENT && errno != ENOTDIR) return Status::system(errno, "open directory", path);
  if (!fd || ::fstat(fd.get(), &about) != 0 || posix_identity(about) != identity)
    return not_found("'" + path + "' is not the directory any more that it was");
  return make_posix_storage(path, std::move(fd), calls_);
}

// What is no directory, and no link, is none. Where that cannot be told it may be one.
Result<std::vector<Run::Child>> PosixRun::children(int directory) const {
  std::vector<Child> found;
  OSTRACA_RETURN_IF_ERROR(posix_list(directory, path_, [&](const dirent& entry) {
    auto type = entry.d_type;
    struct stat about = {};
    if (type == DT_UNKNOWN && ::fstatat(directory, entry.d_name, &about, AT_SYMLINK_NOFOLLOW) == 0)
      type = IFTODT(about.st_mode);
    if (type == DT_DIR || type == DT_LNK || type == DT_UNKNOWN)
      found.push_back({.name = entry.d_name, .is_link = type == DT_LNK});
  }));
  std::ranges::sort(found, {}, &Child::name);
  return found;
}

void PosixRun::look_at(int directory, const PosixLinks& links, const ScanOptions& options, Child* child) const {
  if (child->is_link && !options.last_only) {
    Result<std::string> to = links.child_of(child->name, &child->leads_to_whole);
    child->status = to.status();
    if (to.ok()) child->leads_to = to.take();
    struct stat about = {};
    child->is_directory = child->status.ok() && child->leads_to.empty() &&
                          ::fstatat(directory, child->name.c_str(), &about, 0) == 0 && S_ISDIR(about.st_mode);
  }
  if (child->is_directory) posix_visit(directory, links, options, child);
}

Result<std::vector<Run::Child>> PosixRun::scan(const ScanOptions& options) {
  OSTRACA_ASSIGN_OR_RETURN(const Directory in, directory());
  OSTRACA_ASSIGN_OR_RETURN(std::vector<Child> found, children(in->get()));
  const PosixLinks links(path_);
  const std::size_t for_one_thread = options.last_only ? kDatesForOneThread : kForOneThread;
  in_parallel(found.size(), std::min(kThreads, found.size() / for_one_thread), "scan", [&](std::size_t i) {
    try {
      look_at(in->get(), links, options, &found[i]);
    } catch (const std::bad_alloc&) {
      found[i].status = Status(Code::kOutOfMemory, "the memory for its documents cannot be had");
    }
    return true;
  });
  return found;
}

Result<std::int64_t> PosixRun::changed_ns() {
  OSTRACA_ASSIGN_OR_RETURN(const Directory in, directory());
  struct stat about = {};
  if (::fstat(in->get(), &about) != 0) return Status::system(errno, "stat", path_);
  return posix_nanoseconds(about.st_mtim);
}

Run::Child PosixRun::itself(const ScanOptions& options) {
  Child child{.name = "."};
  const Result<Directory> in = directory();
  child.status = in.status();
  if (in.ok()) posix_visit((*in)->get(), PosixLinks(path_), options, &child);
  return child;
}

Result<std::int64_t> PosixRun::now(bool may_write) {
  OSTRACA_ASSIGN_OR_RETURN(const Directory in, directory());
  // Many file systems have no files without names, and a full one has no more of them.
  const UniqueFd fd = open_descriptor([&] { return calls_.open_unnamed(in->get()); });
  if (!fd && !may_write) {
    const auto since = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
  }
  if (!fd && calls_.date(in->get()) != 0) return Status::system(errno, "learn the time by changing", path_);
  struct stat about = {};
  if (::fstat(fd ? fd.get() : in->get(), &about) != 0) return Status::system(errno, "stat", path_);
  return posix_changed_ns(about);
}

// Whether all that is left in a directory are files that were open when they were removed. NFS and FUSE keep them under
// other names until they have heard of the close, which may be after it returned.
bool is_closing(int run, const std::string& name) {
  const UniqueFd fd = open_descriptor([&] { return ::openat(run, name.c_str(), kDirectory | O_NOFOLLOW); });
  bool all = static_cast<bool>(fd);
  const Status listed = !fd ? Status() : posix_list(fd.get(), name, [&](const dirent& entry) {
    const std::string_view file = entry.d_name;
    all &= file.starts_with(".fuse_hidden") || file.starts_with(".nfs");
  });
  return all && listed.ok();
}

Status PosixRun::remove_directory(const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  OSTRACA_ASSIGN_OR_RETURN(const Directory in, directory());
  const auto give_up = std::chrono::steady_clock::now() + kClosingWait;
  while (::unlinkat(in->get(), name.c_str(), AT_REMOVEDIR) != 0) {
    if (errno == ENOENT) return {};
    if (errno != ENOTEMPTY && errno != EEXIST) return Status::system(errno, "remove directory", path_ + "/" + name);
    if (!is_closing(in->get(), name) || std::chrono::steady_clock::now() > give_up) return {};
    std::this_thread::sleep_for(kClosingPause);
  }
  return {};
}

}  // namespace

std::unique_ptr<Run> make_posix_run(const std::string& directory, const PosixCalls& calls) {
  return std::make_unique<PosixRun>(directory, calls);
}

std::unique_ptr<Run> make_posix_run(const std::string& directory) {
  return make_posix_run(directory, PosixCalls::kernel());
}

}  // namespace ostraca
