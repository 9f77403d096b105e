#include "codec/zstd_frames.h"

#define ZSTD_STATIC_LINKING_ONLY  // sequences and frame headers; libzstd is linked statically, so they cannot change
#include <zstd.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <bit>
#include <cstdint>
#include <new>
#include <span>
#include <string>

#include "base/limits.h"
#include "codec/codec.h"
#include "codec/huffman_frame.h"
#include "codec/huffman_frame_decoder.h"

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
  std::uint64_t mask = 0;
#if defined(__SSE2__)
  for (unsigned j = 0; j < 4; ++j) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * j));
    const int zeros = _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_setzero_si128()));
    mask |= std::uint64_t{static_cast<std::uint16_t>(~zeros)} << (16 * j);
  }
#else
  constexpr std::uint64_t kLow = 0x7F7F7F7F7F7F7F7Fu;
  for (unsigned j = 0; j < 8; ++j) {
    const auto word = load_le<std::uint64_t>(p + 8 * j);
    const std::uint64_t tops = (((word & kLow) + kLow) | word) & ~kLow;
    mask |= ((tops >> 7) * 0x0102040810204080u >> 56) << (8 * j);
  }
#endif
  return mask;
}

// Short runs of zeros cost more as a match than as literals, of which zero is the cheapest.
constexpr std::size_t kShortestRun = 9;

// Room for the sequences of `size` bytes: a run and what is between it and the next, and one at the end of each block.
std::size_t sequences_max(std::size_t size) { return size / (kShortestRun + 1) + 2 * (size / kFrameBlock + 1); }

// Writes the sequences of one block to `next` and returns their end: runs of zeros, each a literal zero and a match
// that repeats it. Runs are found 64 bytes at a time, since bytes that are not zero are many, and long runs are few.
ZSTD_Sequence* find_zero_runs(Bytes block, ZSTD_Sequence* next) {
  const std::size_t n = block.size();
  std::size_t coded = 0;  // bytes that the sequences so far stand for
  std::size_t run = 0;    // where the zeros before the present byte begin
  const auto end_run = [&](std::size_t begin, std::size_t end) {
    if (end - begin < kShortestRun) return;
    *next++ = {1, static_cast<unsigned>(begin + 1 - coded), static_cast<unsigned>(end - begin - 1), 0};
    coded = end;
  };
  std::size_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const std::uint64_t mask = nonzero_mask(block.data() + i);
    if (mask == 0) continue;
    end_run(run, i + static_cast<unsigned>(std::countr_zero(mask)));
    const auto last = static_cast<unsigned>(63 - std::countl_zero(mask));
    const std::uint64_t zeros = ~mask & ((std::uint64_t{1} << last) - 1) & (0 - (mask & (0 - mask)));
    // Bit j of it is set where kShortestRun zeros begin at j: within the word, before its last byte that is not zero.
    const std::uint64_t two = zeros & zeros >> 1, four = two & two >> 2, eight = four & four >> 4;
    for (std::uint64_t starts = eight & zeros >> 8; starts != 0;) {
      const auto begin = static_cast<unsigned>(std::countr_zero(starts));
      const unsigned end = begin + static_cast<unsigned>(std::countr_zero(mask >> begin));
      end_run(i + begin, i + end);
      starts &= ~std::uint64_t{0} << end;
    }
    run = i + last + 1;
  }
  for (; i < n; ++i) {
    if (block[i] == std::byte{0}) continue;
    end_run(run, i);
    run = i + 1;
  }
  end_run(run, n);
  *next++ = {0, static_cast<unsigned>(n - coded), 0, 0};  // the rest are literals, and the block ends
  return next;
}

}  // namespace

struct FrameEncoder::Contexts {
  HuffmanFrameEncoder huffman;
  CompressContext lz = make_compress_context();
  CompressContext runs = make_compress_context();
  std::unique_ptr<ZSTD_Sequence[]> sequences;  // of zero_runs: at most 1.6 times the size of its data, mostly far less
  std::size_t sequences_room = 0;
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

// Measured on a plane of which 93% are zero, zstd 1.5.4: 0.084 of it, level 1 0.118, Huffman alone 0.144.
std::size_t FrameEncoder::zero_runs(Bytes data, MutableBytes out) {
  if (const std::size_t room = sequences_max(data.size()); contexts_->sequences_room < room) {
    contexts_->sequences = std::make_unique_for_overwrite<ZSTD_Sequence[]>(room);  // only what is used is touched
    contexts_->sequences_room = room;
  }
  ZSTD_Sequence* const sequences = contexts_->sequences.get();
  ZSTD_Sequence* end = sequences;
  for (std::size_t at = 0; at < data.size(); at += kFrameBlock)
    end = find_zero_runs(data.subspan(at, std::min(kFrameBlock, data.size() - at)), end);
  return frame_of_sequences(contexts_->runs.get(), {sequences, end}, data, out);
}

// Each made when it is first needed: a lazy slice whose pack is in the cache decodes nothing, and libzstd's context
// alone takes longer to make than all the rest of it.
struct FrameDecoder::Context {
  HuffmanFrameDecoder huffman;
  DecompressContext general;
};

FrameDecoder::FrameDecoder() = default;
FrameDecoder::~FrameDecoder() = default;

// Whatever is not plainly of our own kind, libzstd decodes or says what is wrong with it.
Status FrameDecoder::decode(Bytes frame, MutableBytes out) {
  if (!context_) context_ = std::make_unique<Context>();
  if (context_->huffman.decode(frame, out)) return {};
  if (!context_->general) context_->general = make_decompress_context();
  return decode_frame(context_->general.get(), frame, out);
}

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
