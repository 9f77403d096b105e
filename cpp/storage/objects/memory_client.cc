#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>

#include "base/checked.h"
#include "ostraca/object_client.h"

namespace ostraca {
namespace {

class MemoryClient final : public ObjectClient {
 public:
  Result<std::string> put(const std::string& key, std::span<const std::byte> contents, PutIf condition,
                          const std::string& version) override {
    std::lock_guard lock(mutex_);
    const auto there = objects_.find(key);
    const bool holds = condition == PutIf::kAlways || (condition == PutIf::kAbsent && there == objects_.end()) ||
                       (condition == PutIf::kVersion && there != objects_.end() && there->second.version == version);
    if (!holds) return exists("object '" + key + "' is not what was expected");
    store(key, std::make_shared<const Content>(contents.begin(), contents.end()));
    return objects_[key].version;
  }
  Status get(const std::string& key, const std::string& version, std::uint64_t offset,
             std::span<std::byte> out) override {
    OSTRACA_ASSIGN_OR_RETURN(const Object object, find(key));
    if (object.version != version) return corruption("object '" + key + "' changed while it was read");
    if (!inside(offset, out.size(), object.content->size())) return corruption("object '" + key + "' ends early");
    std::copy_n(object.content->begin() + static_cast<std::ptrdiff_t>(offset), out.size(), out.begin());
    return {};
  }
  Result<ObjectInfo> head(const std::string& key) override {
    OSTRACA_ASSIGN_OR_RETURN(const Object object, find(key));
    return ObjectInfo{key, object.content->size(), object.version, object.changed_ns};
  }
  Result<std::vector<ObjectInfo>> list(const std::string& prefix) override {
    std::lock_guard lock(mutex_);
    std::vector<ObjectInfo> out;
    for (auto it = objects_.lower_bound(prefix); it != objects_.end() && it->first.starts_with(prefix); ++it)
      out.push_back({it->first, it->second.content->size(), it->second.version, it->second.changed_ns});
    return out;
  }
  Status remove(const std::string& key, const std::string& version) override {
    std::lock_guard lock(mutex_);
    const auto there = objects_.find(key);
    if (there != objects_.end() && !version.empty() && there->second.version != version)
      return exists("object '" + key + "' is not what was expected");
    if (there != objects_.end()) objects_.erase(there);
    return {};
  }
  Status copy(const std::string& from, const std::string& version, const std::string& to) override {
    OSTRACA_ASSIGN_OR_RETURN(const Object object, find(from));
    if (object.version != version) return corruption("object '" + from + "' changed while it was copied");
    std::lock_guard lock(mutex_);
    store(to, object.content);
    return {};
  }
  Result<std::int64_t> now() override {
    const auto since = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
  }

 private:
  using Content = std::vector<std::byte>;
  struct Object {
    std::shared_ptr<const Content> content;
    std::string version;
    std::int64_t changed_ns = 0;
  };

  Result<Object> find(const std::string& key) {
    std::lock_guard lock(mutex_);
    const auto it = objects_.find(key);
    if (it == objects_.end()) return not_found("there is no object '" + key + "'");
    return it->second;
  }
  // REQUIRES: mutex_ held.
  void store(const std::string& key, std::shared_ptr<const Content> content) {
    objects_[key] = {std::move(content), std::to_string(++versions_), *now()};
  }

  std::mutex mutex_;  // guards the rest
  std::map<std::string, Object> objects_;
  std::uint64_t versions_ = 0;
};

}  // namespace

std::unique_ptr<ObjectClient> make_memory_client() { return std::make_unique<MemoryClient>(); }

}  // namespace ostraca
