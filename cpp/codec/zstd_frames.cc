#include "codec/zstd_frames.h"

#define ZSTD_STATIC_LINKING_ONLY  // frame headers; libzstd is linked statically, so they cannot change
#include <zstd.h>

#include <new>
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

}  // namespace

struct FrameEncoder::Contexts {
  HuffmanFrameEncoder huffman;
  CompressContext lz = make_compress_context();
};

FrameEncoder::FrameEncoder() : contexts_(std::make_unique<Contexts>()) {}
FrameEncoder::~FrameEncoder() = default;

std::size_t FrameEncoder::huffman(Bytes data, MutableBytes out) { return contexts_->huffman.encode(data, out); }

std::size_t FrameEncoder::lz(Bytes data, int level, MutableBytes out) {
  ZSTD_CCtx* const context = contexts_->lz.get();
  ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level);
  return size_or_zero(context, ZSTD_compress2(context, out.data(), out.size(), data.data(), data.size()));
}

std::size_t FrameEncoder::zero_runs(Bytes data, MutableBytes out) {
  return contexts_->huffman.encode_zero_runs(data, out);
}

std::size_t FrameEncoder::description_bytes() const { return contexts_->huffman.description_bytes(); }

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
