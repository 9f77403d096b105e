#include "codec/zero_runs.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <bit>
#include <cstring>

namespace ostraca {
namespace {

// Bit i is set where byte i of the 64 at `p` is not zero.
std::uint64_t nonzero_mask(const std::byte* p) {
  std::uint64_t mask = 0;
#if defined(__SSE2__)
  for (unsigned j = 0; j < 4; ++j) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * j));
    const auto zeros = static_cast<std::uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_setzero_si128())));
    mask |= std::uint64_t{zeros} << (16 * j);
  }
  mask = ~mask;
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

}  // namespace

// Runs are found 64 bytes at a time, since bytes that are not zero are many, and long runs are few.
FoundRuns find_zero_runs(Bytes block, ZeroRun* runs, std::byte* literals) {
  const std::size_t n = block.size();
  std::size_t coded = 0;  // bytes that the runs so far stand for
  std::size_t run = 0;    // where the zeros before the present byte begin
  const auto put_literals = [&](std::size_t count) {
    if (count <= kLiteralsSlack && n - coded >= kLiteralsSlack)
      std::memcpy(literals, block.data() + coded, kLiteralsSlack);
    else
      std::memcpy(literals, block.data() + coded, count);
    literals += count;
  };
  const auto end_run = [&](std::size_t begin, std::size_t end) {
    if (end - begin < kShortestRun) return;
    *runs++ = {static_cast<std::uint32_t>(begin + 1 - coded), static_cast<std::uint32_t>(end - begin - 1)};
    put_literals(begin + 1 - coded);
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
  put_literals(n - coded);
  return {runs, literals};
}

}  // namespace ostraca
