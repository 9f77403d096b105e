// Internal to cpp/storage: a checkpoint's directory on a POSIX file system.
#pragma once

#include <sys/stat.h>

#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "storage/posix/calls.h"
#include "storage/posix/file.h"
#include "storage/storage.h"

namespace ostraca {

// Names are resolved against a descriptor of the directory: once open, a tree that is moved stays one checkpoint.
class PosixStorage final : public Storage {
 public:
  PosixStorage(const std::string& directory, const PosixCalls& calls, Directory open = nullptr)
      : calls_(calls), path_(posix_absolute(directory)), directory_(std::move(open)) {}

  // A device's queue; a file server.
  StoreTraits traits() const override { return {.io_threads = 4, .small_reads = 64, .is_shared = !claims_names_}; }
  const std::string& path() const override { return path_; }
  std::string path_of(const std::string& name) const override {
    return path_ == "/" ? path_ + name : path_ + "/" + name;
  }

  Result<std::string> name() override;
  std::unique_ptr<Run> run() override { return make_posix_run(real_parent(), calls_); }
  Status create_directory() override;
  Result<std::unique_ptr<WritableFile>> create(const std::string& name, IoMode mode) override;
  Result<std::unique_ptr<ReadableFile>> open(const std::string& name) override;
  Result<Document> read_document(const std::string& name, std::size_t max_bytes) override;
  Status write_small(const std::string& name, Bytes data) override;
  Status publish(const Publication& publication) override;
  Status sync_directory() override;
  Status sync_file(const std::string& name) override;
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
  enum class Published { kYes, kNo, kUnknown };

  Status check_path() const;
  std::string real_parent() const;
  Result<Directory> directory();
  int make_one(const std::string& path);
  Status make_all();
  Status sync_parent(const std::string& path) const;
  Status publish_written(int directory, const std::string& from, const Publication& publication);
  Status publish_new(int directory, const std::string& from, const std::string& to, const struct stat& ours);
  Status publish_claimed(int directory, const std::string& from, const std::string& to, const struct stat& ours);
  Status check_version(int directory, const Publication& publication) const;
  Status add_name(int directory, const std::string& from, const std::string& to);
  Status not_published(int directory, const std::string& to, const struct stat& ours, int error, const char* what);
  static Published is_published(int directory, const std::string& to, const struct stat& ours);

  const PosixCalls& calls_;
  const std::string path_;
  std::atomic<bool> claims_names_ = false;  // a name can be taken once by publish_claimed() alone
  std::mutex mutex_;                        // guards the rest
  Directory directory_;                     // opened at the first use
  std::vector<std::string> created_;        // directories made here, outermost first
  std::vector<std::string> unsynced_;       // directories in which entries were made that are not yet durable
};

}  // namespace ostraca
