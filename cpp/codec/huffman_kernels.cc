#include "codec/huffman_kernels.h"

#include <algorithm>

#include "base/cpu.h"
#include "codec/huffman_scalar.h"

namespace ostraca::huffman_kernels {

std::size_t encode_portable(const std::byte* symbols, std::size_t count, const CodeTable& table, BitSink* sink) {
  return encode_scalar(symbols, count, table, sink);
}

namespace {

// The longest run of marked symbols; it may go from 255 on to 0. Returns its length.
unsigned longest_run(const std::uint8_t* present, std::uint8_t* first) {
  unsigned best = 0, run = 0;
  for (unsigned s = 0; s < 512 && best < 256; ++s) {
    run = present[s % 256] ? run + 1 : 0;
    if (run <= best) continue;
    best = run;
    *first = static_cast<std::uint8_t>(s + 1 - run);
  }
  return best;
}

}  // namespace

// Pieces that stay within a run of marked symbols are passed by with byte arithmetic, which compilers vectorize.
std::size_t presence_portable(const std::byte* data, std::size_t size, std::uint8_t* present) {
  constexpr std::size_t kPiece = 256;
  const auto* const symbols = reinterpret_cast<const std::uint8_t*>(data);
  std::uint8_t first = 0;
  unsigned run = longest_run(present, &first);
  std::size_t i = 0;
  for (; i + kPiece <= size; i += kPiece) {
    std::uint8_t farthest = 0;
    for (std::size_t k = 0; k < kPiece; ++k)
      farthest = std::max(farthest, static_cast<std::uint8_t>(symbols[i + k] - first));
    if (farthest < run) continue;
    for (std::size_t k = 0; k < kPiece; ++k) present[symbols[i + k]] = 1;
    run = longest_run(present, &first);
  }
  for (; i < size; ++i) present[symbols[i]] = 1;
  return size;
}

const Kernels& best_kernels() {
  static const Kernels kernels = [] {
    Kernels best;
#if defined(__x86_64__)
    if (cpu_features().avx2) best.encode = encode_avx2;
    if (cpu_features().avx512) best = {encode_avx512, presence_avx512};
#endif
    return best;
  }();
  return kernels;
}

}  // namespace ostraca::huffman_kernels
