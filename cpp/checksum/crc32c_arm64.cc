#include <arm_acle.h>
#include <arm_neon.h>

#include "checksum/crc32c_kernels.h"
#include "checksum/crc32c_three_way.h"

namespace ostraca {
namespace {

struct Arm64 {
  static std::uint32_t word(std::uint32_t state, std::uint64_t value) { return __crc32cd(state, value); }
  static std::uint32_t byte(std::uint32_t state, std::uint8_t value) { return __crc32cb(state, value); }
  static std::uint64_t clmul(std::uint32_t a, std::uint32_t b) {
    return vgetq_lane_u64(vreinterpretq_u64_p128(vmull_p64(a, b)), 0);
  }
};

}  // namespace

std::uint32_t crc32c_arm64(std::uint32_t state, const std::byte* data, std::size_t size) {
  return crc32c_three_way<Arm64>(state, data, size);
}

}  // namespace ostraca
