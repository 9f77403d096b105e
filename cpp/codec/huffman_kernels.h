// The inner loops of huffman_frame.h, one pair per instruction set. Internal: huffman_kernels.cc picks by
// cpu_features(); the tests and benchmarks run each that the machine has. All give the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ostraca::huffman_kernels {

// The codes of one tree, in the two forms the kernels look up. A symbol without a code has length 0.
struct alignas(64) CodeTable {
  std::uint64_t codes[256];
  std::uint32_t lengths[256];
  std::uint8_t low[256];   // the code's low 8 bits
  std::uint8_t high[256];  // length << 4 | the code's high 3 bits
};

// A bit stream under construction, least significant bit first: what was written lies before `bits` / 8, the rest
// in `carry`. Plain data: kernels must not share functions.
struct BitSink {
  std::byte* base;
  std::uint64_t bits;   // written so far
  std::uint64_t carry;  // the low bits % 8 of it belong to the unfinished byte
};

// What a kernel may write beyond the last byte of its codes.
inline constexpr std::size_t kSlackBytes = 8;

// Appends the codes of a trailing part of `symbols`, last symbol first, and returns how many symbols at the front are
// left. REQUIRES: every symbol has a code of at most 11 bits, room for the codes and kSlackBytes.
using EncodeKernel = std::size_t (*)(const std::byte* symbols, std::size_t count, const CodeTable& table,
                                     BitSink* sink);
// Sets `present[s]` to 1 for each symbol s of a leading part of the data; returns that part's size. Fast where most
// of the symbols are marked already.
using PresenceKernel = std::size_t (*)(const std::byte* data, std::size_t size, std::uint8_t* present);

// Complete: these always do everything. They are the reference for the others.
std::size_t encode_portable(const std::byte* symbols, std::size_t count, const CodeTable& table, BitSink* sink);
std::size_t presence_portable(const std::byte* data, std::size_t size, std::uint8_t* present);

#if defined(__x86_64__)
std::size_t encode_avx2(const std::byte* symbols, std::size_t count, const CodeTable& table, BitSink* sink);
std::size_t encode_avx512(const std::byte* symbols, std::size_t count, const CodeTable& table, BitSink* sink);
std::size_t presence_avx512(const std::byte* data, std::size_t size, std::uint8_t* present);
#endif

struct Kernels {
  EncodeKernel encode = encode_portable;
  PresenceKernel presence = presence_portable;
};

// The best this machine has.
const Kernels& best_kernels();

}  // namespace ostraca::huffman_kernels
