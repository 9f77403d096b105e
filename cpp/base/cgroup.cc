#include "base/cgroup.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>
#include <vector>

namespace ostraca {
namespace {

// A mounted hierarchy: `mount_point` shows the group `mounted_group` and what lies below it.
struct Mount {
  std::string mounted_group;
  std::string mount_point;
  bool v2 = false;
  std::string options;  // v1: names the controllers, separated by commas
};

bool has_word(std::string_view list, std::string_view word) {
  std::size_t begin = 0;
  while (begin <= list.size()) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    if (list.substr(begin, end - begin) == word) return true;
    begin = end + 1;
  }
  return false;
}

// proc(5): ID parent major:minor ROOT MOUNT-POINT options optional-fields... - TYPE source SUPER-OPTIONS
std::vector<Mount> read_mounts(const std::string& root) {
  std::vector<Mount> mounts;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t separator = line.find(" - ");
    if (separator == std::string::npos) continue;
    std::istringstream head(line.substr(0, separator)), tail(line.substr(separator + 3));
    std::string skipped, type;
    Mount mount;
    head >> skipped >> skipped >> skipped >> mount.mounted_group >> mount.mount_point;
    tail >> type >> skipped >> mount.options;
    mount.v2 = type == "cgroup2";
    if (mount.v2 || type == "cgroup") mounts.push_back(std::move(mount));
  }
  return mounts;
}

std::optional<std::uint64_t> read_number(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t value;
  if (file >> value) return value;
  return std::nullopt;  // absent, or "max"
}

// The number after `key` in a file of "key number" lines; 0 when there is none.
std::uint64_t read_stat(const std::string& path, std::string_view key) {
  std::ifstream file(path);
  std::string name;
  for (std::uint64_t value; file >> name >> value;)
    if (name == key) return value;
  return 0;
}

void tighten_cores(const std::string& directory, bool v2, CgroupLimits* limits) {
  double quota = 0, period = 0;
  if (v2) {
    std::ifstream file(directory + "/cpu.max");
    if (!(file >> quota >> period)) return;  // "max 100000" sets no limit
  } else {
    std::ifstream(directory + "/cpu.cfs_quota_us") >> quota;  // -1 sets no limit
    std::ifstream(directory + "/cpu.cfs_period_us") >> period;
  }
  if (quota > 0 && period > 0) limits->cores = std::min(limits->cores, quota / period);
}

void tighten_memory(const std::string& directory, bool v2, CgroupLimits* limits) {
  const auto hard = read_number(directory + (v2 ? "/memory.max" : "/memory.limit_in_bytes"));
  const auto soft = v2 ? read_number(directory + "/memory.high") : std::nullopt;  // beyond it we would be throttled
  const auto used = read_number(directory + (v2 ? "/memory.current" : "/memory.usage_in_bytes"));
  if ((!hard && !soft) || !used) return;
  const std::uint64_t limit = std::min(hard.value_or(UINT64_MAX), soft.value_or(UINT64_MAX));
  // Page cache is charged to the group but given back on demand.
  const std::uint64_t cache = read_stat(directory + "/memory.stat", v2 ? "inactive_file" : "total_inactive_file");
  const std::uint64_t held = *used - std::min(*used, cache);
  limits->memory_left_bytes = std::min(limits->memory_left_bytes, limit - std::min(limit, held));
}

// Where `group` shows under `mount`, relative to the mount point. A container may see the host's name of its group
// while only that group is mounted; a group outside the mount is read at the mount point.
std::string relative_group(const Mount& mount, const std::string& group) {
  if (group.find("..") != std::string::npos) return "";
  if (mount.mounted_group == "/") return group;
  if (group.starts_with(mount.mounted_group + "/")) return group.substr(mount.mounted_group.size());
  return "";
}

}  // namespace

CgroupLimits read_cgroup_limits(const std::string& root) {
  CgroupLimits limits;
  const std::vector<Mount> mounts = read_mounts(root);
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // hierarchy:controllers:group; v2 names no controllers
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    for (const Mount& mount : mounts) {
      if (mount.v2 != controllers.empty()) continue;
      const bool cpu = mount.v2 || (has_word(controllers, "cpu") && has_word(mount.options, "cpu"));
      const bool memory = mount.v2 || (has_word(controllers, "memory") && has_word(mount.options, "memory"));
      if (!cpu && !memory) continue;
      std::string group = relative_group(mount, line.substr(second + 1));
      while (true) {  // a limit of any parent holds too
        while (group.ends_with('/')) group.pop_back();
        const std::string directory = root + mount.mount_point + group;
        if (cpu) tighten_cores(directory, mount.v2, &limits);
        if (memory) tighten_memory(directory, mount.v2, &limits);
        if (group.empty()) break;
        group.resize(std::min(group.rfind('/'), group.size()));
      }
    }
  }
  return limits;
}

}  // namespace ostraca
