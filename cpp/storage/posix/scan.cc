#include "storage/posix/scan.h"

#include <fcntl.h>

#include <algorithm>
#include <filesystem>

#include "storage/posix/file.h"
#include "storage/posix/open_files.h"

namespace ostraca {
namespace {

constexpr int kDirectory = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
// Opening a pipe, a device or a terminal by these does not wait for anybody and has no effect.
constexpr int kCautious = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;

void describe(const struct stat& about, ScannedFile* file) {
  file->kind = S_ISREG(about.st_mode)   ? ScannedFile::Kind::kPlain
               : S_ISLNK(about.st_mode) ? ScannedFile::Kind::kLink
                                        : ScannedFile::Kind::kOther;
  file->bytes = static_cast<std::uint64_t>(about.st_size);
  file->changed_ns = posix_changed_ns(about);
  file->modified_ns = posix_nanoseconds(about.st_mtim);
}

// One directory, open.
class Visit {
 public:
  Visit(int directory, const PosixLinks& links, const ScanOptions& options, Run::Child* child)
      : directory_(directory), links_(links), options_(options), child_(*child) {}

  Status list();
  void look_at_last();

 private:
  Status look_at(const std::string& name);
  Status read(ScannedFile* file, int flags) const;

  const int directory_;
  const PosixLinks& links_;
  const ScanOptions& options_;
  Run::Child& child_;
};

// Names first, so that nothing is changed under the listing by what is slow.
Status Visit::list() {
  std::vector<std::string> names;
  Status status = posix_list(directory_, child_.name, [&](const dirent& entry) { names.emplace_back(entry.d_name); });
  OSTRACA_RETURN_IF_ERROR(status);
  std::ranges::sort(names);
  for (const std::string& name : names)
    if (Status looked = look_at(name); status.ok()) status = std::move(looked);
  return status;
}

Status Visit::look_at(const std::string& name) {
  struct stat about = {};
  if (::fstatat(directory_, name.c_str(), &about, AT_SYMLINK_NOFOLLOW) != 0)
    return errno == ENOENT ? Status() : Status::system(errno, "stat", name);
  if (S_ISLNK(about.st_mode)) {
    const Result<std::string> to = links_.child_of(child_.name + "/" + name);
    if (to.ok() && !to->empty()) child_.links.push_back(*to);
    return {};
  }
  if (name == options_.last) return {};
  ScannedFile file{.name = name};
  describe(about, &file);
  if (file.kind == ScannedFile::Kind::kPlain && options_.is_document && options_.is_document(name)) {
    file.version = posix_version(about);
    if (!options_.is_known || !options_.is_known(name, file.version)) file.status = read(&file, O_NOFOLLOW);
    if (file.status.code() == Code::kNotFound) return {};
  }
  child_.files.push_back(std::move(file));
  const Status& status = child_.files.back().status;
  return status.code() == Code::kSystem ? status : Status();
}

// A document, and what its file is like now. Absent: kNotFound.
Status Visit::read(ScannedFile* file, int flags) const {
  const UniqueFd fd = open_descriptor([&] { return ::openat(directory_, file->name.c_str(), kCautious | flags); });
  if (!fd && errno == ENOENT) return not_found("'" + file->name + "' does not exist");
  // A socket, a device, a link that goes in circles.
  if (!fd && (errno == ENXIO || errno == ENODEV || errno == ELOOP))
    return file->kind = ScannedFile::Kind::kOther, Status();
  if (!fd) return Status::system(errno, "open", file->name);
  struct stat about = {};
  if (::fstat(fd.get(), &about) != 0) return Status::system(errno, "stat", file->name);
  const bool is_link = file->kind == ScannedFile::Kind::kLink && S_ISREG(about.st_mode);
  describe(about, file);
  if (file->kind != ScannedFile::Kind::kPlain) return {};
  if (is_link) file->kind = ScannedFile::Kind::kLink;
  file->version = posix_version(about);
  if (file->bytes > options_.document_bytes_max)
    return format_error("'" + file->name + "' has " + std::to_string(file->bytes) + " bytes, more than the limit of " +
                        std::to_string(options_.document_bytes_max));
  std::string text(file->bytes, '\0');
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = retry_on_eintr(
        [&] { return ::pread(fd.get(), text.data() + done, text.size() - done, static_cast<off_t>(done)); });
    if (n < 0) return Status::system(errno, "read", file->name);
    if (n == 0) break;  // it became shorter
    done += static_cast<std::size_t>(n);
  }
  text.resize(done);
  file->contents = std::move(text);
  return {};
}

void Visit::look_at_last() {
  ScannedFile file{.name = options_.last};
  struct stat about = {};
  if (::fstatat(directory_, file.name.c_str(), &about, AT_SYMLINK_NOFOLLOW) != 0) {
    file.status = errno == ENOENT ? not_found({}) : Status::system(errno, "stat", file.name);
  } else {
    describe(about, &file);
    file.version = posix_version(about);
    const bool is_link = file.kind == ScannedFile::Kind::kLink;
    const bool is_known = !is_link && options_.is_known && options_.is_known(file.name, file.version);
    if (is_link || (file.kind == ScannedFile::Kind::kPlain && !is_known)) file.status = read(&file, 0);
    if (is_link && file.status.code() == Code::kNotFound) file.status = Status::system(ENOENT, "follow", file.name);
  }
  child_.last = std::move(file);
}

}  // namespace

PosixLinks::PosixLinks(const std::string& run)
    : run_(run), real_([&] {
        std::error_code error;
        const std::string real = std::filesystem::canonical(run, error).string();
        return error ? run : real == "/" ? std::string() : real;
      }()) {}

Result<std::string> PosixLinks::child_of(const std::string& path, bool* whole) const {
  std::error_code error;
  const std::string real = std::filesystem::canonical(run_ + "/" + path, error).string();
  if (error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory) return std::string();
  if (error) return Status::system(error.value(), "follow", path);
  if (!real.starts_with(real_ + "/")) return std::string();
  const std::string rest = real.substr(real_.size() + 1);
  std::string name = rest.substr(0, rest.find('/'));
  std::error_code ignored;
  if (whole != nullptr) *whole = name == rest && std::filesystem::is_directory(real, ignored);
  return name;
}

// By a descriptor of its own: the position of a listing belongs to the open file, which threads share.
Status posix_list(int directory, const std::string& path, const std::function<void(const dirent&)>& take) {
  UniqueFd fd = open_descriptor([&] { return ::openat(directory, ".", kDirectory); });
  if (!fd) return Status::system(errno, "list", path);
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(::fdopendir(fd.get()), &::closedir);
  if (listing == nullptr) return Status::system(errno, "list", path);
  fd.release();  // closedir closes it
  errno = 0;
  while (const dirent* entry = ::readdir(listing.get())) {
    if (const std::string_view name = entry->d_name; name != "." && name != "..") take(*entry);
    errno = 0;
  }
  return errno == 0 ? Status() : Status::system(errno, "list", path);
}

std::int64_t posix_nanoseconds(const timespec& time) {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

std::string posix_identity(const struct stat& about) {
  return std::to_string(about.st_dev) + ":" + std::to_string(about.st_ino);
}

std::int64_t posix_changed_ns(const struct stat& about) {
  return std::max(posix_nanoseconds(about.st_mtim), posix_nanoseconds(about.st_ctim));
}

void posix_visit(int run, const PosixLinks& links, const ScanOptions& options, Run::Child* child) {
  if (options.last_only) {
    struct stat about = {};
    const std::string name = child->name + "/" + options.last;
    if (::fstatat(run, name.c_str(), &about, 0) != 0) return;
    child->last = {.name = options.last};
    describe(about, &child->last);
    return;
  }
  const int follow = child->is_link ? 0 : O_NOFOLLOW;
  const UniqueFd fd = open_descriptor([&] { return ::openat(run, child->name.c_str(), kDirectory | follow); });
  struct stat about = {};
  if (!fd || ::fstat(fd.get(), &about) != 0) {
    child->status = Status::system(errno, "open", child->name);
    return;
  }
  child->identity = posix_identity(about);
  child->changed_ns = posix_changed_ns(about);
  Visit visit(fd.get(), links, options, child);
  child->status = visit.list();
  if (!options.last.empty()) visit.look_at_last();
  if (child->status.ok() && child->last.status.code() == Code::kSystem) child->status = child->last.status;
}

}  // namespace ostraca
