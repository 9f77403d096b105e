// Decides from a sample how one chunk is coded.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "base/bytes.h"
#include "codec/codec.h"
#include "codec/zstd_frames.h"

namespace ostraca {

// What the sample promises. The coder verifies constant planes, and falls back to raw where a promise breaks.
struct Plan {
  Codec codec = Codec::kRaw;
  unsigned width = 1;  // of Codec::kPlanes, as are the rest
  bool rotate = false;
  std::array<PlaneMode, 8> modes{};
};

// A coding must save at least this share of the bytes: less is not worth decoding on every load.
inline constexpr std::size_t kMinSavingDivisor = 64;
inline std::size_t worthwhile_bytes(std::size_t raw) { return raw - raw / kMinSavingDivisor; }

inline constexpr int kFastLevel = 1;  // zstd, where the chooser found matches

// Chooses by the bytes alone, so that equal chunks are coded equally everywhere. Owns scratch memory; not thread-safe.
class Chooser {
 public:
  // `frames` runs the probes. REQUIRES: !chunk.empty().
  Plan choose(Bytes chunk, ElementFormat format, FrameEncoder& frames);

 private:
  // What the sample says about one plane.
  struct Figures {
    bool constant = false;
    double entropy = 8;  // bits per byte
    double cost = 8;     // bits per byte in the mode chosen
  };

  void gather(Bytes chunk, unsigned width, std::size_t windows, std::size_t window_elements);
  Figures measure(Bytes plane) const;
  PlaneMode probe_plane(Bytes plane, bool is_float, FrameEncoder& frames, Figures& figures);
  double frame_bits(std::size_t frame_bytes, Bytes data) const;

  std::vector<std::byte> elements_;  // windows of the chunk, back to back
  std::vector<std::byte> planes_;    // those split, back to back
  std::vector<std::byte> frame_;     // what the probes write
};

}  // namespace ostraca
