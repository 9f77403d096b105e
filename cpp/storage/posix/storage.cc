// A checkpoint's directory on a POSIX file system.
//
// How a checkpoint is committed (the engine drives; the storage performs the steps marked *):
//
//   1  *  Every process writes its data files: create (O_EXCL), write_at.
//   2  *  Each file is made durable (sync_and_close), then the directory that names them (sync_directory), before
//         the process reports.
//   3     The committer opens every reported file and compares id, size and footer CRC.
//   4  *  It writes the index and makes it durable, and its name (write_small, sync_directory).
//   5  *  It publishes the manifest: written under a temporary name, and durable; then link() to its final name, which
//         fails if there is one, and unlink() of the temporary one; or rename() when overwriting. This is the moment
//         from which the checkpoint exists.
//   6  *  sync_directory makes the name durable, and that of the directory itself, and of its new parents; sync_file
//         asks whether that can be believed.
//
// A failure up to 4 leaves files that no manifest names. A failure of 5 that may have come after the fact is
// looked into: done, not done, or kCommitUncertain. A failure of 6 leaves a checkpoint that a power cut may undo.
// No sync is ever repeated after a failure: the kernel reports a lost page once and then calls it clean.

#include "storage/posix/storage.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "storage/posix/open_files.h"
#include "storage/posix/scan.h"

namespace ostraca {
namespace {

constexpr int kCreateDirectoryAttempts = 16;  // others may remove what they made (and we stand in) at the same time

std::string parent_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

// Reads of plain files only; a symbolic link is none.
bool is_plain_file(int directory, const dirent& entry) {
  if (entry.d_type != DT_UNKNOWN) return entry.d_type == DT_REG;
  struct stat about = {};
  return ::fstatat(directory, entry.d_name, &about, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(about.st_mode);
}

}  // namespace

Status PosixStorage::check_path() const {
  if (!path_.empty() && path_.find('\0') == std::string::npos) return {};
  return invalid_argument("a checkpoint's directory must be a path without NUL, and not empty");
}

Result<Directory> PosixStorage::directory() {
  OSTRACA_RETURN_IF_ERROR(check_path());
  std::lock_guard lock(mutex_);
  if (directory_ != nullptr) return directory_;
  UniqueFd fd = open_descriptor([&] { return ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (!fd && errno == ENOENT) {
    const std::string target = posix_link_target(AT_FDCWD, path_);
    return not_found(target.empty() ? "directory '" + path_ + "' does not exist"
                                    : "'" + path_ + "' is a symbolic link to '" + target + "', which does not exist");
  }
  if (!fd) return Status::system(errno, "open directory", path_);
  directory_ = std::make_shared<const UniqueFd>(std::move(fd));
  return directory_;
}

// 0 when `path` is a directory now, or an errno.
int PosixStorage::make_one(const std::string& path) {
  if (::mkdir(path.c_str(), 0777) == 0) {
    created_.push_back(path);
    unsynced_.push_back(parent_of(path));
    return 0;
  }
  const int error = errno;
  struct stat about = {};
  // Not only after EEXIST: a read-only or automounted parent answers something else.
  if (::stat(path.c_str(), &about) == 0) return S_ISDIR(about.st_mode) ? 0 : ENOTDIR;
  return error == EEXIST ? errno : error;
}

// Upwards until a directory exists or can be made, then down again.
Status PosixStorage::make_all() {
  Status status;
  for (int attempt = 0; attempt < kCreateDirectoryAttempts; ++attempt) {
    std::vector<std::string> path = {path_};
    int error = make_one(path.back());
    while ((error == ENOENT || error == ENOTDIR) && path.back() != "/" && path.back() != ".") {
      path.push_back(parent_of(path.back()));
      error = make_one(path.back());
    }
    while (error == 0 && path.size() > 1) {
      path.pop_back();
      error = make_one(path.back());
    }
    if (error == 0) return {};
    const std::string target = posix_link_target(AT_FDCWD, path.back());
    status = Status::system(
        error,
        target.empty() ? "create directory" : "create directory through the symbolic link to '" + target + "' at",
        path.back());
    if (error != ENOENT) break;
  }
  return status;
}

Status PosixStorage::create_directory() {
  OSTRACA_RETURN_IF_ERROR(check_path());
  {
    std::lock_guard lock(mutex_);
    OSTRACA_RETURN_IF_ERROR(make_all());
    // Also where the directory was there: whoever made it may have died before it was durable.
    unsynced_.push_back(parent_of(path_));
    directory_ = nullptr;
  }
  auto opened = directory();
  return opened.ok() ? Status() : opened.status();
}

Result<std::unique_ptr<WritableFile>> PosixStorage::create(const std::string& name, IoMode mode) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  OSTRACA_ASSIGN_OR_RETURN(Directory in, directory());
  return posix_create(in, name, path_of(name), mode, calls_);
}

Result<std::unique_ptr<ReadableFile>> PosixStorage::open(const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  OSTRACA_ASSIGN_OR_RETURN(Directory in, directory());
  return posix_open(std::move(in), name, path_of(name), calls_);
}

Result<Document> PosixStorage::read_document(const std::string& name, std::size_t max_bytes) {
  OSTRACA_ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> file, open(name));
  if (file->size() > max_bytes)
    return format_error("'" + file->path() + "' has " + std::to_string(file->size()) +
                        " bytes, more than the limit of " + std::to_string(max_bytes));
  Document document{std::string(file->size(), '\0'), file->version()};
  const std::span<char> text(document.text.data(), document.text.size());
  OSTRACA_RETURN_IF_ERROR(file->read_at(0, std::as_writable_bytes(text)));
  return document;
}

Status PosixStorage::write_small(const std::string& name, Bytes data) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  OSTRACA_ASSIGN_OR_RETURN(Directory in, directory());
  const std::string path = path_of(name);
  OSTRACA_ASSIGN_OR_RETURN(UniqueFd fd, posix_open_exclusive(*in, name, path));
  Status status;
  if (const int error = posix_write_all(fd.get(), 0, data, calls_); error != 0) {
    status = Status::system(error, "write", path);
  } else if (retry_on_eintr([&] { return calls_.fsync(fd.get()); }) != 0) {
    status = Status::system(errno, "sync", path);
  }
  if (::close(fd.release()) != 0 && errno != EINTR && status.ok()) status = Status::system(errno, "close", path);
  if (!status.ok()) ::unlinkat(in->get(), name.c_str(), 0);
  return status;
}

Status PosixStorage::sync_parent(const std::string& path) const {
  const UniqueFd fd = open_descriptor([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (!fd && errno == EACCES) return {};  // one may write to it but not read it; there is no way to sync it then
  if (!fd) return Status::system(errno, "open directory", path);
  // EINVAL: a file system (CIFS, some FUSE ones) that has no sync of directories and needs none.
  if (retry_on_eintr([&] { return calls_.fsync(fd.get()); }) != 0 && errno != EINVAL)
    return Status::system(errno, "sync directory", path);
  return {};
}

Status PosixStorage::sync_directory() {
  OSTRACA_ASSIGN_OR_RETURN(Directory in, directory());
  if (retry_on_eintr([&] { return calls_.fsync(in->get()); }) != 0 && errno != EINVAL)
    return Status::system(errno, "sync directory", path_);
  std::vector<std::string> parents;
  {
    std::lock_guard lock(mutex_);
    parents = unsynced_;
  }
  std::sort(parents.begin(), parents.end());
  parents.erase(std::unique(parents.begin(), parents.end()), parents.end());
  for (const std::string& parent : parents) OSTRACA_RETURN_IF_ERROR(sync_parent(parent));
  std::lock_guard lock(mutex_);
  std::erase_if(unsynced_, [&](const std::string& p) { return std::binary_search(parents.begin(), parents.end(), p); });
  return {};
}

Status PosixStorage::sync_file(const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  OSTRACA_ASSIGN_OR_RETURN(Directory in, directory());
  const UniqueFd fd = open_descriptor([&] { return ::openat(in->get(), name.c_str(), O_RDONLY | O_CLOEXEC); });
  if (!fd) return Status::system(errno, "open", path_of(name));
  if (retry_on_eintr([&] { return calls_.fsync(fd.get()); }) != 0) return Status::system(errno, "sync", path_of(name));
  return {};
}

Status PosixStorage::touch(const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  OSTRACA_ASSIGN_OR_RETURN(Directory in, directory());
  // "Now", both times: then it is the server's clock that says when.
  if (retry_on_eintr([&] { return ::utimensat(in->get(), name.c_str(), nullptr, AT_SYMLINK_NOFOLLOW); }) == 0)
    return {};
  if (errno == ENOENT) return not_found("'" + path_of(name) + "' does not exist");
  return Status::system(errno, "touch", path_of(name));
}

Status PosixStorage::remove(const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  auto in = directory();
  if (!in.ok()) return in.status().code() == Code::kNotFound ? Status() : in.status();
  if (retry_on_eintr([&] { return ::unlinkat((*in)->get(), name.c_str(), 0); }) == 0 || errno == ENOENT) return {};
  return Status::system(errno, "remove", path_of(name));
}

Status PosixStorage::retire(const std::string& name, const std::string& version, const std::string& retired) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  OSTRACA_RETURN_IF_ERROR(check_name(retired));
  OSTRACA_ASSIGN_OR_RETURN(const Directory in, directory());
  return posix_retire(in, path_, name, version, retired, calls_);
}

Status PosixStorage::restore(const std::string& retired, const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  OSTRACA_RETURN_IF_ERROR(check_name(retired));
  OSTRACA_ASSIGN_OR_RETURN(const Directory in, directory());
  return posix_restore(in, path_, retired, name, calls_);
}

void PosixStorage::remove_created_directories() {
  std::lock_guard lock(mutex_);
  directory_ = nullptr;
  // rmdir itself refuses what is not empty, and then everything above is not empty either.
  while (!created_.empty() && ::rmdir(created_.back().c_str()) == 0) created_.pop_back();
}

Result<std::vector<std::string>> PosixStorage::list() {
  OSTRACA_ASSIGN_OR_RETURN(Directory in, directory());
  std::vector<std::string> names;
  const Status status = posix_list(in->get(), path_, [&](const dirent& entry) {
    if (is_plain_file(in->get(), entry)) names.emplace_back(entry.d_name);
  });
  if (status.os_error() == ENOENT) return not_found("directory '" + path_ + "' does not exist");
  OSTRACA_RETURN_IF_ERROR(status);
  std::ranges::sort(names);
  return names;
}

Result<std::unique_ptr<Lease>> PosixStorage::lease(const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  OSTRACA_ASSIGN_OR_RETURN(Directory in, directory());
  return posix_lease(std::move(in), name, path_of(name), calls_);
}

Result<std::unique_ptr<Lease>> PosixStorage::lease_replacing(const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  OSTRACA_ASSIGN_OR_RETURN(Directory in, directory());
  return posix_lease_replacing(std::move(in), name, path_of(name), calls_);
}

Result<std::unique_ptr<Lease>> PosixStorage::lease_exclusive(const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  OSTRACA_ASSIGN_OR_RETURN(const Directory in, directory());
  return posix_lease_exclusive(in, name, path_of(name), calls_);
}

Result<std::unique_ptr<Lease>> PosixStorage::lease_removing(const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  OSTRACA_ASSIGN_OR_RETURN(Directory in, directory());
  return posix_lease_removing(std::move(in), name, path_of(name), calls_);
}

// Of the directory that the path leads to, which may be elsewhere than a link to it.
std::string PosixStorage::real_parent() const {
  std::error_code error;
  const std::filesystem::path real = std::filesystem::canonical(path_, error);
  return error ? parent_of(path_) : real.parent_path().string();
}

Result<std::string> PosixStorage::name() {
  OSTRACA_RETURN_IF_ERROR(check_path());
  std::error_code error;
  const std::string own = std::filesystem::canonical(path_, error).filename().string();
  if (error == std::errc::no_such_file_or_directory) return not_found("directory '" + path_ + "' does not exist");
  if (error) return Status::system(error.value(), "find", path_);
  return own;
}

std::unique_ptr<Storage> make_posix_storage(const std::string& directory, const PosixCalls& calls) {
  return std::make_unique<PosixStorage>(directory, calls);
}

std::unique_ptr<Storage> make_posix_storage(const std::string& directory, UniqueFd open, const PosixCalls& calls) {
  return std::make_unique<PosixStorage>(directory, calls, std::make_shared<const UniqueFd>(std::move(open)));
}

std::string posix_absolute(const std::string& directory) {
  std::string path = directory;
  if (!path.empty() && path.front() != '/') {
    std::error_code error;
    const std::string here = std::filesystem::current_path(error).string();
    if (!error) path = (here == "/" ? "" : here) + "/" + path;
  }
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

std::string posix_real_path(const std::string& path) {
  const std::string absolute = posix_absolute(path);
  std::error_code error;
  const std::string real = std::filesystem::weakly_canonical(absolute, error).string();
  return error ? absolute : real;
}

std::unique_ptr<Storage> make_posix_storage(const std::string& directory) {
  return make_posix_storage(directory, PosixCalls::kernel());
}

}  // namespace ostraca
