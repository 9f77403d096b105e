// A prefix of checkpoints: one LIST tells all that lies in them.
//
// Keys come in their order. An intent's is before a manifest's, so that a listing in pages sees what commits meanwhile
// by one of them, as the order of a directory's visit does.

#include <algorithm>
#include <new>

#include "base/for_each.h"
#include "storage/objects/objects.h"

namespace ostraca {
namespace {

constexpr std::size_t kDocumentsOfOneCall = 4;  // in flight for each call that gains: they wait for the server

class ObjectRun final : public Run {
 public:
  ObjectRun(std::shared_ptr<ObjectClient> client, std::string prefix)
      : client_(std::move(client)), prefix_(std::move(prefix)) {}

  const std::string& path() const override { return prefix_; }
  std::unique_ptr<Storage> checkpoint(const std::string& name) override {
    return make_object_storage(client_, prefix_, name);
  }
  Result<std::unique_ptr<Storage>> child(const std::string& name, const std::string& /*identity*/) override {
    OSTRACA_RETURN_IF_ERROR(check_name(name));
    return checkpoint(name);
  }
  Result<std::vector<Child>> scan(const ScanOptions& options) override;
  Result<std::int64_t> changed_ns() override { return std::int64_t{0}; }
  Child itself(const ScanOptions& /*options*/) override { return {.name = "."}; }
  Result<std::int64_t> now(bool /*may_write*/) override { return client_->now(); }
  Status remove_directory(const std::string& /*name*/) override { return {}; }

 private:
  void read_documents(const ScanOptions& options, Child* child) const;
  Status read(const ScanOptions& options, const Child& child, ScannedFile* file) const;

  const std::shared_ptr<ObjectClient> client_;
  const std::string prefix_;
};

// The newest version, if that of the listing is gone. Absent by now: kNotFound.
Status ObjectRun::read(const ScanOptions& options, const Child& child, ScannedFile* file) const {
  if (options.is_known && options.is_known(file->name, file->version)) return {};
  const auto storage = make_object_storage(client_, prefix_, child.name);
  Result<Document> document = storage->read_document(file->name, options.document_bytes_max);
  if (!document.ok()) return document.status();
  file->bytes = document->text.size();
  file->version = std::move(document->version);
  file->contents = std::move(document->text);
  return {};
}

void ObjectRun::read_documents(const ScanOptions& options, Child* child) const {
  if (options.last_only) return;
  for (ScannedFile& file : child->files)
    if (options.is_document && options.is_document(file.name)) file.status = read(options, *child, &file);
  const bool vanished =
      std::erase_if(child->files, [](const ScannedFile& file) { return file.status.code() == Code::kNotFound; }) != 0;
  if (options.last.empty()) return;
  // What vanished may have been the intent of a save that has published since the listing.
  if (vanished) child->last.version.clear();
  if (vanished || child->last.status.ok()) {
    child->last.name = options.last;
    child->last.status = read(options, *child, &child->last);
  }
}

Result<std::vector<Run::Child>> ObjectRun::scan(const ScanOptions& options) {
  OSTRACA_ASSIGN_OR_RETURN(const std::vector<ObjectInfo> found, client_->list(prefix_ + "/"));
  std::vector<Child> children;
  for (const ObjectInfo& info : found) {
    const std::string rest = info.key.substr(prefix_.size() + 1);
    const std::size_t slash = rest.find('/');
    if (slash == std::string::npos || !check_name(rest.substr(0, slash)).ok()) continue;
    std::string name = rest.substr(0, slash), file = rest.substr(slash + 1);
    if (children.empty() || children.back().name != name) children.push_back({.name = name, .identity = name});
    Child& child = children.back();
    child.changed_ns = std::max(child.changed_ns, info.changed_ns);
    if (!check_name(file).ok()) continue;
    const bool is_last = file == options.last;
    ScannedFile scanned{.name = std::move(file),
                        .bytes = info.bytes,
                        .changed_ns = info.changed_ns,
                        .modified_ns = info.changed_ns,
                        .version = info.version};
    if (is_last)
      child.last = std::move(scanned);
    else if (!options.last_only)
      child.files.push_back(std::move(scanned));
  }
  in_parallel(children.size(), kDocumentsOfOneCall * client_->concurrency(), "scan", [&](std::size_t i) {
    try {
      read_documents(options, &children[i]);
    } catch (const std::bad_alloc&) {
      children[i].status = Status(Code::kOutOfMemory, "the memory for its documents cannot be had");
    }
    return true;
  });
  std::ranges::sort(children, {}, &Child::name);  // "a-b/" comes before "a/", and "a" before "a-b"
  return children;
}

}  // namespace

std::unique_ptr<Run> make_object_run(std::shared_ptr<ObjectClient> client, std::string prefix) {
  return std::make_unique<ObjectRun>(std::move(client), std::move(prefix));
}

}  // namespace ostraca
