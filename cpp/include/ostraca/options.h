// Choices a caller makes, shared by the whole engine.
#pragma once

#include <cstdint>
#include <functional>

namespace ostraca {

enum class IoMode : std::uint8_t { kAuto = 0, kDirect = 1, kBuffered = 2 };
enum class CodecPolicy : std::uint8_t { kAuto = 0, kRaw = 1, kZstd = 2 };

// Called in the caller's own thread every few tens of milliseconds while it waits, with the bytes done and the bytes
// to do: of memory in a save, of files in a load or a verification. Returning false cancels the work.
using Poll = std::function<bool(std::uint64_t done, std::uint64_t total)>;

}  // namespace ostraca
