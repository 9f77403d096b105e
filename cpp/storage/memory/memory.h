// Runs in memory: fast, and gone with the process. What was not synced is known, so that tests can cut the power.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "storage/storage.h"

namespace ostraca {

// A directory of files, shared by the storages that open it. Thread-safe.
class MemoryDirectory {
 public:
  using Content = std::vector<std::byte>;

  virtual ~MemoryDirectory() = default;
  bool exists() const;
  std::vector<std::string> names() const;  // sorted
  void look(const ScanOptions& options, Run::Child* child) const;
  void remove_if_empty();

 protected:
  struct File {
    std::shared_ptr<Content> bytes = std::make_shared<Content>();
    std::shared_ptr<Content> durable = std::make_shared<Content>();  // `bytes` itself once it is synced
    std::uint64_t version = 0;
    std::int64_t changed_ns = 0;
    int readers = 0;  // who have leases, as one who removes has an exclusive one
    bool is_exclusive = false;

    bool synced() const { return bytes == durable; }
  };
  using Names = std::map<std::string, std::shared_ptr<File>>;

  std::shared_ptr<File> add(const std::string& name);  // REQUIRES: mutex_ held

  mutable std::mutex mutex_;  // guards the rest, the files' contents included
  bool exists_ = false;
  bool cached_ = true;                  // whether reads find bytes in the page cache
  std::function<void()> before_write_;  // called at the beginning of every write
  Names names_, durable_names_;

 private:
  friend class MemoryStorage;
  class Writable;
  class Readable;
  class Leased;
  class Replacing;

  std::uint64_t versions_ = 0;
  std::int64_t changed_ns_ = 0;
  bool is_replacing_ = false;       // somebody has that lease
  std::condition_variable let_go_;  // of any lease
};

// The directories of a run, by name. Thread-safe.
class MemoryTree {
 public:
  explicit MemoryTree(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  std::shared_ptr<MemoryDirectory> at(const std::string& name);  // made where there is none; a save creates it
  void put(const std::string& name, std::shared_ptr<MemoryDirectory> directory);
  std::vector<std::string> names() const;  // of those that exist, sorted

 private:
  const std::string path_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<MemoryDirectory>> directories_;
};

class MemoryStorage : public Storage {
 public:
  MemoryStorage(std::shared_ptr<MemoryTree> tree, std::string name);

  StoreTraits traits() const override;
  const std::string& path() const override { return path_; }
  std::string path_of(const std::string& name) const override { return path_ + "/" + name; }
  Result<std::string> name() override;
  std::unique_ptr<Run> run() override;
  Status create_directory() override;
  Result<std::unique_ptr<WritableFile>> create(const std::string& name, IoMode mode) override;
  Result<std::unique_ptr<ReadableFile>> open(const std::string& name) override;
  Result<Document> read_document(const std::string& name, std::size_t max_bytes) override;
  Status write_small(const std::string& name, Bytes data) override;
  Status publish(const Publication& publication) override;
  Status sync_directory() override;
  Status sync_file(const std::string& /*name*/) override { return {}; }
  Status touch(const std::string& name) override;
  Status remove(const std::string& name) override;
  Status retire(const std::string& name, const std::string& version, const std::string& retired) override;
  Status restore(const std::string& retired, const std::string& name) override;
  void remove_created_directories() override;
  Result<std::vector<std::string>> list() override;
  Result<std::unique_ptr<Lease>> lease(const std::string& name) override;
  Result<std::unique_ptr<Lease>> lease_replacing(const std::string& name) override;
  Result<std::unique_ptr<Lease>> lease_exclusive(const std::string& name) override;
  Result<std::unique_ptr<Lease>> lease_removing(const std::string& name) override;

 private:
  Result<std::shared_ptr<MemoryDirectory::File>> find(const std::string& name) const;
  Result<std::shared_ptr<MemoryDirectory::File>> add(const std::string& name);

  const std::shared_ptr<MemoryTree> tree_;
  const std::string name_, path_;
  const std::shared_ptr<MemoryDirectory> directory_;
  bool created_ = false;  // guarded by the directory's mutex
};

std::int64_t memory_clock_ns();  // since 1970
std::unique_ptr<Run> make_memory_run(std::shared_ptr<MemoryTree> tree);

}  // namespace ostraca
