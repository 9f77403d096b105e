// A disk in memory: fast, inspectable, and one whose power can be cut. Until a file is synced its bytes, and until the
// directory is synced its names, are only promises; a power cut keeps any of them and forgets the others.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "storage/storage.h"

namespace ostraca::testing {

// One directory, shared by the storages that open it. Thread-safe.
class MemoryDisk {
 public:
  using Content = std::vector<std::byte>;

  std::map<std::string, Content> files() const {
    std::lock_guard lock(mutex_);
    std::map<std::string, Content> out;
    for (const auto& [name, file] : names_) out[name] = file->bytes;
    return out;
  }
  std::vector<std::string> names() const {
    std::lock_guard lock(mutex_);
    std::vector<std::string> out;
    for (const auto& [name, file] : names_) out.push_back(name);
    return out;
  }
  bool exists() const {
    std::lock_guard lock(mutex_);
    return exists_;
  }
  // Puts a file there, durably, in place of what has the name.
  void put(const std::string& name, Content bytes) {
    std::lock_guard lock(mutex_);
    exists_ = true;
    auto file = std::make_shared<File>();
    file->durable = file->bytes = std::move(bytes);
    names_[name] = durable_names_[name] = std::move(file);
  }
  void erase(const std::string& name) {
    std::lock_guard lock(mutex_);
    names_.erase(name);
    durable_names_.erase(name);
  }
  // Another directory beside this one, whose name is "memory".
  void add_sibling(const std::string& name, std::shared_ptr<MemoryDisk> disk) {
    std::lock_guard lock(mutex_);
    siblings_[name] = std::move(disk);
  }
  // Whether reads find bytes in the page cache.
  void set_cached(bool cached) {
    std::lock_guard lock(mutex_);
    cached_ = cached;
  }

  // Called at the beginning of every write: a slow disk, or a moment at which a test does something.
  void set_before_write(std::function<void()> hook) {
    std::lock_guard lock(mutex_);
    before_write_ = std::move(hook);
  }

  // What a restart finds: of every change of a name that was not synced, and of every block that was not synced, either
  // the old or the new, as the dice fall.
  void cut_power(std::uint32_t seed) {
    std::lock_guard lock(mutex_);
    std::mt19937 dice(seed);
    // The first seeds are the extremes: nothing or all of the names, with nothing or all of the bytes.
    const auto toss = [&](std::uint32_t extreme) { return seed < 4 ? (seed & extreme) != 0 : (dice() & 1) != 0; };
    std::map<std::string, std::shared_ptr<File>> all = names_;
    all.insert(durable_names_.begin(), durable_names_.end());
    std::map<std::string, std::shared_ptr<File>> after;
    for (const auto& [name, ignored] : all) {
      const auto old_file = durable_names_.find(name), new_file = names_.find(name);
      const bool keep_new = toss(1);
      if (keep_new && new_file != names_.end()) after[name] = new_file->second;
      if (!keep_new && old_file != durable_names_.end()) after[name] = old_file->second;
    }
    for (const auto& [name, file] : after) {
      Content mixed = file->durable;
      if (!file->synced) {
        const bool longer = toss(2);
        mixed.resize(longer ? file->bytes.size() : file->durable.size());
        for (std::size_t at = 0; at < mixed.size(); at += kAlignmentMin)
          if (toss(2))
            std::copy_n(file->bytes.begin() + at, std::min(kAlignmentMin, mixed.size() - at), mixed.begin() + at);
      }
      file->durable = file->bytes = std::move(mixed);
      file->synced = true;
    }
    names_ = durable_names_ = std::move(after);
  }

 private:
  friend class MemoryStorage;
  struct File {
    Content bytes, durable;
    bool synced = true;
  };
  class Writable;
  class Readable;
  class Leased;
  class Replacing;

  mutable std::mutex mutex_;  // guards the rest, the files' contents included
  bool exists_ = false;
  bool cached_ = true;
  std::function<void()> before_write_;
  std::map<std::string, std::shared_ptr<File>> names_, durable_names_;
  std::map<std::string, std::shared_ptr<MemoryDisk>> siblings_;
  std::mutex replacing_;  // held by who has that lease
};

class MemoryDisk::Writable final : public WritableFile {
 public:
  Writable(std::shared_ptr<MemoryDisk> disk, std::shared_ptr<File> file)
      : disk_(std::move(disk)), file_(std::move(file)) {}

  std::size_t alignment() const override { return kAlignmentMin; }
  void reserve(std::uint64_t /*bytes*/) override {}
  Status write_at(std::uint64_t offset, Bytes data) override {
    if ((offset | data.size() | reinterpret_cast<std::uintptr_t>(data.data())) % kAlignmentMin != 0)
      return invalid_argument("a write is not aligned");
    std::function<void()> hook;
    {
      std::lock_guard lock(disk_->mutex_);
      hook = disk_->before_write_;
    }
    if (hook) hook();
    std::lock_guard lock(disk_->mutex_);
    if (file_->bytes.size() < offset + data.size()) file_->bytes.resize(offset + data.size());
    std::copy(data.begin(), data.end(), file_->bytes.begin() + static_cast<std::ptrdiff_t>(offset));
    file_->synced = false;
    return {};
  }
  Status sync_and_close() override {
    std::lock_guard lock(disk_->mutex_);
    file_->durable = file_->bytes;
    file_->synced = true;
    return {};
  }

 private:
  const std::shared_ptr<MemoryDisk> disk_;
  const std::shared_ptr<File> file_;
};

class MemoryDisk::Readable final : public ReadableFile {
 public:
  Readable(std::shared_ptr<MemoryDisk> disk, std::shared_ptr<File> file, std::string path)
      : disk_(std::move(disk)), file_(std::move(file)), path_(std::move(path)), size_(file_->bytes.size()) {}

  std::uint64_t size() const override { return size_; }
  const std::string& path() const override { return path_; }
  std::size_t direct_alignment() const override { return kAlignmentMin; }
  Status read_at(std::uint64_t offset, MutableBytes out) override { return copy(offset, out, out.size()); }
  std::size_t read_cached(std::uint64_t offset, MutableBytes out) override {
    {
      std::lock_guard lock(disk_->mutex_);
      if (!disk_->cached_) return 0;
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
    std::lock_guard lock(disk_->mutex_);
    if (offset > file_->bytes.size() || count > file_->bytes.size() - offset)
      return corruption("'" + path_ + "' ends early");
    std::copy_n(file_->bytes.begin() + static_cast<std::ptrdiff_t>(offset), count, out.begin());
    return {};
  }

  const std::shared_ptr<MemoryDisk> disk_;
  const std::shared_ptr<File> file_;
  const std::string path_;
  const std::uint64_t size_;
};

// Nobody takes exclusive ones here: it only tells whether the name moved on.
class MemoryDisk::Leased final : public Lease {
 public:
  Leased(std::shared_ptr<MemoryDisk> disk, std::string name)
      : disk_(std::move(disk)), name_(std::move(name)), file_(disk_->names_.at(name_)) {}
  bool current() const override {
    std::lock_guard lock(disk_->mutex_);
    const auto it = disk_->names_.find(name_);
    return it != disk_->names_.end() && it->second == file_;
  }

 private:
  const std::shared_ptr<MemoryDisk> disk_;
  const std::string name_;
  const std::shared_ptr<File> file_;
};

// One for all names. Whoever has it lets go in the same thread.
class MemoryDisk::Replacing final : public Lease {
 public:
  explicit Replacing(std::shared_ptr<MemoryDisk> disk) : disk_(std::move(disk)), lock_(disk_->replacing_) {}
  bool current() const override { return true; }

 private:
  const std::shared_ptr<MemoryDisk> disk_;
  const std::lock_guard<std::mutex> lock_;
};

class MemoryStorage final : public Storage {
 public:
  explicit MemoryStorage(std::shared_ptr<MemoryDisk> disk) : disk_(std::move(disk)) {}

  const std::string& path() const override { return path_; }
  std::string path_of(const std::string& name) const override { return path_ + "/" + name; }

  Status create_directory() override {
    std::lock_guard lock(disk_->mutex_);
    created_ |= !disk_->exists_;
    disk_->exists_ = true;
    return {};
  }
  Result<std::unique_ptr<WritableFile>> create(const std::string& name, IoMode) override {
    OSTRACA_ASSIGN_OR_RETURN(auto file, add(name));
    return std::unique_ptr<WritableFile>(std::make_unique<MemoryDisk::Writable>(disk_, std::move(file)));
  }
  Result<std::unique_ptr<ReadableFile>> open(const std::string& name) override {
    std::lock_guard lock(disk_->mutex_);
    const auto it = disk_->names_.find(name);
    if (it == disk_->names_.end()) return not_found("'" + path_of(name) + "' does not exist");
    return std::unique_ptr<ReadableFile>(std::make_unique<MemoryDisk::Readable>(disk_, it->second, path_of(name)));
  }
  Result<std::string> read_small(const std::string& name, std::size_t max_bytes) override {
    std::lock_guard lock(disk_->mutex_);
    const auto it = disk_->names_.find(name);
    if (it == disk_->names_.end()) return not_found("'" + path_of(name) + "' does not exist");
    if (it->second->bytes.size() > max_bytes) return format_error("'" + path_of(name) + "' is too large");
    return std::string(as_text(it->second->bytes));
  }
  Status write_small(const std::string& name, Bytes data) override {
    OSTRACA_ASSIGN_OR_RETURN(auto file, add(name));
    std::lock_guard lock(disk_->mutex_);
    file->durable = file->bytes = {data.begin(), data.end()};
    file->synced = true;
    return {};
  }
  Status publish(const std::string& from, const std::string& to, bool replace) override {
    std::lock_guard lock(disk_->mutex_);
    const auto it = disk_->names_.find(from);
    if (it == disk_->names_.end()) return Status::system(ENOENT, "publish", path_of(from));
    if (!replace && disk_->names_.contains(to)) return exists("'" + path_of(to) + "' exists already");
    disk_->names_[to] = it->second;
    disk_->names_.erase(from);
    return {};
  }
  Status add_name(const std::string& from, const std::string& to) override {
    std::lock_guard lock(disk_->mutex_);
    const auto it = disk_->names_.find(from);
    if (it == disk_->names_.end()) return Status::system(ENOENT, "link", path_of(from));
    return disk_->names_.emplace(to, it->second).second ? Status() : exists("'" + path_of(to) + "' exists already");
  }
  Status sync_directory() override {
    std::lock_guard lock(disk_->mutex_);
    disk_->durable_names_ = disk_->names_;
    return {};
  }
  Status sync_file(const std::string& /*name*/) override { return {}; }  // what is published was written durably
  Status remove(const std::string& name) override {
    std::lock_guard lock(disk_->mutex_);
    disk_->names_.erase(name);
    return {};
  }
  void remove_created_directories() override {
    std::lock_guard lock(disk_->mutex_);
    if (created_ && disk_->names_.empty()) disk_->exists_ = false;
  }
  Result<std::vector<std::string>> list() override {
    if (!disk_->exists()) return not_found("directory '" + path_ + "' does not exist");
    return disk_->names();
  }

  Result<std::unique_ptr<Lease>> lease(const std::string& name) override {
    std::lock_guard lock(disk_->mutex_);
    if (!disk_->names_.contains(name)) return not_found("'" + path_of(name) + "' does not exist");
    return std::unique_ptr<Lease>(std::make_unique<MemoryDisk::Leased>(disk_, name));
  }
  Result<std::unique_ptr<Lease>> lease_replacing(const std::string& /*name*/) override {
    return std::unique_ptr<Lease>(std::make_unique<MemoryDisk::Replacing>(disk_));
  }
  Result<Siblings> siblings() override {
    std::lock_guard lock(disk_->mutex_);
    Siblings out{path_, {}};
    for (const auto& [name, disk] : disk_->siblings_) out.others.push_back(name);
    return out;
  }
  std::unique_ptr<Storage> sibling(const std::string& name) override {
    std::lock_guard lock(disk_->mutex_);
    const auto it = disk_->siblings_.find(name);
    return std::make_unique<MemoryStorage>(it == disk_->siblings_.end() ? std::make_shared<MemoryDisk>() : it->second);
  }

 private:
  Result<std::shared_ptr<MemoryDisk::File>> add(const std::string& name) {
    std::lock_guard lock(disk_->mutex_);
    if (!disk_->exists_) return Status::system(ENOENT, "create", path_of(name));
    if (disk_->names_.contains(name)) return exists("'" + path_of(name) + "' exists already");
    auto file = std::make_shared<MemoryDisk::File>();
    file->synced = false;
    disk_->names_[name] = file;
    return file;
  }

  const std::shared_ptr<MemoryDisk> disk_;
  const std::string path_ = "memory";
  bool created_ = false;
};

}  // namespace ostraca::testing
