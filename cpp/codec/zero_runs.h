// Runs of zeros, of which sparse differences mostly consist.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bytes.h"

namespace ostraca {

// A stretch of a block in the terms of LZ77: so many bytes as they are, of which the last one is a zero, and so many
// zeros more.
struct ZeroRun {
  std::uint32_t literals;
  std::uint32_t zeros;
};

// Zeros in a row that make a run: fewer cost more as a match than as literals, of which zero is the cheapest.
inline constexpr std::size_t kShortestRun = 9;
constexpr std::size_t zero_runs_max(std::size_t size) { return size / (kShortestRun + 1) + 1; }

// What find_zero_runs may write beyond the literals, and SequencesReader read: short literals are copied in one size.
inline constexpr std::size_t kLiteralsSlack = 32;

struct FoundRuns {
  ZeroRun* end;         // of what was written to `runs`
  std::byte* literals;  // the end of all literals, of which those after the last run belong to none
};

// Writes the runs of a block to `runs` and its literals, one after the other, to `literals`. REQUIRES: room for
// zero_runs_max(block.size()) runs, for the block's size and kLiteralsSlack.
FoundRuns find_zero_runs(Bytes block, ZeroRun* runs, std::byte* literals);

}  // namespace ostraca
