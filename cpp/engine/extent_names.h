// Which leaves use which extents of a file: what verify says of damage.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "container/directory.h"

namespace ostraca {

// Of one file. Names are display names. Not thread-safe.
class ExtentNames {
 public:
  void add(std::uint32_t extent, const std::string& name);
  void add(std::uint32_t extent, const std::vector<std::string>& names) {
    for (const std::string& name : names) add(extent, name);
  }
  const std::vector<std::string>& of(std::uint32_t extent) { return names_[extent]; }
  std::vector<std::uint32_t> extents() const;  // in order
  const std::vector<std::string>& all() const { return all_; }

 private:
  std::map<std::uint32_t, std::vector<std::string>> names_;
  std::vector<std::string> all_;
};

// Of each of a directory's files.
std::vector<ExtentNames> names_by_file(const Directory& directory);

}  // namespace ostraca
