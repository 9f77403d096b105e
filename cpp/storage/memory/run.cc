// The directories of a run in memory.

#include <chrono>
#include <utility>

#include "storage/memory/memory.h"

namespace ostraca {
namespace {

class MemoryRun final : public Run {
 public:
  explicit MemoryRun(std::shared_ptr<MemoryTree> tree) : tree_(std::move(tree)) {}

  const std::string& path() const override { return tree_->path(); }
  std::unique_ptr<Storage> checkpoint(const std::string& name) override {
    return std::make_unique<MemoryStorage>(tree_, name);
  }
  Result<std::unique_ptr<Storage>> child(const std::string& name, const std::string& /*identity*/) override {
    if (!tree_->at(name)->exists()) return not_found("directory '" + path() + "/" + name + "' does not exist");
    return checkpoint(name);
  }
  Result<std::vector<Child>> scan(const ScanOptions& options) override {
    std::vector<Child> children;
    for (const std::string& name : tree_->names()) {
      children.push_back({.name = name, .identity = name});
      tree_->at(name)->look(options, &children.back());
    }
    return children;
  }
  Result<std::int64_t> changed_ns() override { return std::int64_t{0}; }
  Child itself(const ScanOptions& /*options*/) override { return {.name = "."}; }
  Result<std::int64_t> now(bool /*may_write*/) override { return memory_clock_ns(); }
  Status remove_directory(const std::string& name) override {
    tree_->at(name)->remove_if_empty();
    return {};
  }

 private:
  const std::shared_ptr<MemoryTree> tree_;
};

}  // namespace

std::int64_t memory_clock_ns() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
}

void MemoryDirectory::look(const ScanOptions& options, Run::Child* child) const {
  std::lock_guard lock(mutex_);
  child->changed_ns = changed_ns_;
  for (const auto& [name, file] : names_) {
    const bool is_last = name == options.last;
    ScannedFile found{.name = name,
                      .bytes = file->bytes->size(),
                      .changed_ns = file->changed_ns,
                      .modified_ns = file->changed_ns,
                      .version = std::to_string(file->version)};
    const bool is_wanted = !options.last_only && (is_last || (options.is_document && options.is_document(name)));
    if (is_wanted && !(options.is_known && options.is_known(name, found.version))) {
      if (found.bytes > options.document_bytes_max)
        found.status = format_error("'" + name + "' is larger than the limit of documents");
      else
        found.contents = std::string(as_text(*file->bytes));
    }
    if (is_last)
      child->last = std::move(found);
    else if (!options.last_only)
      child->files.push_back(std::move(found));
  }
}

std::shared_ptr<MemoryDirectory> MemoryTree::at(const std::string& name) {
  std::lock_guard lock(mutex_);
  std::shared_ptr<MemoryDirectory>& directory = directories_[name];
  if (directory == nullptr) directory = std::make_shared<MemoryDirectory>();
  return directory;
}

void MemoryTree::put(const std::string& name, std::shared_ptr<MemoryDirectory> directory) {
  std::lock_guard lock(mutex_);
  directories_[name] = std::move(directory);
}

std::vector<std::string> MemoryTree::names() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> out;
  for (const auto& [name, directory] : directories_)
    if (directory->exists()) out.push_back(name);
  return out;
}

std::unique_ptr<Run> make_memory_run(std::shared_ptr<MemoryTree> tree) {
  return std::make_unique<MemoryRun>(std::move(tree));
}

}  // namespace ostraca
