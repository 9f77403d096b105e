// A directory in memory that tests look into, and whose power they cut. Until a file is synced its bytes, and until the
// directory is synced its names, are only promises; a power cut keeps any of them and forgets the others.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "base/limits.h"
#include "storage/memory/memory.h"

namespace ostraca::testing {

class MemoryDisk final : public MemoryDirectory {
 public:
  std::map<std::string, Content> files() const {
    std::lock_guard lock(mutex_);
    std::map<std::string, Content> out;
    for (const auto& [name, file] : names_) out[name] = *file->bytes;
    return out;
  }
  // Puts a file there, durably, in place of what has the name.
  void put(const std::string& name, Content bytes) {
    std::lock_guard lock(mutex_);
    exists_ = true;
    const auto file = add(name);
    file->durable = file->bytes = std::make_shared<Content>(std::move(bytes));
    durable_names_[name] = file;
  }
  void erase(const std::string& name) {
    std::lock_guard lock(mutex_);
    names_.erase(name);
    durable_names_.erase(name);
  }
  // Gives a file another name, too.
  void link(const std::string& from, const std::string& to) {
    std::lock_guard lock(mutex_);
    names_[to] = durable_names_[to] = names_.at(from);
  }
  // Another directory beside this one, whose name is "memory".
  void add_neighbour(const std::string& name, std::shared_ptr<MemoryDirectory> disk) {
    neighbours_[name] = std::move(disk);
  }
  const std::map<std::string, std::shared_ptr<MemoryDirectory>>& neighbours() const { return neighbours_; }
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
    Names all = names_;
    all.insert(durable_names_.begin(), durable_names_.end());
    Names after;
    for (const auto& [name, ignored] : all) {
      const auto old_file = durable_names_.find(name), new_file = names_.find(name);
      const bool keep_new = toss(1);
      if (keep_new && new_file != names_.end()) after[name] = new_file->second;
      if (!keep_new && old_file != durable_names_.end()) after[name] = old_file->second;
    }
    for (const auto& [name, file] : after) {
      Content mixed = *file->durable;
      if (!file->synced()) {
        const Content& bytes = *file->bytes;
        mixed.resize(toss(2) ? bytes.size() : mixed.size());
        for (std::size_t at = 0; at < mixed.size(); at += kAlignmentMin)
          if (toss(2))
            std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), std::min(kAlignmentMin, mixed.size() - at),
                        mixed.begin() + static_cast<std::ptrdiff_t>(at));
      }
      file->durable = file->bytes = std::make_shared<Content>(std::move(mixed));
    }
    names_ = durable_names_ = std::move(after);
  }

 private:
  std::map<std::string, std::shared_ptr<MemoryDirectory>> neighbours_;
};

// The checkpoint "memory" of a run in which the disk's neighbours are, too.
class DiskStorage final : public MemoryStorage {
 public:
  explicit DiskStorage(const std::shared_ptr<MemoryDisk>& disk) : MemoryStorage(tree_of(disk), "memory") {}

 private:
  static std::shared_ptr<MemoryTree> tree_of(const std::shared_ptr<MemoryDisk>& disk) {
    auto tree = std::make_shared<MemoryTree>("run");
    tree->put("memory", disk);
    for (const auto& [name, neighbour] : disk->neighbours()) tree->put(name, neighbour);
    return tree;
  }
};

}  // namespace ostraca::testing
