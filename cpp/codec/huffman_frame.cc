#include "codec/huffman_frame.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "base/limits.h"
#include "base/scratch.h"
#include "codec/huffman_tree.h"
#include "codec/sequences.h"
#include "codec/zero_runs.h"

namespace ostraca {
namespace {

using huffman_kernels::BitSink;
using huffman_kernels::CodeTable;
using huffman_kernels::Kernels;
using huffman_kernels::kSlackBytes;

constexpr std::size_t kBlock = HuffmanFrameEncoder::kBlockBytes;
constexpr std::size_t kBlockHeaderBytes = 3;
constexpr std::size_t kLiteralsHeaderBytesMax = 5;
constexpr std::size_t kJumpTableBytes = 6;
constexpr std::size_t kSingleStreamMax = 1023;    // RFC 8878, 3.1.1.3.1.1: size format 0
constexpr std::size_t kFourStreams14Max = 16383;  // size format 2; above, 3

// Room that one coded block may need while it is written.
constexpr std::size_t block_room(std::size_t literals, std::size_t runs) {
  return kBlockHeaderBytes + kLiteralsHeaderBytesMax + HuffmanTree::kDescriptionBytesMax + kJumpTableBytes +
         literals * kCodeBitsMax / 8 + 4 * 2 + kSlackBytes + SequencesWriter::room(runs);
}

enum BlockType : std::uint32_t { kRawBlock = 0, kRleBlock = 1, kCompressedBlock = 2 };
enum LiteralsType : std::uint64_t { kRawLiterals = 0, kCompressedLiterals = 2, kTreelessLiterals = 3 };

// ---- what a block holds

// The frame's data, and what they are coded as.
struct Block {
  Bytes data;
  Bytes literals;  // the data themselves if there are no runs
  std::span<const ZeroRun> runs;
};

// Lines of literals that are counted: about so many bytes are enough to know the code's lengths.
constexpr std::size_t kSampleBytes = 16 * kKiB;
constexpr std::size_t kLine = 64;

struct Survey {
  SymbolCounts counts;        // estimates, but zero only for symbols that do not occur
  std::uint32_t symbols = 0;  // different ones, exactly
  std::uint32_t step = 1;     // one line of so many was counted
};

// Eight tables, so that runs of one symbol do not wait for their own counter.
struct Counters {
  void add(const std::byte* p, std::size_t size) {
    std::size_t i = 0;
    for (; i + 8 <= size; i += 8) {
      const auto word = load_le<std::uint64_t>(p + i);
      for (unsigned k = 0; k < 8; ++k) ++tables[k][word >> (8 * k) & 0xFF];
    }
    for (; i < size; ++i) ++tables[0][std::to_integer<unsigned>(p[i])];
  }
  std::uint16_t tables[8][256] = {};  // a sample is below 2 kSampleBytes
};

// A line at a pseudo-random place of every `step` lines: whatever period the data has, the sample has no part in it.
Survey survey_literals(Bytes block, const Kernels& kernels) {
  Survey survey;
  survey.step = static_cast<std::uint32_t>(std::max<std::size_t>(1, block.size() / kSampleBytes));
  Counters counters;
  if (survey.step == 1) {
    counters.add(block.data(), block.size());
  } else {
    std::uint32_t random = 1;
    const std::size_t group = kLine * survey.step;
    for (std::size_t at = 0; at + group <= block.size(); at += group) {
      random = random * 1664525u + 1013904223u;
      counters.add(block.data() + at + kLine * ((random >> 16) % survey.step), kLine);
    }
  }
  std::uint8_t present[256];
  const auto& t = counters.tables;
  for (std::size_t s = 0; s < 256; ++s) {
    const std::uint32_t counted = t[0][s] + t[1][s] + t[2][s] + t[3][s] + t[4][s] + t[5][s] + t[6][s] + t[7][s];
    survey.counts[s] = counted * survey.step;
    present[s] = survey.counts[s] != 0;
  }
  if (survey.step > 1) {
    const std::size_t done = kernels.presence(block.data(), block.size(), present);
    huffman_kernels::presence_portable(block.data() + done, block.size() - done, present);
  }
  for (std::size_t s = 0; s < 256; ++s) {
    survey.counts[s] = std::max<std::uint32_t>(survey.counts[s], present[s]);
    survey.symbols += present[s];
  }
  return survey;
}

// What a tree has to save, beyond its description, of a block's bits: a table of its own costs the decoder about a
// seventh of the block's time (exponents, Zen 5), and streams of one tree are decoded side by side.
constexpr std::uint64_t kTreeWorthDivisor = 2048;

// Whether a tree of the block's own may be worth that, by two estimates of what it may save. How far the
// counts are from those of the whole frame is measured as chi squared, which is 2 ln 2 times the bits that another
// distribution's code costs; a sample is off by chance, and flatters the tree made from it as much. And codes for
// symbols that the block does not have take their share, at least 2^-11 each, from all others.
bool stands_out(const Survey& block, const SymbolCounts& total, const HuffmanTree& whole) {
  constexpr std::uint64_t kDescriptionBits = 8 * 24;
  std::uint64_t block_sum = 0, total_sum = 0;
  for (std::size_t s = 0; s < 256; ++s) block_sum += block.counts[s], total_sum += total[s];
  const std::uint64_t share = (block_sum << 32) / total_sum;
  std::uint64_t chi_squared = 0;
  for (std::size_t s = 0; s < 256; ++s) {
    const std::uint64_t expected = total[s] * share >> 32;
    const std::uint64_t off =
        std::max<std::uint64_t>(expected, block.counts[s]) - std::min<std::uint64_t>(expected, block.counts[s]);
    chi_squared += off * off / (expected + 1);
  }
  const std::uint64_t idle = block_sum * whole.idle_share(block.counts) / HuffmanTree::kWholeShare;
  return chi_squared + 2 * idle >
         kDescriptionBits + 2 * std::uint64_t{block.step} * block.symbols + 2 * 8 * block_sum / kTreeWorthDivisor;
}

// ---- writing

// Where the frame goes. Whatever does not fit sets `failed`, and nothing more is written.
struct Output {
  void put(Bytes bytes) {
    if (failed || bytes.size() > room.size() - at) {
      failed = true;
      return;
    }
    std::copy(bytes.begin(), bytes.end(), room.begin() + static_cast<std::ptrdiff_t>(at));
    at += bytes.size();
  }
  void put(std::uint64_t value, std::size_t bytes) {
    std::array<std::byte, 8> le;
    store_le(le.data(), value);
    put(Bytes(le).first(bytes));
  }
  MutableBytes room;
  std::size_t at = 0;
  bool failed = false;
};

// RFC 8878, 3.1.1.1: a single segment that states its content size, in the shortest field that holds it.
void put_frame_header(std::size_t size, Output& out) {
  const unsigned flag = size < 256 ? 0 : size < 65536 + 256 ? 1 : 2;
  out.put(0xFD2FB528, 4);
  out.put(flag << 6 | 1u << 5, 1);
  out.put(flag == 1 ? size - 256 : size, std::size_t{1} << flag);
}

// RFC 8878, 3.1.1.2: whether it is the last, the type, the size.
std::uint32_t block_header(bool last, BlockType type, std::size_t size) {
  return static_cast<std::uint32_t>(last) | type << 1 | static_cast<std::uint32_t>(size) << 3;
}

// RFC 8878, 3.1.1.3.1.1: type, size format, both sizes.
std::size_t literals_header_bytes(std::size_t size) {
  return size <= kSingleStreamMax ? 3 : size <= kFourStreams14Max ? 4 : 5;
}
void store_literals_header(std::byte* p, LiteralsType type, std::size_t size, std::size_t coded) {
  const std::size_t bytes = literals_header_bytes(size);
  const std::uint64_t format = bytes == 3 ? 0 : bytes - 2;
  const unsigned field = bytes == 3 ? 10 : bytes == 4 ? 14 : 18;
  const std::uint64_t header = type | format << 2 | std::uint64_t{size} << 4 | std::uint64_t{coded} << (4 + field);
  std::memcpy(p, &header, bytes);
}

std::byte* store_raw_literals_header(std::byte* p, std::size_t size) {
  const std::uint32_t format = size < 32 ? 0 : size < 4096 ? 1 : 3;
  const std::uint32_t header = kRawLiterals | format << 2 | static_cast<std::uint32_t>(size) << (format == 0 ? 3 : 4);
  const std::size_t bytes = format == 0 ? 1 : format == 1 ? 2 : 3;
  std::memcpy(p, &header, bytes);
  return p + bytes;
}

// One bit stream with its end mark (RFC 8878, 4.2.2); returns its end.
std::byte* put_stream(Bytes symbols, const CodeTable& table, const Kernels& kernels, std::byte* p) {
  BitSink sink{p, 0, 0};
  const std::size_t left = kernels.encode(symbols.data(), symbols.size(), table, &sink);
  huffman_kernels::encode_portable(symbols.data(), left, table, &sink);
  p += sink.bits / 8;
  *p = static_cast<std::byte>(sink.carry | std::uint64_t{1} << sink.bits % 8);
  return p + 1;
}

// One stream, or four with the sizes of the first three before them (RFC 8878, 4.2.2 and 3.1.1.3.1.6).
std::byte* put_streams(Bytes block, const CodeTable& table, const Kernels& kernels, std::byte* p) {
  if (block.size() <= kSingleStreamMax) return put_stream(block, table, kernels, p);
  std::byte* sizes = p;
  p += kJumpTableBytes;
  const std::size_t quarter = (block.size() + 3) / 4;
  for (unsigned k = 0; k < 4; ++k) {
    std::byte* const end =
        put_stream(block.subspan(k * quarter, std::min(quarter, block.size() - k * quarter)), table, kernels, p);
    if (k < 3) store_le(sizes + 2 * k, static_cast<std::uint16_t>(end - p));
    p = end;
  }
  return p;
}

}  // namespace

struct HuffmanFrameEncoder::State {
  explicit State(const Kernels& k) : kernels(k) {}

  void take(Bytes data);
  void take_zero_runs(Bytes data);
  std::size_t encode(Bytes data, MutableBytes out);
  void survey();
  const HuffmanTree* choose_tree(const Survey& survey, std::uint64_t raw_bits);
  void put_block(const Block& block, const Survey& survey, bool last, Output& out);
  std::size_t code_block(const Block& block, const HuffmanTree* tree, bool last, std::byte* begin);
  std::byte* put_literals(Bytes literals, const HuffmanTree* tree, std::byte* p);

  Kernels kernels;
  std::array<Block, (kChunkBytesMax + kBlock - 1) / kBlock> blocks;
  std::array<Survey, (kChunkBytesMax + kBlock - 1) / kBlock> surveys;
  std::size_t count = 0;                // of blocks
  SymbolCounts total;                   // of all blocks
  std::optional<HuffmanTree> whole;     // for all blocks of the frame
  std::optional<HuffmanTree> own[2];    // for one block; by turns, since the tree in use may be one of them
  const HuffmanTree* in_use = nullptr;  // what the decoder has for a treeless block
  std::size_t description_bytes = 0;    // of all trees and tables so far
  CodeTable table;                      // of in_use
  SequencesWriter sequences;
  Scratch<ZeroRun> runs;
  Scratch<std::byte> literals;
  std::array<std::byte, block_room(kBlock, zero_runs_max(kBlock))> scratch;
};

HuffmanFrameEncoder::HuffmanFrameEncoder(const Kernels& kernels) : state_(std::make_unique<State>(kernels)) {}
HuffmanFrameEncoder::~HuffmanFrameEncoder() = default;

std::size_t HuffmanFrameEncoder::encode(Bytes data, MutableBytes out) {
  state_->take(data);
  return state_->encode(data, out);
}

std::size_t HuffmanFrameEncoder::encode_zero_runs(Bytes data, MutableBytes out) {
  state_->take_zero_runs(data);
  return state_->encode(data, out);
}

std::size_t HuffmanFrameEncoder::description_bytes() const { return state_->description_bytes; }

void HuffmanFrameEncoder::State::take(Bytes data) {
  count = 0;
  for (std::size_t at = 0; at < data.size(); at += kBlock) {
    const Bytes block = data.subspan(at, std::min(kBlock, data.size() - at));
    blocks[count++] = {block, block, {}};
  }
}

void HuffmanFrameEncoder::State::take_zero_runs(Bytes data) {
  take(data);
  literals.reserve(data.size() + kLiteralsSlack);
  runs.reserve(zero_runs_max(data.size()) + count);
  FoundRuns to{runs.data(), literals.data()};
  for (Block& block : std::span(blocks).first(count)) {
    const FoundRuns end = find_zero_runs(block.data, to.end, to.literals);
    if (end.end != to.end) block = {block.data, {to.literals, end.literals}, {to.end, end.end}};
    to = end;
  }
  sequences.begin({runs.data(), to.end});
}

std::size_t HuffmanFrameEncoder::State::encode(Bytes data, MutableBytes out) {
  survey();
  description_bytes = 0;
  Output output{out};
  put_frame_header(data.size(), output);
  if (count == 0) output.put(block_header(true, kRawBlock, 0), kBlockHeaderBytes);
  for (std::size_t i = 0; i < count && !output.failed; ++i) put_block(blocks[i], surveys[i], i + 1 == count, output);
  return output.failed ? 0 : output.at;
}

// Looks at all blocks and makes the tree for all of them.
void HuffmanFrameEncoder::State::survey() {
  in_use = nullptr;
  whole.reset();
  total.fill(0);
  for (std::size_t i = 0; i < count; ++i) {
    surveys[i] = survey_literals(blocks[i].literals, kernels);
    for (std::size_t s = 0; s < total.size(); ++s) total[s] += surveys[i].counts[s];
  }
  if (std::count(total.begin(), total.end(), 0u) <= 254) whole.emplace(total);
}

// The tree in use, that of the whole frame or one of the block's own, whichever makes the block smallest; null if none
// makes it smaller than `raw_bits`.
const HuffmanTree* HuffmanFrameEncoder::State::choose_tree(const Survey& survey, std::uint64_t raw_bits) {
  const HuffmanTree* best = nullptr;
  std::uint64_t best_bits = raw_bits;
  const auto consider = [&](const HuffmanTree& tree, std::uint64_t extra_bits) {
    const Bytes description = tree.description();
    if (description.empty()) return;
    const std::uint64_t bits =
        tree.cost_bits(survey.counts) + extra_bits + (&tree == in_use ? 0 : 8 * description.size());
    if (bits < best_bits) best = &tree, best_bits = bits;
  };
  if (in_use) consider(*in_use, 0);
  if (&*whole != in_use) consider(*whole, 0);
  if (stands_out(survey, total, *whole)) {
    std::optional<HuffmanTree>& spare = own[0] && in_use == &*own[0] ? own[1] : own[0];
    spare.emplace(survey.counts);
    // A sample flatters the tree that was made from it, by about half a symbol's count for every symbol.
    consider(*spare, std::uint64_t{survey.symbols} * (survey.step - 1) + raw_bits / kTreeWorthDivisor);
  }
  return best;
}

void HuffmanFrameEncoder::State::put_block(const Block& block, const Survey& survey, bool last, Output& out) {
  const std::size_t size = block.data.size();
  if (survey.symbols == 1) {  // if there are runs of zeros, it is zero
    out.put(block_header(last, kRleBlock, size), kBlockHeaderBytes);
    out.put(block.data.first(1));
    return;
  }
  const HuffmanTree* const tree = choose_tree(survey, 8 * block.literals.size());
  if (tree || !block.runs.empty()) {
    const HuffmanTree* const before = in_use;
    const bool roomy = out.room.size() - out.at >= block_room(block.literals.size(), block.runs.size());
    std::byte* const begin = roomy ? out.room.data() + out.at : scratch.data();
    const std::size_t bytes = code_block(block, tree, last, begin);
    if (bytes < kBlockHeaderBytes + size) {
      if (in_use && in_use != before) description_bytes += in_use->description().size();
      if (!block.runs.empty()) {
        if (!sequences.is_described()) description_bytes += sequences.description_bytes();
        sequences.described();
      }
      if (roomy)
        out.at += bytes;
      else
        out.put(Bytes(scratch).first(bytes));
      return;
    }
    if (in_use != before) in_use = nullptr;  // the decoder does not get it
  }
  out.put(block_header(last, kRawBlock, size), kBlockHeaderBytes);
  out.put(block.data);
}

// RFC 8878, 3.1.1.3: literals and sequences. Returns the block's size with its header. REQUIRES: block_room() bytes at
// `begin`.
std::size_t HuffmanFrameEncoder::State::code_block(const Block& block, const HuffmanTree* tree, bool last,
                                                   std::byte* begin) {
  std::byte* const content = begin + kBlockHeaderBytes;
  std::byte* p = put_literals(block.literals, tree, content);
  if (block.runs.empty())
    *p++ = std::byte{0};  // the number of sequences
  else
    p = sequences.put(block.runs, p);
  const std::uint32_t header = block_header(last, kCompressedBlock, static_cast<std::size_t>(p - content));
  std::memcpy(begin, &header, kBlockHeaderBytes);
  return static_cast<std::size_t>(p - begin);
}

// RFC 8878, 3.1.1.3.1: coded by the tree, if there is one and it saves something. Returns the section's end.
std::byte* HuffmanFrameEncoder::State::put_literals(Bytes data, const HuffmanTree* tree, std::byte* p) {
  if (tree) {
    const bool treeless = tree == in_use;
    std::byte* const coded = p + literals_header_bytes(data.size());
    std::byte* end = coded;
    if (!treeless) {
      in_use = tree;
      tree->fill(&table);
      const Bytes description = tree->description();
      end = std::copy(description.begin(), description.end(), end);
    }
    end = put_streams(data, table, kernels, end);
    const auto coded_bytes = static_cast<std::size_t>(end - coded);
    if (coded_bytes < data.size()) {  // else its size need not fit into the header
      store_literals_header(p, treeless ? kTreelessLiterals : kCompressedLiterals, data.size(), coded_bytes);
      return end;
    }
    if (!treeless) in_use = nullptr;
  }
  return std::copy(data.begin(), data.end(), store_raw_literals_header(p, data.size()));
}

}  // namespace ostraca
