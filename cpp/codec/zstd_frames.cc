#include "codec/zstd_frames.h"

#define ZSTD_STATIC_LINKING_ONLY  // sequences and frame headers; libzstd is linked statically, so they cannot change
#include <zstd.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "base/limits.h"
#include "codec/codec.h"
#include "codec/huffman_frame.h"

namespace ostraca {
namespace {

struct FreeContext {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};
using CompressContext = std::unique_ptr<ZSTD_CCtx, FreeContext>;
using DecompressContext = std::unique_ptr<ZSTD_DCtx, FreeContext>;

CompressContext make_compress_context() {
  CompressContext context(ZSTD_createCCtx());
  if (!context) throw std::bad_alloc();
  return context;
}

DecompressContext make_decompress_context() {
  DecompressContext context(ZSTD_createDCtx());
  if (!context) throw std::bad_alloc();
  return context;
}

// A frame that does not fit leaves its context in the middle of a session.
std::size_t size_or_zero(ZSTD_CCtx* context, std::size_t result) {
  if (!ZSTD_isError(result)) return result;
  ZSTD_CCtx_reset(context, ZSTD_reset_session_only);
  return 0;
}

// Everything that the format asks of a frame and that its header and block headers tell, before it is decoded.
Status check_frame(Bytes frame, std::size_t content_bytes) {
  ZSTD_frameHeader header;
  const std::size_t missing = ZSTD_getFrameHeader(&header, frame.data(), frame.size());
  if (ZSTD_isError(missing)) return format_error(std::string("not a zstd frame: ") + ZSTD_getErrorName(missing));
  if (missing != 0)
    return format_error("zstd frame ends inside its header, after " + std::to_string(frame.size()) + " bytes");
  if (header.frameType != ZSTD_frame) return format_error("zstd frame is of the skippable kind");
  if (header.frameContentSize == ZSTD_CONTENTSIZE_UNKNOWN)
    return format_error("zstd frame does not state its content size");
  if (header.frameContentSize != content_bytes)
    return format_error("zstd frame states a content of " + std::to_string(header.frameContentSize) +
                        " bytes, expected " + std::to_string(content_bytes));
  if (header.dictID != 0) return format_error("zstd frame names dictionary " + std::to_string(header.dictID));
  if (header.checksumFlag != 0) return format_error("zstd frame carries a checksum of its own");
  const std::size_t frame_bytes = ZSTD_findFrameCompressedSize(frame.data(), frame.size());
  if (ZSTD_isError(frame_bytes))
    return format_error(std::string("zstd frame is damaged: ") + ZSTD_getErrorName(frame_bytes));
  if (frame_bytes != frame.size())
    return format_error("zstd frame is " + std::to_string(frame_bytes) + " bytes long, but " +
                        std::to_string(frame.size()) + " are stored");
  return {};
}

Status decode_frame(ZSTD_DCtx* context, Bytes frame, MutableBytes out) {
  OSTRACA_RETURN_IF_ERROR(check_frame(frame, out.size()));
  // An empty destination may be a null pointer, which zstd need not accept.
  std::byte none{};
  std::byte* const target = out.empty() ? &none : out.data();
  const std::size_t decoded = ZSTD_decompressDCtx(context, target, out.size(), frame.data(), frame.size());
  if (ZSTD_isError(decoded))
    return format_error(std::string("zstd frame does not decode: ") + ZSTD_getErrorName(decoded));
  if (decoded != out.size())
    return format_error("zstd frame holds " + std::to_string(decoded) + " bytes, but states " +
                        std::to_string(out.size()));
  return {};
}

// zstd 1.5.4 writes a frame's header without looking at whether there was room for the largest one, and then goes on
// in front of `out`.
std::size_t frame_of_sequences(ZSTD_CCtx* context, std::span<const ZSTD_Sequence> sequences, Bytes data,
                               MutableBytes out) {
  if (out.size() < ZSTD_FRAMEHEADERSIZE_MAX) return 0;
  return size_or_zero(context, ZSTD_compressSequences(context, out.data(), out.size(), sequences.data(),
                                                      sequences.size(), data.data(), data.size()));
}

constexpr std::size_t kFrameBlock = 128 * kKiB;  // zstd's largest

// Bit i is set where byte i of the 64 at `p` is not zero.
std::uint64_t nonzero_mask(const std::byte* p) {
  constexpr std::uint64_t kLow = 0x7F7F7F7F7F7F7F7Fu;
  std::uint64_t mask = 0;
  for (unsigned j = 0; j < 8; ++j) {
    const auto word = load_le<std::uint64_t>(p + 8 * j);
    const std::uint64_t tops = (((word & kLow) + kLow) | word) & ~kLow;
    mask |= ((tops >> 7) * 0x0102040810204080u >> 56) << (8 * j);
  }
  return mask;
}

// Adds the sequences of one block to the first `count` and returns how many there are then: runs of zeros, each a
// literal zero and a match that repeats it. Short ones cost more as a match than as literals, of which zero is the
// cheapest. A run that is too short is overwritten by the next: there is no branch to be mispredicted on every byte
// that is not zero.
std::size_t find_zero_runs(Bytes block, std::vector<ZSTD_Sequence>& sequences, std::size_t count) {
  constexpr std::size_t kShortestMatch = 8;
  const std::size_t n = block.size();
  const std::size_t needed = count + n / (kShortestMatch + 1) + 3;
  if (sequences.size() < needed) sequences.resize(needed);
  ZSTD_Sequence* next = sequences.data() + count;
  std::size_t coded = 0;  // bytes that the sequences so far stand for
  std::size_t run = 0;    // where the zeros before the present byte begin
  const auto end_run = [&](std::size_t end) {
    const std::size_t zeros = end - run;
    *next = {1, static_cast<unsigned>(run + 1 - coded), static_cast<unsigned>(zeros - 1), 0};
    const bool taken = zeros > kShortestMatch;
    next += taken;
    coded = taken ? end : coded;
    run = end + 1;
  };
  std::size_t i = 0;
  for (; i + 64 <= n; i += 64)
    for (std::uint64_t mask = nonzero_mask(block.data() + i); mask != 0; mask &= mask - 1)
      end_run(i + static_cast<unsigned>(std::countr_zero(mask)));
  for (; i < n; ++i)
    if (block[i] != std::byte{0}) end_run(i);
  end_run(n);
  *next++ = {0, static_cast<unsigned>(n - coded), 0, 0};  // the rest are literals, and the block ends
  return static_cast<std::size_t>(next - sequences.data());
}

}  // namespace

struct FrameEncoder::Contexts {
  HuffmanFrameEncoder huffman;
  CompressContext lz = make_compress_context();
  CompressContext runs = make_compress_context();
  std::vector<ZSTD_Sequence> sequences;  // of zero_runs: at most twice the size of its data, and mostly far less
};

FrameEncoder::FrameEncoder() : contexts_(std::make_unique<Contexts>()) {
  ZSTD_CCtx* const context = contexts_->runs.get();
  ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, 1);
  ZSTD_CCtx_setParameter(context, ZSTD_c_hashLog, 6);  // never looked at, but cleared for every frame
  ZSTD_CCtx_setParameter(context, ZSTD_c_literalCompressionMode, ZSTD_ps_enable);
  ZSTD_CCtx_setParameter(context, ZSTD_c_blockDelimiters, ZSTD_sf_explicitBlockDelimiters);
  // Every match has the offset of the one before, and shall be coded so. Always done before zstd 1.5.5.
  ZSTD_CCtx_setParameter(context, ZSTD_c_searchForExternalRepcodes, ZSTD_ps_enable);
}
FrameEncoder::~FrameEncoder() = default;

std::size_t FrameEncoder::huffman(Bytes data, MutableBytes out) { return contexts_->huffman.encode(data, out); }

std::size_t FrameEncoder::lz(Bytes data, int level, MutableBytes out) {
  ZSTD_CCtx* const context = contexts_->lz.get();
  ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level);
  return size_or_zero(context, ZSTD_compress2(context, out.data(), out.size(), data.data(), data.size()));
}

// Measured on a plane of which 93% are zero, zstd 1.5.4: 0.084 of it at 1.35 GB/s; level 1 0.118 at 0.64; Huffman alone
// 0.144 at 0.64.
std::size_t FrameEncoder::zero_runs(Bytes data, MutableBytes out) {
  std::vector<ZSTD_Sequence>& sequences = contexts_->sequences;
  std::size_t count = 0;
  for (std::size_t at = 0; at < data.size(); at += kFrameBlock)
    count = find_zero_runs(data.subspan(at, std::min(kFrameBlock, data.size() - at)), sequences, count);
  return frame_of_sequences(contexts_->runs.get(), {sequences.data(), count}, data, out);
}

struct FrameDecoder::Context {
  DecompressContext dctx = make_decompress_context();
};

FrameDecoder::FrameDecoder() : context_(std::make_unique<Context>()) {}
FrameDecoder::~FrameDecoder() = default;

Status FrameDecoder::decode(Bytes frame, MutableBytes out) { return decode_frame(context_->dctx.get(), frame, out); }

Result<std::size_t> zstd_compress(Bytes data, int level, MutableBytes out) {
  const CompressContext context = make_compress_context();
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, level);
  const std::size_t size = ZSTD_compress2(context.get(), out.data(), out.size(), data.data(), data.size());
  if (ZSTD_isError(size))
    return invalid_argument("zstd cannot code " + std::to_string(data.size()) + " bytes into " +
                            std::to_string(out.size()) + ": " + ZSTD_getErrorName(size));
  return size;
}

std::size_t zstd_bound(std::size_t bytes) { return ZSTD_compressBound(bytes); }

Status zstd_decompress(Bytes frame, MutableBytes out) {
  return decode_frame(make_decompress_context().get(), frame, out);
}

}  // namespace ostraca
