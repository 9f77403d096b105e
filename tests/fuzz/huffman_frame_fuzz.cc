// What our decoder of frames accepts, libzstd accepts too, with the same content. Arbitrary bytes are one block's
// literals section, one block with its sequences, or the blocks of a frame, so that no fuzzer has to find the headers
// first.
#include <zstd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "codec/huffman_frame_decoder.h"

namespace {

using namespace ostraca;

void require(bool condition) {
  if (!condition) std::abort();
}

void put(std::vector<std::byte>& to, std::size_t value, unsigned bytes) {
  for (unsigned k = 0; k < bytes; ++k) to.push_back(static_cast<std::byte>(value >> 8 * k));
}

void judge(const std::vector<std::byte>& frame, std::size_t content_bytes) {
  static HuffmanFrameDecoder decoder;
  std::vector<std::byte> ours(content_bytes), theirs(content_bytes + 1);
  if (!decoder.decode(frame, ours)) return;
  require(ZSTD_decompress(theirs.data(), content_bytes, frame.data(), frame.size()) == content_bytes);
  require(std::equal(ours.begin(), ours.end(), theirs.begin()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* input, std::size_t size) {
  if (size < 3 || size > 100000) return 0;
  const std::size_t content_bytes = input[0] | input[1] << 8;
  const bool whole_blocks = (input[2] & 1) != 0, literals_only = (input[2] & 3) == 0;
  const auto* const data = reinterpret_cast<const std::byte*>(input) + 3;
  std::vector<std::byte> frame;
  put(frame, 0xFD2FB528, 4);
  put(frame, 0xA0, 1);
  put(frame, content_bytes, 4);
  if (!whole_blocks) put(frame, 1 | 2 << 1 | (size - 3 + literals_only) << 3, 3);
  frame.insert(frame.end(), data, data + (size - 3));
  if (literals_only) put(frame, 0, 1);
  judge(frame, content_bytes);
  return 0;
}
