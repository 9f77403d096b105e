// One chunk in, one stored payload out, and back. docs/format.md, "Codecs", is normative for the payloads.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>

#include "base/bytes.h"
#include "ostraca/options.h"
#include "ostraca/status.h"
#include "ostraca/types.h"

namespace ostraca {

enum class PlaneMode : std::uint8_t { kRaw = 0, kConstant = 1, kHuffman = 2, kZstd = 3 };

// How the bytes of a chunk are to be read by the coder.
struct ElementFormat {
  std::uint8_t width = 1;  // bytes of one scalar: 1, 2, 4 or 8 (a complex number is two scalars)
  bool is_float = false;   // the top bit is a sign and an exponent follows it
};

struct Encoded {
  Codec codec = Codec::kRaw;
  std::size_t stored_bytes = 0;
  std::uint32_t crc = 0;  // CRC32C of these, made while they were in the cache
};

// How a chunk is to be coded, as its sample promises. The coder verifies constant planes, and falls back to raw where a
// promise breaks.
struct Plan {
  Codec codec = Codec::kRaw;
  unsigned width = 1;  // of Codec::kPlanes, as are the rest
  bool rotate = false;
  std::array<PlaneMode, 8> modes{};
  std::array<bool, 8> zero_runs{};  // of kZstd: what repeats are zeros, which are found without a search
  double bits = 8;                  // that are to be stored for each byte
};

// What the codings of a chunk are expected to store, in bytes; its own size where they would not pay.
struct DeltaEstimate {
  std::size_t full_bytes = 0;   // encode with CodecPolicy::kAuto
  std::size_t delta_bytes = 0;  // encode_delta
  Plan plan;                    // for encode_delta
};

// Codes chunks. Owns the zstd contexts and scratch memory of one thread: not thread-safe; one per worker.
class ChunkEncoder {
 public:
  ChunkEncoder();
  ~ChunkEncoder();
  ChunkEncoder(const ChunkEncoder&) = delete;
  ChunkEncoder& operator=(const ChunkEncoder&) = delete;

  // Codes `chunk` into `out`; the choice of codec depends on policy, format and the bytes alone. Never larger than
  // raw. REQUIRES: out.size() >= chunk.size(), 0 < chunk.size() <= kChunkBytesMax, no overlap.
  Result<Encoded> encode(Bytes chunk, ElementFormat format, CodecPolicy policy, MutableBytes out);

  // From samples: some 100 microseconds, and within a few percent where both are even over the chunk.
  // REQUIRES: base.size() == chunk.size(), in 1 .. kChunkBytesMax.
  Result<DeltaEstimate> estimate(Bytes chunk, Bytes base, ElementFormat format);

  // Codes the differences of `chunk` to `base` into at most out.size() bytes: the limit is what the chunk's other
  // coding would take. The result is Codec::kDelta, or {Codec::kRaw, 0} when it is not worth it: the sample says so, or
  // the payload outgrows the limit or would save too little. `out` is then unspecified. REQUIRES: the plan is
  // estimate's for the two; no overlap of `out` with them.
  Result<Encoded> encode_delta(Bytes chunk, Bytes base, const Plan& plan, MutableBytes out);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Decodes payloads whose CRC has been checked but which may still be malicious: every length is validated.
// Not thread-safe; one per worker.
class ChunkDecoder {
 public:
  ChunkDecoder();
  ~ChunkDecoder();
  ChunkDecoder(const ChunkDecoder&) = delete;
  ChunkDecoder& operator=(const ChunkDecoder&) = delete;

  // Fills `out` exactly (its size is the chunk's declared decoded size) or fails with kFormat, naming what is wrong
  // with the payload. Codec::kDelta is refused here: it needs its base.
  Status decode(Codec codec, Bytes stored, MutableBytes out);

  // The same for Codec::kDelta. `base` is the decoded base extent: where its size is not that of `out`, or there is
  // nothing to decode, that is kFormat too, since both sizes come from files. REQUIRES: `out` overlaps neither.
  Status decode_delta(Bytes stored, Bytes base, MutableBytes out);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// One whole zstd frame with its content size, at `level`; for directories. The result's size is the frame's.
Result<std::size_t> zstd_compress(Bytes data, int level, MutableBytes out);
std::size_t zstd_bound(std::size_t bytes);
// REQUIRES of the frame: a content size equal to out.size(), and nothing after it; anything else is kFormat.
Status zstd_decompress(Bytes frame, MutableBytes out);

}  // namespace ostraca
