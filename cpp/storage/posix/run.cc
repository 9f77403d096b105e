// A directory of checkpoints on a POSIX file system.

#include <algorithm>
#include <filesystem>

#include "storage/posix/calls.h"
#include "storage/storage.h"

namespace ostraca {
namespace {

class PosixRun final : public Run {
 public:
  PosixRun(std::string path, const PosixCalls& calls) : calls_(calls), path_(std::move(path)) {}

  const std::string& path() const override { return path_; }
  std::unique_ptr<Storage> checkpoint(const std::string& name) override {
    return make_posix_storage(path_ + "/" + name, calls_);
  }
  Result<std::vector<Child>> scan() override;

 private:
  const PosixCalls& calls_;
  const std::string path_;
};

Result<std::vector<Run::Child>> PosixRun::scan() {
  std::vector<Child> children;
  std::error_code error;
  std::filesystem::directory_iterator entry(path_, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    std::error_code ignored;  // a link that leads nowhere is no directory
    if (entry->is_directory(ignored)) children.push_back({.name = entry->path().filename().string()});
  }
  if (error == std::errc::no_such_file_or_directory) return not_found("directory '" + path_ + "' does not exist");
  if (error) return Status::system(error.value(), "list", path_);
  std::ranges::sort(children, {}, &Child::name);
  for (Child& child : children) {
    Result<std::vector<std::string>> files = checkpoint(child.name)->list();
    child.status = files.status();
    if (files.ok()) child.files = files.take();
  }
  return children;
}

}  // namespace

std::unique_ptr<Run> make_posix_run(const std::string& directory, const PosixCalls& calls) {
  return std::make_unique<PosixRun>(directory, calls);
}

std::unique_ptr<Run> make_posix_run(const std::string& directory) {
  return make_posix_run(directory, PosixCalls::kernel());
}

}  // namespace ostraca
