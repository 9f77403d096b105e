#include "base/cpu.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/cgroup.h"

#ifdef __linux__
#include <sched.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif
#endif

namespace ostraca {
namespace {

CpuFeatures probe() {
  CpuFeatures f;
#if defined(__x86_64__)
  // These also ask the operating system whether it saves the wide registers.
  __builtin_cpu_init();
  f.sse42 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
  f.avx2 = f.sse42 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  f.avx512 = f.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vbmi");
  f.vpclmulqdq = f.avx512 && __builtin_cpu_supports("vpclmulqdq");
#elif defined(__aarch64__)
  f.neon = true;
#if defined(__linux__)
  constexpr unsigned long kPmull = 1ul << 4, kCrc32 = 1ul << 7;  // HWCAP bits, fixed by the kernel's ABI
  f.arm_crc = (getauxval(AT_HWCAP) & (kPmull | kCrc32)) == (kPmull | kCrc32);
#elif defined(__APPLE__)
  f.arm_crc = true;  // every arm64 Mac
#endif
#endif
  return f;
}

// `isa` is the richest set that may be used; a name we do not know lowers nothing.
CpuFeatures lowered(CpuFeatures f, std::string_view isa) {
  if (isa == "portable") return {};
  const bool sse42 = isa == "sse42";
  if (sse42) f.avx2 = false;
  if (sse42 || isa == "avx2") f.avx512 = f.vpclmulqdq = false;
  return f;
}

unsigned affinity_cores() {
#ifdef __linux__
  // The kernel refuses a set smaller than its own, which may exceed cpu_set_t's 1024 CPUs.
  for (std::size_t sets = 1; sets <= 64; sets *= 2) {
    std::vector<cpu_set_t> mask(sets);
    const std::size_t bytes = sets * sizeof(cpu_set_t);
    if (sched_getaffinity(0, bytes, mask.data()) == 0) return static_cast<unsigned>(CPU_COUNT_S(bytes, mask.data()));
  }
#endif
  return std::thread::hardware_concurrency();
}

std::uint64_t system_available_bytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  for (std::uint64_t kibibytes; file >> key >> kibibytes;
       file.ignore(std::numeric_limits<std::streamsize>::max(), '\n'))
    if (key == "MemAvailable:") return kibibytes * 1024;
  return std::numeric_limits<std::uint64_t>::max();
}

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = [] {
    const char* isa = std::getenv("OSTRACA_ISA");
    return lowered(probe(), isa ? isa : "");
  }();
  return features;
}

unsigned usable_cores() {
  // Read once, as it takes some twenty files. Not a static's initialization: a fork may come in the middle of that.
  static std::atomic<double> known = 0;
  if (known == 0) known = read_cgroup_limits().cores;
  // Rounded up: a thread too many only waits now and then, one too few leaves part of the quota unused.
  const double quota = std::ceil(known);
  const unsigned cores = std::max(1u, affinity_cores());
  return quota < cores ? std::max(1u, static_cast<unsigned>(quota)) : cores;
}

std::uint64_t available_memory_bytes() {
  return std::min(system_available_bytes(), read_cgroup_limits().memory_left_bytes);
}

}  // namespace ostraca
