// Standard zstd frames (RFC 8878) of Huffman-coded literals, alone or between runs of zeros: our own encoder, several
// times as fast as the general one.
#pragma once

#include <cstddef>
#include <memory>

#include "base/bytes.h"
#include "base/limits.h"
#include "codec/huffman_kernels.h"

namespace ostraca {

// Codes bytes for what each is worth by itself. The frame depends on the data alone, not on the kernels. Owns its
// scratch memory; not thread-safe.
class HuffmanFrameEncoder {
 public:
  // Blocks may have 128 KiB (RFC 8878, 3.1.1.2.4). A little less, so that a block's four streams, and those of the next
  // one, do not all begin a multiple of 4 KiB apart: a decoder that fills them in turns would need one cache set for
  // all.
  static constexpr std::size_t kBlockBytes = 128 * kKiB - 4 * 64;

  explicit HuffmanFrameEncoder(const huffman_kernels::Kernels& kernels = huffman_kernels::best_kernels());
  ~HuffmanFrameEncoder();
  HuffmanFrameEncoder(const HuffmanFrameEncoder&) = delete;
  HuffmanFrameEncoder& operator=(const HuffmanFrameEncoder&) = delete;

  // Writes one frame with its content size, without checksum or dictionary, and returns its size, or 0 when it does
  // not fit into `out`. No match is looked for, which is what skewed noise (an exponent plane) wants.
  // REQUIRES: data.size() <= kChunkBytesMax.
  std::size_t encode(Bytes data, MutableBytes out);
  // The same, but longer runs of zeros are matches: the planes of sparse differences.
  std::size_t encode_zero_runs(Bytes data, MutableBytes out);
  // Of the last frame's bytes, those that describe its codes: more of the same data does not take more of them.
  std::size_t description_bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ostraca
