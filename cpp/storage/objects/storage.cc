#include <algorithm>
#include <atomic>
#include <mutex>

#include "base/buffer.h"
#include "base/checked.h"
#include "base/limits.h"
#include "storage/objects/objects.h"

namespace ostraca {
namespace {

using Client = std::shared_ptr<ObjectClient>;

Status changed(const std::string& key) { return exists("'" + key + "' changed meanwhile"); }

// A file in memory until it is complete: an object is stored in one piece.
class ObjectWritable final : public WritableFile {
 public:
  ObjectWritable(Client client, std::string key) : client_(std::move(client)), key_(std::move(key)) {}

  std::size_t alignment() const override { return kAlignmentMin; }
  void reserve(std::uint64_t bytes) override {
    std::lock_guard lock(mutex_);
    contents_.reserve(bytes);
  }
  Status write_at(std::uint64_t offset, Bytes data) override {
    if ((offset | data.size() | reinterpret_cast<std::uintptr_t>(data.data())) % kAlignmentMin != 0)
      return invalid_argument("a write is not aligned");
    std::lock_guard lock(mutex_);
    if (closed_) return invalid_argument("'" + key_ + "' is closed");
    if (contents_.size() < offset + data.size()) contents_.resize(offset + data.size());
    std::copy(data.begin(), data.end(), contents_.begin() + static_cast<std::ptrdiff_t>(offset));
    return {};
  }
  Status sync_and_close() override {
    std::lock_guard lock(mutex_);
    if (std::exchange(closed_, true)) return invalid_argument("'" + key_ + "' is closed");
    return client_->put(key_, contents_, PutIf::kAbsent, {}).status();
  }

 private:
  const Client client_;
  const std::string key_;
  std::mutex mutex_;  // guards the rest
  std::vector<std::byte> contents_;
  bool closed_ = false;
};

// One version of an object: where another takes its place, reads fail.
class ObjectReadable final : public ReadableFile {
 public:
  ObjectReadable(Client client, ObjectInfo info) : client_(std::move(client)), info_(std::move(info)) {}

  std::uint64_t size() const override { return info_.bytes; }
  const std::string& path() const override { return info_.key; }
  const std::string& version() const override { return info_.version; }
  std::size_t direct_alignment() const override { return kAlignmentMin; }
  std::size_t read_cached(std::uint64_t /*offset*/, MutableBytes /*out*/) override { return 0; }
  Status read_at(std::uint64_t offset, MutableBytes out) override {
    if (!inside(offset, out.size(), info_.bytes))
      return corruption("'" + info_.key + "' ends early: " + std::to_string(out.size()) + " bytes at offset " +
                        std::to_string(offset) + " are wanted of " + std::to_string(info_.bytes));
    return out.empty() ? Status() : client_->get(info_.key, info_.version, offset, out);
  }
  Status read_direct(std::uint64_t offset, MutableBytes out) override {
    if (offset >= info_.bytes) return read_at(offset, out);
    return read_at(offset, out.first(std::min<std::uint64_t>(out.size(), info_.bytes - offset)));
  }

 private:
  const Client client_;
  const ObjectInfo info_;
};

class ObjectLease final : public Lease {
 public:
  ObjectLease(Client client, std::string key, std::string version)
      : client_(std::move(client)), key_(std::move(key)), version_(std::move(version)) {}
  bool current() const override {
    const Result<ObjectInfo> info = client_->head(key_);
    return info.ok() && info->version == version_;
  }

 private:
  const Client client_;
  const std::string key_, version_;
};

class ObjectStorage final : public Storage {
 public:
  ObjectStorage(Client client, std::string run, std::string name)
      : client_(std::move(client)),
        run_(std::move(run)),
        name_(std::move(name)),
        path_(run_ + "/" + name_),
        traits_{.io_threads = client_->concurrency(),
                .small_reads = 4 * client_->concurrency(),
                .file_bytes = kObjectFileBytes} {}

  StoreTraits traits() const override { return traits_; }
  const std::string& path() const override { return path_; }
  std::string path_of(const std::string& name) const override { return path_ + "/" + name; }
  Result<std::string> name() override { return name_; }
  std::unique_ptr<Run> run() override { return make_object_run(client_, run_); }

  Status create_directory() override { return {}; }
  void remove_created_directories() override {}
  Status sync_directory() override { return {}; }
  Status sync_file(const std::string& /*name*/) override { return {}; }

  Result<std::unique_ptr<WritableFile>> create(const std::string& name, IoMode mode) override;
  Result<std::unique_ptr<ReadableFile>> open(const std::string& name) override;
  Result<Document> read_document(const std::string& name, std::size_t max_bytes) override;
  Status write_small(const std::string& name, Bytes data) override;
  Status publish(const Publication& publication) override;
  Status touch(const std::string& name) override;
  Status remove(const std::string& name) override;
  Status retire(const std::string& name, const std::string& version, const std::string& retired) override;
  Status restore(const std::string& retired, const std::string& name) override;
  Result<std::vector<std::string>> list() override;
  Result<std::unique_ptr<Lease>> lease(const std::string& name) override;
  Result<std::unique_ptr<Lease>> lease_replacing(const std::string& name) override;
  // There are none: whoever replaces something compares versions.
  Result<std::unique_ptr<Lease>> lease_exclusive(const std::string& name) override { return lease(name); }
  Result<std::unique_ptr<Lease>> lease_removing(const std::string& name) override { return lease_replacing(name); }

 private:
  Status keep_replaced(const Publication& publication);
  Status outcome(const std::string& name, Bytes contents);

  const Client client_;
  const std::string run_, name_, path_;
  const StoreTraits traits_;
};

Result<std::unique_ptr<WritableFile>> ObjectStorage::create(const std::string& name, IoMode /*mode*/) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  const Status there = client_->head(path_of(name)).status();
  if (there.ok()) return exists("'" + path_of(name) + "' exists already");
  if (there.code() != Code::kNotFound) return there;
  return std::unique_ptr<WritableFile>(std::make_unique<ObjectWritable>(client_, path_of(name)));
}

Result<std::unique_ptr<ReadableFile>> ObjectStorage::open(const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  OSTRACA_ASSIGN_OR_RETURN(ObjectInfo info, client_->head(path_of(name)));
  return std::unique_ptr<ReadableFile>(std::make_unique<ObjectReadable>(client_, std::move(info)));
}

Result<Document> ObjectStorage::read_document(const std::string& name, std::size_t max_bytes) {
  while (true) {
    OSTRACA_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, open(name));
    if (file->size() > max_bytes)
      return format_error("'" + file->path() + "' has " + std::to_string(file->size()) +
                          " bytes, more than the limit of " + std::to_string(max_bytes));
    Document document{std::string(file->size(), '\0'), file->version()};
    const std::span<char> text(document.text.data(), document.text.size());
    const Status status = file->read_at(0, std::as_writable_bytes(text));
    if (status.ok()) return document;
    const Result<ObjectInfo> now = client_->head(path_of(name));
    if (now.ok() && now->version == document.version) return status;  // else it was replaced meanwhile
  }
}

Status ObjectStorage::write_small(const std::string& name, Bytes data) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  const Status status = client_->put(path_of(name), data, PutIf::kAbsent, {}).status();
  return status.code() == Code::kCommitUncertain ? outcome(name, data) : status;
}

// After an answer that was lost: what is there is this caller's if it says what nobody else says.
Status ObjectStorage::outcome(const std::string& name, Bytes contents) {
  const Result<std::string> text = read_small(name, contents.size());
  if (text.ok() && std::ranges::equal(as_bytes(*text), contents)) return {};
  if (text.ok() || text.status().code() == Code::kFormat) return changed(path_of(name));
  return {Code::kCommitUncertain, "'" + path_of(name) + "' may have been stored: " + text.status().message()};
}

// Keeps what is to be replaced under another name. One that is there is what an earlier attempt left.
Status ObjectStorage::keep_replaced(const Publication& publication) {
  OSTRACA_RETURN_IF_ERROR(check_name(publication.retired));
  const Result<ObjectInfo> info = client_->head(path_of(publication.name));
  if (info.status().code() == Code::kNotFound && publication.expected.is_version() == nullptr) return {};
  if (info.status().code() == Code::kNotFound) return changed(path_of(publication.name));
  OSTRACA_RETURN_IF_ERROR(info.status());
  const std::string* expected = publication.expected.is_version();
  if (expected != nullptr && info->version != *expected) return changed(path_of(publication.name));
  const Status there = client_->head(path_of(publication.retired)).status();
  if (there.code() != Code::kNotFound) return there;
  const Status status = client_->copy(path_of(publication.name), info->version, path_of(publication.retired));
  return status.code() == Code::kCorruption ? changed(path_of(publication.name)) : status;
}

Status ObjectStorage::publish(const Publication& publication) {
  OSTRACA_RETURN_IF_ERROR(check_name(publication.name));
  const std::string* version = publication.expected.is_version();
  if (!publication.retired.empty() && !publication.expected.is_absent())
    OSTRACA_RETURN_IF_ERROR(keep_replaced(publication));
  const PutIf condition = publication.expected.is_absent() ? PutIf::kAbsent
                          : version != nullptr             ? PutIf::kVersion
                                                           : PutIf::kAlways;
  const std::string expected = version != nullptr ? *version : std::string();
  const Status status = client_->put(path_of(publication.name), publication.contents, condition, expected).status();
  return status.code() == Code::kCommitUncertain ? outcome(publication.name, publication.contents) : status;
}

// Stores the same again, where it still is the same.
Status ObjectStorage::touch(const std::string& name) {
  OSTRACA_ASSIGN_OR_RETURN(const Document document, read_document(name, kManifestBytesMax));
  return client_->put(path_of(name), as_bytes(document.text), PutIf::kVersion, document.version).status();
}

Status ObjectStorage::remove(const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  return client_->remove(path_of(name), {});
}

// Two steps: between them, and after a crash there, the object has both names, of which prune takes the other one.
Status ObjectStorage::retire(const std::string& name, const std::string& version, const std::string& retired) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  OSTRACA_RETURN_IF_ERROR(check_name(retired));
  Status status = client_->copy(path_of(name), version, path_of(retired));
  if (status.code() == Code::kNotFound || status.code() == Code::kCorruption) return changed(path_of(name));
  OSTRACA_RETURN_IF_ERROR(status);
  status = client_->remove(path_of(name), version);
  if (status.code() == Code::kExists) (void)client_->remove(path_of(retired), {});
  return status;
}

Status ObjectStorage::restore(const std::string& retired, const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  OSTRACA_ASSIGN_OR_RETURN(const Document document, read_document(retired, kManifestBytesMax));
  const Status status = write_small(name, as_bytes(document.text));
  if (!status.ok() && status.code() != Code::kExists) return status;
  return client_->remove(path_of(retired), {});
}

Result<std::vector<std::string>> ObjectStorage::list() {
  OSTRACA_ASSIGN_OR_RETURN(const std::vector<ObjectInfo> found, client_->list(path_ + "/"));
  std::vector<std::string> names;
  for (const ObjectInfo& info : found)
    if (const std::string name = info.key.substr(path_.size() + 1); check_name(name).ok()) names.push_back(name);
  if (names.empty()) return not_found("there is nothing under '" + path_ + "/'");
  return names;
}

Result<std::unique_ptr<Lease>> ObjectStorage::lease(const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  OSTRACA_ASSIGN_OR_RETURN(const ObjectInfo info, client_->head(path_of(name)));
  return std::unique_ptr<Lease>(std::make_unique<ObjectLease>(client_, info.key, info.version));
}

Result<std::unique_ptr<Lease>> ObjectStorage::lease_replacing(const std::string& name) {
  OSTRACA_RETURN_IF_ERROR(check_name(name));
  return std::unique_ptr<Lease>(std::make_unique<NoLease>());
}

}  // namespace

std::unique_ptr<Storage> make_object_storage(std::shared_ptr<ObjectClient> client, std::string run, std::string name) {
  return std::make_unique<ObjectStorage>(std::move(client), std::move(run), std::move(name));
}

}  // namespace ostraca
