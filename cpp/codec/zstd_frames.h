// Standard zstd frames, made and read the three ways the codecs need: without match search, with it, and checked.
#pragma once

#include <cstddef>
#include <memory>

#include "base/bytes.h"
#include "ostraca/status.h"

namespace ostraca {

// Makes frames that carry their content size and neither checksum nor dictionary. Owns its contexts; not
// thread-safe. All functions return the frame's size, or 0 when it does not fit into `out`.
class FrameEncoder {
 public:
  FrameEncoder();
  ~FrameEncoder();
  FrameEncoder(const FrameEncoder&) = delete;
  FrameEncoder& operator=(const FrameEncoder&) = delete;

  // Entropy coding alone (huffman_frame.h): no match is looked for, which is what skewed noise (an exponent plane)
  // wants.
  // REQUIRES: data.size() <= kChunkBytesMax.
  std::size_t huffman(Bytes data, MutableBytes out);
  std::size_t lz(Bytes data, int level, MutableBytes out);
  // Entropy coding beside matches that are runs of zeros and nothing else: the planes of sparse differences.
  // REQUIRES: data.size() <= kChunkBytesMax.
  std::size_t zero_runs(Bytes data, MutableBytes out);
  // Of the last frame that huffman() or zero_runs() made: HuffmanFrameEncoder::description_bytes().
  std::size_t description_bytes() const;

 private:
  struct Contexts;
  std::unique_ptr<Contexts> contexts_;
};

// Reads one frame that fills `out` exactly; anything else about it is kFormat. Owns its context; not thread-safe.
class FrameDecoder {
 public:
  FrameDecoder();
  ~FrameDecoder();
  FrameDecoder(const FrameDecoder&) = delete;
  FrameDecoder& operator=(const FrameDecoder&) = delete;

  Status decode(Bytes frame, MutableBytes out);

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace ostraca
