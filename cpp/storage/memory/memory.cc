#include "storage/memory/memory.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "base/limits.h"

namespace ostraca {
namespace {

constexpr auto kReplacingWait = std::chrono::seconds(60), kReaderWait = std::chrono::seconds(5);
constexpr StoreTraits kTraits = {};

}  // namespace

// --- Directories ------------------------------------------------------------------------------------------------

bool MemoryDirectory::exists() const {
  std::lock_guard lock(mutex_);
  return exists_;
}

std::vector<std::string> MemoryDirectory::names() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> out;
  for (const auto& [name, file] : names_) out.push_back(name);
  return out;
}

void MemoryDirectory::remove_if_empty() {
  std::lock_guard lock(mutex_);
  exists_ &= !names_.empty();
}

std::shared_ptr<MemoryDirectory::File> MemoryDirectory::add(const std::string& name) {
  auto file = std::make_shared<File>();
  file->version = ++versions_;
  file->changed_ns = changed_ns_ = memory_clock_ns();
  return names_[name] = file;
}

// --- Files ------------------------------------------------------------------------------------------------------

class MemoryDirectory::Writable final : public WritableFile {
 public:
  Writable(std::shared_ptr<MemoryDirectory> directory, std::shared_ptr<File> file)
      : directory_(std::move(directory)), file_(std::move(file)) {}

  std::size_t alignment() const override { return kAlignmentMin; }
  void reserve(std::uint64_t /*bytes*/) override {}
  Status write_at(std::uint64_t offset, Bytes data) override {
    if ((offset | data.size() | reinterpret_cast<std::uintptr_t>(data.data())) % kAlignmentMin != 0)
      return invalid_argument("a write is not aligned");
    std::function<void()> hook;
    {
      std::lock_guard lock(directory_->mutex_);
      hook = directory_->before_write_;
    }
    if (hook) hook();
    std::lock_guard lock(directory_->mutex_);
    if (closed_) return invalid_argument("the file is closed");
    if (file_->synced()) file_->bytes = std::make_shared<Content>(*file_->bytes);
    Content& bytes = *file_->bytes;
    if (bytes.size() < offset + data.size()) bytes.resize(offset + data.size());
    std::copy(data.begin(), data.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset));
    return {};
  }
  Status sync_and_close() override {
    std::lock_guard lock(directory_->mutex_);
    if (std::exchange(closed_, true)) return invalid_argument("the file is closed");
    file_->durable = file_->bytes;
    return {};
  }

 private:
  const std::shared_ptr<MemoryDirectory> directory_;
  const std::shared_ptr<File> file_;
  bool closed_ = false;  // guarded by the directory's mutex
};

class MemoryDirectory::Readable final : public ReadableFile {
 public:
  Readable(std::shared_ptr<MemoryDirectory> directory, std::shared_ptr<File> file, std::string path)
      : directory_(std::move(directory)),
        file_(std::move(file)),
        path_(std::move(path)),
        version_(std::to_string(file_->version)),
        size_(file_->bytes->size()) {}

  std::uint64_t size() const override { return size_; }
  const std::string& path() const override { return path_; }
  const std::string& version() const override { return version_; }
  std::size_t direct_alignment() const override { return kAlignmentMin; }
  Status read_at(std::uint64_t offset, MutableBytes out) override { return copy(offset, out, out.size()); }
  std::size_t read_cached(std::uint64_t offset, MutableBytes out) override {
    {
      std::lock_guard lock(directory_->mutex_);
      if (!directory_->cached_) return 0;
    }
    return copy(offset, out, out.size()).ok() ? out.size() : 0;
  }
  Status read_direct(std::uint64_t offset, MutableBytes out) override {
    if ((offset | out.size() | reinterpret_cast<std::uintptr_t>(out.data())) % kAlignmentMin != 0)
      return invalid_argument("a direct read is not aligned");
    if (offset >= size_) return corruption("'" + path_ + "' ends early");
    return copy(offset, out, std::min<std::uint64_t>(out.size(), size_ - offset));
  }

 private:
  Status copy(std::uint64_t offset, MutableBytes out, std::size_t count) {
    std::lock_guard lock(directory_->mutex_);
    const Content& bytes = *file_->bytes;
    if (offset > bytes.size() || count > bytes.size() - offset) return corruption("'" + path_ + "' ends early");
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), count, out.begin());
    return {};
  }

  const std::shared_ptr<MemoryDirectory> directory_;
  const std::shared_ptr<File> file_;
  const std::string path_, version_;
  const std::uint64_t size_;
};

class MemoryDirectory::Leased final : public Lease {
 public:
  // REQUIRES: the directory's mutex held.
  Leased(std::shared_ptr<MemoryDirectory> directory, std::string name, std::shared_ptr<File> file, bool is_exclusive)
      : directory_(std::move(directory)), name_(std::move(name)), file_(std::move(file)), is_exclusive_(is_exclusive) {
    file_->is_exclusive |= is_exclusive_;
    file_->readers += !is_exclusive_;
  }
  ~Leased() override {
    std::lock_guard lock(directory_->mutex_);
    if (is_exclusive_) file_->is_exclusive = false;
    file_->readers -= !is_exclusive_;
    directory_->let_go_.notify_all();
  }
  bool current() const override {
    std::lock_guard lock(directory_->mutex_);
    const auto it = directory_->names_.find(name_);
    return it != directory_->names_.end() && it->second == file_;
  }

 private:
  const std::shared_ptr<MemoryDirectory> directory_;
  const std::string name_;
  const std::shared_ptr<File> file_;
  const bool is_exclusive_;
};

// One for all names of a directory.
class MemoryDirectory::Replacing final : public Lease {
 public:
  explicit Replacing(std::shared_ptr<MemoryDirectory> directory) : directory_(std::move(directory)) {}
  ~Replacing() override {
    std::lock_guard lock(directory_->mutex_);
    directory_->is_replacing_ = false;
    directory_->let_go_.notify_all();
  }
  bool current() const override { return true; }

 private:
  const std::shared_ptr<MemoryDirectory> directory_;
};

// --- Storage ----------------------------------------------------------------------------------------------------

MemoryStorage::MemoryStorage(std::shared_ptr<MemoryTree> tree, std::string name)
    : tree_(std::move(tree)),
      name_(std::move(name)),
      path_(tree_->path() + "/" + name_),
      directory_(tree_->at(name_)) {}

StoreTraits MemoryStorage::traits() const { return kTraits; }

Result<std::string> MemoryStorage::name() {
  if (!directory_->exists()) return not_found("directory '" + path_ + "' does not exist");
  return name_;
}

std::unique_ptr<Run> MemoryStorage::run() { return make_memory_run(tree_); }

Status MemoryStorage::create_directory() {
  std::lock_guard lock(directory_->mutex_);
  created_ |= !directory_->exists_;
  directory_->exists_ = true;
  return {};
}

// REQUIRES: the directory's mutex held.
Result<std::shared_ptr<MemoryDirectory::File>> MemoryStorage::find(const std::string& name) const {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  const auto it = directory_->names_.find(name);
  if (it == directory_->names_.end()) return not_found("'" + path_of(name) + "' does not exist");
  return it->second;
}

// REQUIRES: the directory's mutex held.
Result<std::shared_ptr<MemoryDirectory::File>> MemoryStorage::add(const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  if (!directory_->exists_) return Status::system(ENOENT, "create", path_of(name));
  if (directory_->names_.contains(name)) return exists("'" + path_of(name) + "' exists already");
  return directory_->add(name);
}

Result<std::unique_ptr<WritableFile>> MemoryStorage::create(const std::string& name, IoMode /*mode*/) {
  std::lock_guard lock(directory_->mutex_);
  OSTRACA_ASSIGN_OR_RETURN(auto file, add(name));
  return std::unique_ptr<WritableFile>(std::make_unique<MemoryDirectory::Writable>(directory_, std::move(file)));
}

Result<std::unique_ptr<ReadableFile>> MemoryStorage::open(const std::string& name) {
  std::lock_guard lock(directory_->mutex_);
  OSTRACA_ASSIGN_OR_RETURN(auto file, find(name));
  return std::unique_ptr<ReadableFile>(
      std::make_unique<MemoryDirectory::Readable>(directory_, std::move(file), path_of(name)));
}

Result<Document> MemoryStorage::read_document(const std::string& name, std::size_t max_bytes) {
  std::lock_guard lock(directory_->mutex_);
  OSTRACA_ASSIGN_OR_RETURN(const auto file, find(name));
  if (file->bytes->size() > max_bytes)
    return format_error("'" + path_of(name) + "' has " + std::to_string(file->bytes->size()) +
                        " bytes, more than the limit of " + std::to_string(max_bytes));
  return Document{std::string(as_text(*file->bytes)), std::to_string(file->version)};
}

Status MemoryStorage::write_small(const std::string& name, Bytes data) {
  std::lock_guard lock(directory_->mutex_);
  OSTRACA_ASSIGN_OR_RETURN(const auto file, add(name));
  file->durable = file->bytes = std::make_shared<MemoryDirectory::Content>(data.begin(), data.end());
  return {};
}

Status MemoryStorage::publish(const Publication& publication) {
  OSTRACA_RETURN_IF_ERROR(check_name(publication.name));
  std::lock_guard lock(directory_->mutex_);
  if (!directory_->exists_) return Status::system(ENOENT, "publish", path_of(publication.name));
  const auto there = directory_->names_.find(publication.name);
  const bool is_there = there != directory_->names_.end();
  const std::string* version = publication.expected.is_version();
  if (publication.expected.is_absent() && is_there) return exists("'" + path_of(publication.name) + "' exists already");
  if (version != nullptr && (!is_there || std::to_string(there->second->version) != *version))
    return exists("'" + path_of(publication.name) + "' changed meanwhile");
  if (is_there && !publication.retired.empty()) directory_->names_.emplace(publication.retired, there->second);
  const auto file = directory_->add(publication.name);
  file->durable = file->bytes =
      std::make_shared<MemoryDirectory::Content>(publication.contents.begin(), publication.contents.end());
  return {};
}

Status MemoryStorage::sync_directory() {
  std::lock_guard lock(directory_->mutex_);
  directory_->durable_names_ = directory_->names_;
  return {};
}

Status MemoryStorage::touch(const std::string& name) {
  std::lock_guard lock(directory_->mutex_);
  OSTRACA_ASSIGN_OR_RETURN(const auto file, find(name));
  file->changed_ns = memory_clock_ns();
  return {};
}

Status MemoryStorage::remove(const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  std::lock_guard lock(directory_->mutex_);
  directory_->names_.erase(name);
  return {};
}

Status MemoryStorage::retire(const std::string& name, const std::string& version, const std::string& retired) {
  OSTRACA_RETURN_IF_ERROR(check_name(retired));
  std::lock_guard lock(directory_->mutex_);
  const auto file = find(name);
  if (file.status().code() == Code::kInvalidArgument) return file.status();
  if (!file.ok() || std::to_string((*file)->version) != version)
    return exists("'" + path_of(name) + "' changed meanwhile");
  (*file)->changed_ns = memory_clock_ns();
  directory_->names_[retired] = *file;
  directory_->names_.erase(name);
  return {};
}

Status MemoryStorage::restore(const std::string& retired, const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  std::lock_guard lock(directory_->mutex_);
  OSTRACA_ASSIGN_OR_RETURN(const auto file, find(retired));
  directory_->names_.emplace(name, file);
  directory_->names_.erase(retired);
  return {};
}

void MemoryStorage::remove_created_directories() {
  std::lock_guard lock(directory_->mutex_);
  if (created_ && directory_->names_.empty()) directory_->exists_ = false;
}

Result<std::vector<std::string>> MemoryStorage::list() {
  if (!directory_->exists()) return not_found("directory '" + path_ + "' does not exist");
  return directory_->names();
}

Result<std::unique_ptr<Lease>> MemoryStorage::lease(const std::string& name) {
  std::unique_lock lock(directory_->mutex_);
  const auto give_up = std::chrono::steady_clock::now() + kReaderWait;
  OSTRACA_ASSIGN_OR_RETURN(auto file, find(name));
  while (file->is_exclusive && directory_->let_go_.wait_until(lock, give_up) == std::cv_status::no_timeout) {
    OSTRACA_ASSIGN_OR_RETURN(file, find(name));
  }
  return std::unique_ptr<Lease>(std::make_unique<MemoryDirectory::Leased>(directory_, name, std::move(file), false));
}

Result<std::unique_ptr<Lease>> MemoryStorage::lease_exclusive(const std::string& name) {
  std::lock_guard lock(directory_->mutex_);
  OSTRACA_ASSIGN_OR_RETURN(auto file, find(name));
  if (file->readers != 0 || file->is_exclusive) return Status::system(EWOULDBLOCK, "lock", path_of(name));
  return std::unique_ptr<Lease>(std::make_unique<MemoryDirectory::Leased>(directory_, name, std::move(file), true));
}

Result<std::unique_ptr<Lease>> MemoryStorage::lease_replacing(const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  std::unique_lock lock(directory_->mutex_);
  if (!directory_->let_go_.wait_for(lock, kReplacingWait, [&] { return !directory_->is_replacing_; }))
    return Status::system(ETIMEDOUT, "wait for another thread to let go of", path_of(name));
  directory_->is_replacing_ = true;
  return std::unique_ptr<Lease>(std::make_unique<MemoryDirectory::Replacing>(directory_));
}

Result<std::unique_ptr<Lease>> MemoryStorage::lease_removing(const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  std::lock_guard lock(directory_->mutex_);
  if (directory_->is_replacing_) return Status::system(EWOULDBLOCK, "lock", path_of(name));
  directory_->is_replacing_ = true;
  return std::unique_ptr<Lease>(std::make_unique<MemoryDirectory::Replacing>(directory_));
}

}  // namespace ostraca
