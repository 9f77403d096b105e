// What the machine offers: instruction sets, usable cores, available memory.
#pragma once

#include <cstdint>

namespace ostraca {

// Instruction sets the kernels know. All false where the architecture lacks them.
struct CpuFeatures {
  bool sse42 = false;       // with PCLMULQDQ
  bool avx2 = false;        // with BMI2
  bool avx512 = false;      // F, BW, VL, DQ and VBMI
  bool vpclmulqdq = false;  // 512-bit carry-less multiply, with avx512
  bool arm_crc = false;     // arm64 CRC32 (with PMULL)
  bool neon = false;        // every arm64
};

// Probed once. The environment variable OSTRACA_ISA ("portable", "sse42", "avx2", "avx512") lowers the
// answer, so that tests and bug reports can run every kernel that the machine has.
const CpuFeatures& cpu_features();

// Cores this process may keep busy: the scheduler affinity, bounded by cgroup v1/v2 cpu.max. At least 1.
unsigned usable_cores();

// Memory this process may still take, in bytes: MemAvailable, bounded by what the cgroup (v1 or v2) has left.
std::uint64_t available_memory_bytes();

}  // namespace ostraca
