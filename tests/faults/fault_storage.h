// A Storage that fails on command: the tests' disk. It counts and logs every call that does I/O, those of the files it
// opens included, fails the one it is told to, and after a simulated crash performs nothing more.
#pragma once

#include <signal.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "storage/storage.h"

namespace ostraca::testing {

// What goes wrong, and at which call.
struct Fault {
  std::uint64_t at_call = 0;  // counted from 1; 0: never
  int error = EIO;
  bool after = false;          // the call does its work and then reports failure
  bool crash = false;          // every later call fails too, and does nothing
  bool kill = false;           // the process dies instead, before the call or after it
  Code code = Code::kSystem;   // what is reported; with kSystem `error` counts
  std::string operation = {};  // not empty: only calls of this operation count for at_call ("write_at", "publish", ...)
};

// One call of the log. `call` counts from 1.
struct LoggedCall {
  std::uint64_t call;
  std::string operation;
  std::string name;  // of the file; empty for the directory
  std::uint64_t offset;
  std::uint64_t size;  // bytes
  bool performed;
  bool reported_ok;
};

// What a FaultStorage and its files share; outlives them in the test's hands. Thread-safe.
class FaultPlan {
 public:
  FaultPlan() = default;
  explicit FaultPlan(Fault fault) : fault_(std::move(fault)) {}

  // Counts from the beginning again, with another fault; a crash is over. Keeps the log.
  void set(Fault fault) {
    std::lock_guard lock(mutex_);
    fault_ = std::move(fault);
    calls_ = matching_ = 0;
    crashed_ = false;
  }
  std::uint64_t calls() const {
    std::lock_guard lock(mutex_);
    return calls_;
  }
  bool crashed() const {
    std::lock_guard lock(mutex_);
    return crashed_;
  }
  std::vector<LoggedCall> log() const {
    std::lock_guard lock(mutex_);
    return log_;
  }

  enum class Fate { kWork, kFail, kWorkThenFail };
  struct Decision {
    Fate fate;
    Code code;
    int error;
    std::size_t entry;  // of the log
    bool kill;
  };
  Decision next(const std::string& operation, const std::string& name, std::uint64_t offset, std::uint64_t size) {
    std::lock_guard lock(mutex_);
    Fate fate = Fate::kWork;
    if (fault_.operation.empty() || fault_.operation == operation) ++matching_;
    if (crashed_) {
      fate = Fate::kFail;
    } else if (fault_.at_call != 0 && matching_ == fault_.at_call &&
               (fault_.operation.empty() || fault_.operation == operation)) {
      fate = fault_.after ? Fate::kWorkThenFail : Fate::kFail;
      crashed_ = fault_.crash;
    }
    log_.push_back({++calls_, operation, name, offset, size, fate != Fate::kFail, false});
    return {fate, crashed_ ? Code::kSystem : fault_.code, fault_.error, log_.size() - 1,
            fate != Fate::kWork && fault_.kill};
  }
  void report(std::size_t entry, bool ok) {
    std::lock_guard lock(mutex_);
    log_[entry].reported_ok = ok;
  }

 private:
  mutable std::mutex mutex_;
  Fault fault_;
  std::uint64_t calls_ = 0;
  std::uint64_t matching_ = 0;  // calls that count for fault_.at_call
  bool crashed_ = false;
  std::vector<LoggedCall> log_;
};

// One call: decides its fate, performs it or not. `perform` and the result are a Status or a Result<T>.
template <class Perform>
auto with_faults(FaultPlan& plan, const std::string& operation, const std::string& path, const std::string& name,
                 std::uint64_t offset, std::uint64_t size, Perform perform) -> decltype(perform()) {
  const FaultPlan::Decision decision = plan.next(operation, name, offset, size);
  const Status failure = decision.code == Code::kSystem
                             ? Status::system(decision.error, operation + " (injected fault)", path)
                             : Status(decision.code, operation + " (injected fault)");
  if (decision.kill && decision.fate == FaultPlan::Fate::kFail) (void)::raise(SIGKILL);
  if (decision.fate == FaultPlan::Fate::kFail) return failure;
  auto result = perform();
  if (decision.kill) (void)::raise(SIGKILL);
  if (decision.fate == FaultPlan::Fate::kWorkThenFail) return failure;
  plan.report(decision.entry, result.ok());
  return result;
}

class FaultWritableFile final : public WritableFile {
 public:
  FaultWritableFile(std::shared_ptr<FaultPlan> plan, std::unique_ptr<WritableFile> inner, std::string name,
                    std::string path)
      : plan_(std::move(plan)), inner_(std::move(inner)), name_(std::move(name)), path_(std::move(path)) {}

  std::size_t alignment() const override { return inner_->alignment(); }
  void reserve(std::uint64_t bytes) override { inner_->reserve(bytes); }
  Status write_at(std::uint64_t offset, Bytes data) override {
    return with_faults(*plan_, "write_at", path_, name_, offset, data.size(),
                       [&] { return inner_->write_at(offset, data); });
  }
  Status sync_and_close() override {
    return with_faults(*plan_, "sync_and_close", path_, name_, 0, 0, [&] { return inner_->sync_and_close(); });
  }

 private:
  const std::shared_ptr<FaultPlan> plan_;
  const std::unique_ptr<WritableFile> inner_;
  const std::string name_, path_;
};

class FaultReadableFile final : public ReadableFile {
 public:
  FaultReadableFile(std::shared_ptr<FaultPlan> plan, std::unique_ptr<ReadableFile> inner, std::string name)
      : plan_(std::move(plan)), inner_(std::move(inner)), name_(std::move(name)) {}

  std::uint64_t size() const override { return inner_->size(); }
  const std::string& path() const override { return inner_->path(); }
  const std::string& version() const override { return inner_->version(); }
  std::size_t direct_alignment() const override { return inner_->direct_alignment(); }
  Status read_at(std::uint64_t offset, MutableBytes out) override {
    return with_faults(*plan_, "read_at", path(), name_, offset, out.size(),
                       [&] { return inner_->read_at(offset, out); });
  }
  Status read_direct(std::uint64_t offset, MutableBytes out) override {
    return with_faults(*plan_, "read_direct", path(), name_, offset, out.size(),
                       [&] { return inner_->read_direct(offset, out); });
  }
  // A failure here is the answer that nothing is cached.
  std::size_t read_cached(std::uint64_t offset, MutableBytes out) override {
    std::size_t done = 0;
    const Status status = with_faults(*plan_, "read_cached", path(), name_, offset, out.size(), [&] {
      done = inner_->read_cached(offset, out);
      return done == out.size() ? Status() : not_found("not cached");
    });
    return status.ok() ? done : 0;
  }

 private:
  const std::shared_ptr<FaultPlan> plan_;
  const std::unique_ptr<ReadableFile> inner_;
  const std::string name_;
};

class FaultRun final : public Run {
 public:
  FaultRun(std::unique_ptr<Run> inner, std::shared_ptr<FaultPlan> plan)
      : plan_(std::move(plan)), inner_(std::move(inner)) {}

  const std::string& path() const override { return inner_->path(); }
  std::unique_ptr<Storage> checkpoint(const std::string& name) override;
  Result<std::unique_ptr<Storage>> child(const std::string& name, const std::string& identity) override;
  Result<std::vector<Child>> scan(const ScanOptions& options) override {
    return with_faults(*plan_, "scan", path(), "", 0, 0, [&] { return inner_->scan(options); });
  }
  Result<std::int64_t> changed_ns() override {
    return with_faults(*plan_, "changed_ns", path(), "", 0, 0, [&] { return inner_->changed_ns(); });
  }
  Child itself(const ScanOptions& options) override {
    Child child{.name = "."};
    const Status status = with_faults(*plan_, "itself", path(), "", 0, 0, [&] {
      child = inner_->itself(options);
      return Status();
    });
    if (!status.ok()) child.status = status;
    return child;
  }
  Result<std::int64_t> now(bool may_write) override {
    return with_faults(*plan_, "now", path(), "", 0, 0, [&] { return inner_->now(may_write); });
  }
  Status remove_directory(const std::string& name) override {
    return with_faults(*plan_, "remove_directory", path() + "/" + name, name, 0, 0,
                       [&] { return inner_->remove_directory(name); });
  }

 private:
  const std::shared_ptr<FaultPlan> plan_;
  const std::unique_ptr<Run> inner_;
};

// Thread-safe, as what it wraps is.
class FaultStorage final : public Storage {
 public:
  FaultStorage(std::unique_ptr<Storage> inner, std::shared_ptr<FaultPlan> plan)
      : plan_(std::move(plan)), inner_(std::move(inner)) {}

  StoreTraits traits() const override { return inner_->traits(); }
  const std::string& path() const override { return inner_->path(); }
  Result<std::string> name() override {
    return call("name", "", 0, [&] { return inner_->name(); });
  }
  std::unique_ptr<Run> run() override { return std::make_unique<FaultRun>(inner_->run(), plan_); }
  std::string path_of(const std::string& name) const override { return inner_->path_of(name); }

  Status create_directory() override {
    return call("create_directory", "", 0, [&] { return inner_->create_directory(); });
  }
  Result<std::unique_ptr<WritableFile>> create(const std::string& name, IoMode mode) override {
    return call("create", name, 0, [&]() -> Result<std::unique_ptr<WritableFile>> {
      OSTRACA_ASSIGN_OR_RETURN(auto file, inner_->create(name, mode));
      return std::unique_ptr<WritableFile>(
          std::make_unique<FaultWritableFile>(plan_, std::move(file), name, path_of(name)));
    });
  }
  Result<std::unique_ptr<ReadableFile>> open(const std::string& name) override {
    return call("open", name, 0, [&]() -> Result<std::unique_ptr<ReadableFile>> {
      OSTRACA_ASSIGN_OR_RETURN(auto file, inner_->open(name));
      return std::unique_ptr<ReadableFile>(std::make_unique<FaultReadableFile>(plan_, std::move(file), name));
    });
  }
  Result<Document> read_document(const std::string& name, std::size_t max_bytes) override {
    return call("read_document", name, 0, [&] { return inner_->read_document(name, max_bytes); });
  }
  Status write_small(const std::string& name, Bytes data) override {
    return call("write_small", name, data.size(), [&] { return inner_->write_small(name, data); });
  }
  Status publish(const Publication& publication) override {
    return call("publish", publication.name, publication.contents.size(), [&] { return inner_->publish(publication); });
  }
  Status sync_directory() override {
    return call("sync_directory", "", 0, [&] { return inner_->sync_directory(); });
  }
  Status sync_file(const std::string& name) override {
    return call("sync_file", name, 0, [&] { return inner_->sync_file(name); });
  }
  Status touch(const std::string& name) override {
    return with_faults(*plan_, "touch", path_of(name), name, 0, 0, [&] { return inner_->touch(name); });
  }
  Status remove(const std::string& name) override {
    return call("remove", name, 0, [&] { return inner_->remove(name); });
  }
  Status retire(const std::string& name, const std::string& version, const std::string& retired) override {
    return call("retire", name, 0, [&] { return inner_->retire(name, version, retired); });
  }
  Status restore(const std::string& retired, const std::string& name) override {
    return call("restore", name, 0, [&] { return inner_->restore(retired, name); });
  }
  void remove_created_directories() override {
    (void)call("remove_created_directories", "", 0, [&] { return inner_->remove_created_directories(), Status(); });
  }
  Result<std::vector<std::string>> list() override {
    return call("list", "", 0, [&] { return inner_->list(); });
  }

  Result<std::unique_ptr<Lease>> lease(const std::string& name) override {
    return call("lease", name, 0, [&] { return inner_->lease(name); });
  }
  Result<std::unique_ptr<Lease>> lease_replacing(const std::string& name) override {
    return call("lease_replacing", name, 0, [&] { return inner_->lease_replacing(name); });
  }
  Result<std::unique_ptr<Lease>> lease_exclusive(const std::string& name) override {
    return call("lease_exclusive", name, 0, [&] { return inner_->lease_exclusive(name); });
  }
  Result<std::unique_ptr<Lease>> lease_removing(const std::string& name) override {
    return call("lease_removing", name, 0, [&] { return inner_->lease_removing(name); });
  }

 private:
  template <class Perform>
  auto call(const std::string& operation, const std::string& name, std::uint64_t size, Perform perform)
      -> decltype(perform()) {
    return with_faults(*plan_, operation, name.empty() ? path() : path_of(name), name, 0, size, perform);
  }

  const std::shared_ptr<FaultPlan> plan_;
  const std::unique_ptr<Storage> inner_;
};

inline std::unique_ptr<Storage> FaultRun::checkpoint(const std::string& name) {
  return std::make_unique<FaultStorage>(inner_->checkpoint(name), plan_);
}

inline Result<std::unique_ptr<Storage>> FaultRun::child(const std::string& name, const std::string& identity) {
  return with_faults(*plan_, "child", path() + "/" + name, name, 0, 0, [&]() -> Result<std::unique_ptr<Storage>> {
    OSTRACA_ASSIGN_OR_RETURN(auto storage, inner_->child(name, identity));
    return std::unique_ptr<Storage>(std::make_unique<FaultStorage>(std::move(storage), plan_));
  });
}

}  // namespace ostraca::testing
