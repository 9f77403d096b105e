#include "base/stream_copy.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>

namespace ostraca {

void stream_piece(std::byte* to, const std::byte* from, std::size_t bytes) {
#if defined(__SSE2__)
  // Whole lines only: a part of one would be read and written by itself.
  constexpr std::size_t kLineBytes = 64, kVectorBytes = sizeof(__m128i);
  const std::size_t head = std::min(bytes, -reinterpret_cast<std::uintptr_t>(to) % kLineBytes);
  std::memcpy(to, from, head);
  to += head, from += head, bytes -= head;
  for (; bytes >= kLineBytes; to += kLineBytes, from += kLineBytes, bytes -= kLineBytes) {
    __m128i line[kLineBytes / kVectorBytes];
    std::memcpy(line, from, kLineBytes);
    for (std::size_t k = 0; k < std::size(line); ++k)
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + k * kVectorBytes), line[k]);
  }
#endif
  std::memcpy(to, from, bytes);
}

void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

void stream_copy(std::byte* to, const std::byte* from, std::size_t bytes) {
  stream_piece(to, from, bytes);
  stream_fence();
}

}  // namespace ostraca
