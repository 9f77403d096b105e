#include "codec/codec.h"

#include <cstring>
#include <string>

#include "base/limits.h"
#include "codec/chooser.h"
#include "codec/planes_codec.h"
#include "codec/zstd_frames.h"

namespace ostraca {
namespace {

constexpr int kPolicyLevel = 3;  // zstd's own default, for those who ask for zstd

Encoded store_raw(Bytes chunk, MutableBytes out) {
  std::memcpy(out.data(), chunk.data(), chunk.size());
  return {Codec::kRaw, chunk.size()};
}

}  // namespace

struct ChunkEncoder::State {
  FrameEncoder frames;
  Chooser chooser;
  PlaneScratch scratch;
};

ChunkEncoder::ChunkEncoder() : state_(std::make_unique<State>()) {}
ChunkEncoder::~ChunkEncoder() = default;

Result<Encoded> ChunkEncoder::encode(Bytes chunk, ElementFormat format, CodecPolicy policy, MutableBytes out) {
  if (chunk.empty() || chunk.size() > kChunkBytesMax)
    return invalid_argument("a chunk of " + std::to_string(chunk.size()) + " bytes cannot be coded");
  if (out.size() < chunk.size())
    return invalid_argument("room for " + std::to_string(out.size()) + " bytes, a chunk of " +
                            std::to_string(chunk.size()) + " needs its own size");
  const unsigned w = format.width;
  if (w != 1 && w != 2 && w != 4 && w != 8) return invalid_argument("element width " + std::to_string(w));

  if (policy == CodecPolicy::kRaw) return store_raw(chunk, out);
  // What would save too little is stored as it is: every load would pay for it.
  const MutableBytes worthwhile = out.first(worthwhile_bytes(chunk.size()));
  Plan plan;
  plan.codec = Codec::kZstd;
  if (policy == CodecPolicy::kAuto) plan = state_->chooser.choose(chunk, format, state_->frames);
  std::size_t stored = 0;
  if (plan.codec == Codec::kZstd)
    stored = state_->frames.lz(chunk, policy == CodecPolicy::kZstd ? kPolicyLevel : kFastLevel, worthwhile);
  if (plan.codec == Codec::kPlanes) stored = encode_planes(chunk, plan, state_->frames, state_->scratch, worthwhile);
  if (stored == 0) return store_raw(chunk, out);
  return Encoded{plan.codec, stored};
}

struct ChunkDecoder::State {
  FrameDecoder frames;
  PlaneScratch scratch;
};

ChunkDecoder::ChunkDecoder() : state_(std::make_unique<State>()) {}
ChunkDecoder::~ChunkDecoder() = default;

Status ChunkDecoder::decode(Codec codec, Bytes stored, MutableBytes out) {
  switch (codec) {
    case Codec::kRaw:
      if (stored.size() != out.size())
        return format_error("raw chunk of " + std::to_string(stored.size()) + " bytes, expected " +
                            std::to_string(out.size()));
      if (!out.empty()) std::memcpy(out.data(), stored.data(), out.size());
      return {};
    case Codec::kZstd:
      return state_->frames.decode(stored, out);
    case Codec::kPlanes:
      return decode_planes(stored, state_->frames, state_->scratch, out);
    case Codec::kDelta:
      return format_error("delta chunk: it needs its base to be decoded");
  }
  return format_error("unknown codec " + std::to_string(static_cast<unsigned>(codec)));
}

}  // namespace ostraca
