// Codecs "planes" and "delta": byte planes of elements, or of their zigzagged differences to a base, each stored in a
// mode of its own. docs/format.md, "Codecs", is normative.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bytes.h"
#include "base/scratch.h"
#include "codec/chooser.h"
#include "codec/zstd_frames.h"
#include "ostraca/status.h"

namespace ostraca {

// A header, then one record per plane, then the planes' payloads back to back.
struct PlanesLayout {
  static constexpr std::size_t kHeaderBytes = 4;  // u8 width, u8 transform, u16 zero
  static constexpr std::size_t kRecordBytes = 8;  // u8 mode, u8 value, u16 zero, u32 stored bytes
  static constexpr std::uint8_t kRotated = 1;     // the transform's only bit
  static constexpr std::size_t start(unsigned width) { return kHeaderBytes + width * kRecordBytes; }
};

// Scratch memory for whole planes. Grows to the largest chunk seen; not thread-safe.
class PlaneScratch {
 public:
  // Room for `width` planes of `count` bytes, valid until the next call.
  void reserve(std::size_t count, unsigned width);
  std::byte* plane(unsigned k) { return memory_.data() + k * stride_; }

 private:
  Scratch<std::byte> memory_;
  std::size_t stride_ = 0;
};

// Returns the payload's size, and its CRC32C, or 0 when it does not fit into `out`. REQUIRES: plan.codec is kPlanes and
// base.empty(), or plan.codec is kDelta, the base is as long as the chunk, and nothing is rotated; chunk.size() is a
// positive multiple of plan.width.
std::size_t encode_planes(Bytes chunk, Bytes base, const Plan& plan, FrameEncoder& frames, PlaneScratch& scratch,
                          MutableBytes out, std::uint32_t* crc);

// REQUIRES: base.empty(), or base.size() == out.size() where the payload is of codec delta.
Status decode_planes(Bytes stored, Bytes base, FrameDecoder& frames, PlaneScratch& scratch, MutableBytes out);

}  // namespace ostraca
