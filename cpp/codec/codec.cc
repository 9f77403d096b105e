#include "codec/codec.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "base/limits.h"
#include "checksum/crc32c.h"
#include "codec/chooser.h"
#include "codec/planes_codec.h"
#include "codec/stored_bytes.h"
#include "codec/zstd_frames.h"

namespace ostraca {
namespace {

constexpr int kPolicyLevel = 3;  // zstd's own default, for those who ask for zstd
constexpr std::size_t kEstimateErrorDivisor = 32;

Encoded store_raw(Bytes chunk, MutableBytes out) {
  return {Codec::kRaw, chunk.size(), store_bytes(chunk, out.data(), 0)};
}

}  // namespace

struct ChunkEncoder::State {
  FrameEncoder frames;
  Chooser chooser;
  PlaneScratch scratch;
};

namespace {

Status check_chunk(Bytes chunk, ElementFormat format) {
  if (chunk.empty() || chunk.size() > kChunkBytesMax)
    return invalid_argument("a chunk of " + std::to_string(chunk.size()) + " bytes cannot be coded");
  const unsigned w = format.width;
  if (w != 1 && w != 2 && w != 4 && w != 8) return invalid_argument("element width " + std::to_string(w));
  return {};
}

Status check_base(Bytes chunk, Bytes base) {
  if (base.size() == chunk.size()) return {};
  return invalid_argument("a base of " + std::to_string(base.size()) + " bytes for a chunk of " +
                          std::to_string(chunk.size()));
}

std::size_t expected_bytes(const Plan& plan, std::size_t raw) {
  if (plan.codec == Codec::kRaw) return raw;
  const auto coded = static_cast<std::size_t>(plan.bits / 8 * static_cast<double>(raw));
  return std::min(raw, coded + PlanesLayout::start(plan.width));
}

}  // namespace

ChunkEncoder::ChunkEncoder() : state_(std::make_unique<State>()) {}
ChunkEncoder::~ChunkEncoder() = default;

Result<Encoded> ChunkEncoder::encode(Bytes chunk, ElementFormat format, CodecPolicy policy, MutableBytes out) {
  OSTRACA_RETURN_IF_ERROR(check_chunk(chunk, format));
  if (out.size() < chunk.size())
    return invalid_argument("room for " + std::to_string(out.size()) + " bytes, a chunk of " +
                            std::to_string(chunk.size()) + " needs its own size");

  if (policy == CodecPolicy::kRaw) return store_raw(chunk, out);
  // What would save too little is stored as it is: every load would pay for it.
  const MutableBytes worthwhile = out.first(worthwhile_bytes(chunk.size()));
  Plan plan;
  plan.codec = Codec::kZstd;
  if (policy == CodecPolicy::kAuto) plan = state_->chooser.choose(chunk, {}, format, state_->frames);
  Encoded encoded{plan.codec};
  if (plan.codec == Codec::kZstd) {
    const int level = policy == CodecPolicy::kZstd ? kPolicyLevel : kFastLevel;
    encoded.stored_bytes = state_->frames.lz(chunk, level, worthwhile);
    encoded.crc = crc32c(worthwhile.first(encoded.stored_bytes));
  }
  if (plan.codec == Codec::kPlanes)
    encoded.stored_bytes = encode_planes(chunk, {}, plan, state_->frames, state_->scratch, worthwhile, &encoded.crc);
  if (encoded.stored_bytes == 0) return store_raw(chunk, out);
  return encoded;
}

Result<Encoded> ChunkEncoder::encode_delta(Bytes chunk, Bytes base, const Plan& plan, MutableBytes out) {
  OSTRACA_RETURN_IF_ERROR(check_base(chunk, base));
  const Encoded not_worth_it{Codec::kRaw, 0};
  const MutableBytes limit = out.first(std::min(out.size(), worthwhile_bytes(chunk.size())));
  if (plan.codec == Codec::kRaw) return not_worth_it;
  // The sample errs by a few percent, so near the limit only coding tells.
  if (expected_bytes(plan, chunk.size()) > limit.size() + limit.size() / kEstimateErrorDivisor) return not_worth_it;
  Encoded encoded{Codec::kDelta};
  encoded.stored_bytes = encode_planes(chunk, base, plan, state_->frames, state_->scratch, limit, &encoded.crc);
  return encoded.stored_bytes == 0 ? not_worth_it : encoded;
}

Result<DeltaEstimate> ChunkEncoder::estimate(Bytes chunk, Bytes base, ElementFormat format) {
  OSTRACA_RETURN_IF_ERROR(check_chunk(chunk, format));
  OSTRACA_RETURN_IF_ERROR(check_base(chunk, base));
  DeltaEstimate estimate;
  estimate.full_bytes = expected_bytes(state_->chooser.choose(chunk, {}, format, state_->frames), chunk.size());
  estimate.plan = state_->chooser.choose(chunk, base, format, state_->frames);
  estimate.delta_bytes = expected_bytes(estimate.plan, chunk.size());
  return estimate;
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
      return decode_planes(stored, {}, state_->frames, state_->scratch, out);
    case Codec::kDelta:
      return format_error("delta chunk: it needs its base to be decoded");
  }
  return format_error("unknown codec " + std::to_string(static_cast<unsigned>(codec)));
}

Status ChunkDecoder::decode_delta(Bytes stored, Bytes base, MutableBytes out) {
  if (out.empty()) return format_error("delta chunk of 0 bytes");
  if (base.size() != out.size())
    return format_error("delta chunk of " + std::to_string(out.size()) + " bytes, its base has " +
                        std::to_string(base.size()));
  return decode_planes(stored, base, state_->frames, state_->scratch, out);
}

}  // namespace ostraca
