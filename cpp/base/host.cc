#include "base/host.h"

#include <unistd.h>

#include <fstream>
#include <mutex>
#include <sstream>

namespace ostraca {

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "";
}

std::string boot_id() {
  static const std::string boot = [] {
    std::string id;
    std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
    return id;
  }();
  return boot;
}

std::optional<std::uint64_t> own_start_ticks() {
  static std::mutex mutex;  // guards the rest
  static std::int64_t pid = 0;
  static std::optional<std::uint64_t> ticks;
  const std::lock_guard lock(mutex);
  if (pid != ::getpid()) {  // a forked child started at another time
    pid = ::getpid();
    ticks = start_ticks(pid);
  }
  return ticks;
}

std::optional<std::uint64_t> start_ticks(std::int64_t pid) {
  std::string text;
  std::getline(std::ifstream("/proc/" + std::to_string(pid) + "/stat"), text, '\0');
  // The second field is the program's name in parentheses, which may hold anything; the third is the state.
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(text.substr(name_end + 1));
  std::string state, skipped;
  fields >> state;
  if (state == "Z" || state == "X") return std::nullopt;
  constexpr int kStartField = 22, kStateField = 3;
  for (int field = kStateField + 1; field < kStartField; ++field) fields >> skipped;
  std::uint64_t ticks = 0;
  return fields >> ticks ? std::optional(ticks) : std::nullopt;
}

}  // namespace ostraca
