// The other end of huffman_frame.h: frames of Huffman-coded literals, several times as fast as the general decoder.
#pragma once

#include <cstddef>
#include <memory>

#include "base/bytes.h"

namespace ostraca {

// Reads frames of the kind that HuffmanFrameEncoder writes, whoever wrote them. The bytes may be malicious. Owns its
// tables; not thread-safe.
class HuffmanFrameDecoder {
 public:
  HuffmanFrameDecoder();
  ~HuffmanFrameDecoder();
  HuffmanFrameDecoder(const HuffmanFrameDecoder&) = delete;
  HuffmanFrameDecoder& operator=(const HuffmanFrameDecoder&) = delete;

  // True if the frame is of this kind, valid to its last bit, and has filled `out`. False says nothing about it but
  // that a general decoder has to judge; `out` is then unspecified.
  bool decode(Bytes frame, MutableBytes out);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ostraca
