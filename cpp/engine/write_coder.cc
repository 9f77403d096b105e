// How a WritePipeline codes a batch: each piece as a reference, a delta, or by itself.
#include "engine/write_coder.h"

#include <algorithm>

#include "base/stream_copy.h"
#include "checksum/content_hash.h"

namespace ostraca {

Status WritePipeline::code(Job& job, bool first, bool staged, Coder& coder) {
  std::size_t used = first ? kHeaderBytes : 0;
  std::byte* stage = job.staged.data();  // where the piece is, or is to be kept
  job.coded.reserve(job.batch.pieces.size());
  for (const Piece& piece : job.batch.pieces) {
    OSTRACA_ASSIGN_OR_RETURN(const Bytes decoded, coder.read(piece, staged ? stage : nullptr));
    if (job.keeps && !staged) stream_copy(stage, decoded.data(), decoded.size());
    if (job.staged) stage += piece.decoded_bytes;
    CodedPiece& coded = job.coded.emplace_back();
    coded.position = used;
    OSTRACA_RETURN_IF_ERROR(code_piece(piece, decoded, job.block.bytes().subspan(used), coded, coder));
    if (options_.base) note_delta_worth(piece, DeltaWorth::kTry);  // unless it is known by now
    used += coded.encoded.stored_bytes;
  }
  return {};
}

Status WritePipeline::code_piece(const Piece& piece, Bytes decoded, MutableBytes out, CodedPiece& coded, Coder& coder) {
  coded.hash = content_hash(decoded);
  const Extent* base = nullptr;
  if (piece.base) {
    OSTRACA_ASSIGN_OR_RETURN(base, options_.base->extent(piece.base->file, piece.base->extent));
    if (base->decoded_bytes != piece.decoded_bytes) base = nullptr;
  }
  coded.in_base = base && base->hash == coded.hash;
  if (coded.in_base) return {};
  {
    Lock lock(mutex_);
    coded.duplicate = layout_.knows(coded.hash, piece.decoded_bytes);
  }
  if (coded.duplicate) return {};
  bool done = false;
  if (base && options_.codec != CodecPolicy::kRaw) {
    OSTRACA_ASSIGN_OR_RETURN(done, code_delta(piece, decoded, *base, out, coded, coder));
  }
  if (!done) {
    OSTRACA_ASSIGN_OR_RETURN(coded.encoded, coder.encoder.encode(decoded, piece.format, options_.codec, out));
  }
  return {};
}

// Whether the piece is now coded as a delta. The margin is what the estimate of the full coding may be off by: a delta
// that gains less is not worth reading two files for.
Result<bool> WritePipeline::code_delta(const Piece& piece, Bytes decoded, const Extent& base, MutableBytes out,
                                       CodedPiece& coded, Coder& coder) {
  constexpr std::size_t kMarginDivisor = 32;
  if (!delta_may_help(piece)) return false;
  OSTRACA_ASSIGN_OR_RETURN(const Bytes before,
                           options_.base->decoded(piece.base->file, piece.base->extent, coder.base));
  OSTRACA_ASSIGN_OR_RETURN(const DeltaEstimate estimate, coder.encoder.estimate(decoded, before, piece.format));
  const std::size_t limit = estimate.full_bytes - estimate.full_bytes / kMarginDivisor;
  const bool worth = estimate.delta_bytes < limit;
  note_delta_worth(piece, worth ? DeltaWorth::kTry : DeltaWorth::kHopeless);
  if (!worth) return false;
  OSTRACA_ASSIGN_OR_RETURN(coded.encoded, coder.encoder.encode_delta(decoded, before, estimate.plan,
                                                                     out.first(std::min(limit, out.size()))));
  coded.base_hash = base.hash;
  return coded.encoded.codec == Codec::kDelta;
}

// Waits for the first chunk of the piece's group, which an earlier batch, or this one, has begun with.
bool WritePipeline::delta_may_help(const Piece& piece) {
  const Fragment& first = piece.fragments.front();
  if (piece.fragments.size() > 1 || first.chunk % kDeltaGroup == 0) return true;
  const DeltaWorth& worth = first.source->delta_worth[first.chunk / kDeltaGroup];
  Lock lock(mutex_);
  work_changed_.wait(lock, [&] { return worth != DeltaWorth::kUnknown || !status_.ok(); });
  return worth == DeltaWorth::kTry;
}

void WritePipeline::note_delta_worth(const Piece& piece, DeltaWorth worth) {
  const Fragment& first = piece.fragments.front();
  if (piece.fragments.size() > 1 || first.chunk % kDeltaGroup != 0 || first.source->delta_worth.empty()) return;
  Lock lock(mutex_);
  DeltaWorth& known = first.source->delta_worth[first.chunk / kDeltaGroup];
  if (known != DeltaWorth::kUnknown) return;
  known = worth;
  work_changed_.notify_all();
}

}  // namespace ostraca
