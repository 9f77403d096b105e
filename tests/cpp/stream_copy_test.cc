#include "base/stream_copy.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace ostraca {
namespace {

// Every alignment of both sides, and sizes about a line and several: just these bytes, and none beside them.
TEST(StreamCopy, AnyAlignmentAndSize) {
  constexpr std::size_t kRoom = 512;
  constexpr auto kGuard = std::byte{0xEE};
  std::vector<std::byte> from(kRoom);
  for (std::size_t i = 0; i < kRoom; ++i) from[i] = static_cast<std::byte>(i * 7 + 1);
  for (std::size_t to_offset = 0; to_offset < 64; ++to_offset)
    for (std::size_t from_offset : {0, 1, 17, 63})
      for (std::size_t size : {0, 1, 15, 63, 64, 65, 127, 128, 200, 320}) {
        std::vector<std::byte> to(kRoom, kGuard);
        stream_copy(to.data() + to_offset, from.data() + from_offset, size);
        for (std::size_t i = 0; i < kRoom; ++i) {
          const bool inside = i >= to_offset && i < to_offset + size;
          ASSERT_EQ(to[i], inside ? from[from_offset + i - to_offset] : kGuard) << to_offset << ' ' << size << ' ' << i;
        }
      }
}

}  // namespace
}  // namespace ostraca
