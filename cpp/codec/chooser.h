// Decides from a sample how one chunk is coded.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "base/bytes.h"
#include "codec/codec.h"
#include "codec/zstd_frames.h"

namespace ostraca {

// A coding must save at least this share of the bytes: less is not worth decoding on every load.
inline constexpr std::size_t kMinSavingDivisor = 64;
inline std::size_t worthwhile_bytes(std::size_t raw) { return raw - raw / kMinSavingDivisor; }

inline constexpr int kFastLevel = 1;  // zstd, where the chooser found matches

// Chooses by the bytes alone, so that equal chunks are coded equally everywhere. Owns scratch memory; not thread-safe.
class Chooser {
 public:
  // `frames` runs the probes. With a base it is the zigzagged differences to it that are looked at, and the codec is
  // kDelta or kRaw, which then means that they are not worth it. REQUIRES: !chunk.empty(); base.empty() or as long.
  Plan choose(Bytes chunk, Bytes base, ElementFormat format, FrameEncoder& frames);

 private:
  // What the sample says about one plane.
  struct Figures {
    bool constant = false;
    double entropy = 8;  // bits per byte
    double cost = 8;     // bits per byte in the mode chosen
  };

  struct Probed {
    PlaneMode mode = PlaneMode::kRaw;
    bool zero_runs = false;
    double cost = 8;
  };

  void gather(Bytes chunk, Bytes base, unsigned width, std::size_t windows, std::size_t window_elements);
  Figures measure(Bytes plane) const;
  Probed probe_plane(Bytes plane, bool try_zero_runs, bool try_lz, double gain, const Figures& figures,
                     FrameEncoder& frames);
  double frame_bits(std::size_t frame_bytes, Bytes data, std::size_t fixed_bytes = 0) const;

  std::vector<std::byte> elements_;  // windows of the chunk, back to back, or of its differences
  double gathered_share_ = 1;        // of the chunk
  std::vector<std::byte> base_;      // those of the base
  std::vector<std::byte> planes_;    // those split, back to back
  std::vector<std::byte> frame_;     // what the probes write
};

}  // namespace ostraca
