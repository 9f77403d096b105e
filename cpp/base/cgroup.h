// What the process's control groups (v1 or v2) allow: a container's limits, which /proc/meminfo does not show.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

namespace ostraca {

struct CgroupLimits {
  double cores = std::numeric_limits<double>::infinity();                       // CPU seconds per second
  std::uint64_t memory_left_bytes = std::numeric_limits<std::uint64_t>::max();  // until the tightest limit
};

// The tightest limits of the process's own groups and all their parents. What cannot be read limits nothing.
// `root` is put before every path read, so that tests can show another machine.
CgroupLimits read_cgroup_limits(const std::string& root = "");

}  // namespace ostraca
