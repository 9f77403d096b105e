#include "codec/huffman_frame_decoder.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/limits.h"
#include "base/scratch.h"
#include "codec/huffman_streams.h"
#include "codec/huffman_weights.h"
#include "codec/sequences.h"

namespace ostraca {
namespace {

constexpr std::size_t kBlockMax = 128 * kKiB;  // RFC 8878, 3.1.1.2.4
constexpr std::size_t kBlockHeaderBytes = 3;
constexpr std::size_t kJumpTableBytes = 6;
constexpr std::size_t kFourStreamsMin = 10;  // below, the fourth may have nothing to say

enum BlockType : unsigned { kRawBlock = 0, kRleBlock = 1, kCompressedBlock = 2 };

// ---- what a frame says

// The block and literals headers, little-endian bit fields of up to 5 bytes.
std::uint64_t load_bits(Bytes in, std::size_t bytes) {
  std::uint64_t value = 0;
  std::memcpy(&value, in.data(), bytes);
  return value;
}

// RFC 8878, 3.1.1.1: a single segment of `content_bytes`, without checksum and dictionary. Returns the header's bytes,
// 0 for any other.
std::size_t read_frame_header(Bytes frame, std::size_t content_bytes) {
  if (frame.size() < 5 || load_bits(frame, 4) != 0xFD2FB528) return 0;
  const auto descriptor = std::to_integer<unsigned>(frame[4]);
  if ((descriptor & 0x3F) != 0x20) return 0;
  const std::size_t field = std::size_t{1} << (descriptor >> 6);
  if (frame.size() < 5 + field) return 0;
  const std::uint64_t stated = load_bits(frame.subspan(5), field) + (field == 2 ? 256 : 0);
  return stated == content_bytes ? 5 + field : 0;
}

enum LiteralsType : unsigned { kRawLiterals = 0, kRleLiterals = 1, kCompressedLiterals = 2, kTreelessLiterals = 3 };

struct LiteralsHeader {
  LiteralsType type = kRawLiterals;
  bool four_streams = false;
  std::size_t bytes = 0;
  std::size_t decoded = 0;
  std::size_t coded = 0;  // with the tree's description
};

// RFC 8878, 3.1.1.3.1.1.
bool read_literals_header(Bytes block, LiteralsHeader* literals) {
  constexpr std::size_t kBytesMax = 5;
  if (block.empty()) return false;
  const std::uint64_t header = load_bits(block, std::min(block.size(), kBytesMax));
  literals->type = static_cast<LiteralsType>(header & 3);
  const unsigned format = header >> 2 & 3;
  if (literals->type == kRawLiterals || literals->type == kRleLiterals) {
    literals->bytes = (format & 1) == 0 ? 1 : format == 1 ? 2 : 3;
    literals->decoded = format % 2 == 0 ? header >> 3 & 31 : header >> 4 & (format == 1 ? 0xFFF : 0xFFFFF);
    literals->coded = literals->type == kRawLiterals ? literals->decoded : 1;
  } else {
    const unsigned field = format < 2 ? 10 : format == 2 ? 14 : 18;
    literals->four_streams = format != 0;
    literals->bytes = (4 + 2 * field) / 8;
    literals->decoded = header >> 4 & ((1u << field) - 1);
    literals->coded = header >> (4 + field) & ((1u << field) - 1);
  }
  return literals->decoded <= kBlockMax && literals->bytes + literals->coded <= block.size();
}

}  // namespace

struct HuffmanFrameDecoder::State {
  // A block's literals and its sequences, which are for later: where its content goes depends on the blocks before.
  struct Later {
    Bytes literals, sequences;
  };

  bool decode(Bytes frame, MutableBytes out);
  bool read_block(unsigned type, std::size_t size, Bytes stored);
  bool read_compressed_block(Bytes block);
  bool read_literals(const LiteralsHeader& header, Bytes coded, MutableBytes to);
  bool add_streams(Bytes coded, MutableBytes to, bool four);
  bool add_stream(Bytes stream, MutableBytes to);
  bool decode_pending();
  MutableBytes room_for_literals(std::size_t size, bool has_sequences);
  bool do_later();

  bool has_table = false;
  DecodeTable table;
  // Streams of one tree wait for each other, as many as a chunk can have.
  std::array<BitSource, 4 * (kChunkBytesMax / kBlockMax + 1)> pending;
  std::size_t pending_count = 0;

  MutableBytes out;  // what no block has filled yet
  // Once there was a block with sequences, all literals are decoded to a place of their own first.
  std::vector<Later> later;
  Scratch<std::byte> literals;
  std::size_t literals_used = 0;
  SequencesReader sequences;
};

HuffmanFrameDecoder::HuffmanFrameDecoder() : state_(std::make_unique<State>()) {}
HuffmanFrameDecoder::~HuffmanFrameDecoder() = default;

bool HuffmanFrameDecoder::decode(Bytes frame, MutableBytes out) { return state_->decode(frame, out); }

// RFC 8878, 3.1.1.2.
bool HuffmanFrameDecoder::State::decode(Bytes frame, MutableBytes all) {
  has_table = false;
  pending_count = literals_used = 0;
  later.clear();
  sequences.begin();
  out = all;
  const std::size_t header_bytes = read_frame_header(frame, out.size());
  if (header_bytes == 0) return false;
  const std::size_t block_max = std::min(kBlockMax, all.size());  // RFC 8878, 3.1.1.2.3: the window is the content
  Bytes rest = frame.subspan(header_bytes);
  for (bool last = false; !last;) {
    if (rest.size() < kBlockHeaderBytes) return false;
    const std::uint64_t header = load_bits(rest, kBlockHeaderBytes);
    last = (header & 1) != 0;
    const unsigned type = header >> 1 & 3;
    const std::size_t size = header >> 3, stored = type == kRleBlock ? 1 : size;
    rest = rest.subspan(kBlockHeaderBytes);
    if (size > block_max || stored > rest.size() || !read_block(type, size, rest.first(stored))) return false;
    rest = rest.subspan(stored);
  }
  return rest.empty() && decode_pending() && do_later() && out.empty();
}

bool HuffmanFrameDecoder::State::read_block(unsigned type, std::size_t size, Bytes stored) {
  if (type == kCompressedBlock) return read_compressed_block(stored);
  if (type != kRawBlock && type != kRleBlock) return false;
  const MutableBytes to = room_for_literals(size, false);
  if (to.size() != size) return false;
  if (type == kRleBlock)
    std::fill(to.begin(), to.end(), stored[0]);
  else
    std::copy(stored.begin(), stored.end(), to.begin());
  return true;
}

// RFC 8878, 3.1.1.3: a literals section, and one of sequences.
bool HuffmanFrameDecoder::State::read_compressed_block(Bytes block) {
  LiteralsHeader header;
  if (!read_literals_header(block, &header)) return false;
  const Bytes coded = block.subspan(header.bytes, header.coded), section = block.subspan(header.bytes + header.coded);
  if (section.empty()) return false;
  const bool has_sequences = section[0] != std::byte{0};
  if (has_sequences ? !SequencesReader::takes(section) : section.size() > 1) return false;
  const MutableBytes to = room_for_literals(header.decoded, has_sequences);
  if (to.size() != header.decoded || !read_literals(header, coded, to)) return false;
  if (has_sequences) later.back().sequences = section;
  return true;
}

bool HuffmanFrameDecoder::State::read_literals(const LiteralsHeader& header, Bytes coded, MutableBytes to) {
  if (header.type == kRawLiterals) std::copy(coded.begin(), coded.end(), to.begin());
  if (header.type == kRleLiterals) std::fill(to.begin(), to.end(), coded[0]);
  if (header.type == kRawLiterals || header.type == kRleLiterals) return true;
  if (to.empty()) return false;
  if (header.type == kCompressedLiterals) {
    if (!decode_pending()) return false;
    std::array<std::uint8_t, 256> lengths;
    const std::size_t description = read_code_lengths(coded, &lengths);
    if (description == 0) return false;
    fill_decode_table(lengths, &table);
    has_table = true;
    coded = coded.subspan(description);
  }
  return has_table && add_streams(coded, to, header.four_streams);
}

// Where a block's literals go: into their final place, or that of literals. Less than asked for if there is no room.
MutableBytes HuffmanFrameDecoder::State::room_for_literals(std::size_t size, bool has_sequences) {
  if (!has_sequences && later.empty()) {
    const MutableBytes to = out.first(std::min(size, out.size()));
    out = out.subspan(to.size());
    return to;
  }
  if (later.empty()) literals.reserve(out.size() + kLiteralsSlack);
  const std::size_t room = literals.size() - kLiteralsSlack - literals_used;
  const MutableBytes to(literals.data() + literals_used, std::min(size, room));
  literals_used += to.size();
  later.push_back({to, {}});
  return to;
}

bool HuffmanFrameDecoder::State::do_later() {
  for (const auto& [literals_of_block, section] : later) {
    const MutableBytes to = out.first(std::min(out.size(), kBlockMax));
    std::size_t decoded = literals_of_block.size();
    if (!section.empty()) {
      decoded = sequences.read(section, literals_of_block, to);
      if (decoded == 0) return false;
    } else if (decoded <= to.size()) {
      std::copy(literals_of_block.begin(), literals_of_block.end(), to.begin());
    } else {
      return false;
    }
    out = out.subspan(decoded);
  }
  return true;
}

// RFC 8878, 4.2.2 and 3.1.1.3.1.6.
bool HuffmanFrameDecoder::State::add_streams(Bytes coded, MutableBytes to, bool four) {
  if (!four) return add_stream(coded, to);
  if (coded.size() < kJumpTableBytes || to.size() < kFourStreamsMin) return false;
  const std::size_t quarter = (to.size() + 3) / 4;
  Bytes streams = coded.subspan(kJumpTableBytes);
  for (unsigned k = 0; k < 3; ++k) {
    const std::size_t bytes = load_le<std::uint16_t>(coded.data() + 2 * k);
    if (bytes > streams.size() || !add_stream(streams.first(bytes), to.first(quarter))) return false;
    streams = streams.subspan(bytes);
    to = to.subspan(quarter);
  }
  return add_stream(streams, to);
}

bool HuffmanFrameDecoder::State::add_stream(Bytes stream, MutableBytes to) {
  if (stream.empty() || stream.back() == std::byte{0}) return false;
  if (pending_count == pending.size() && !decode_pending()) return false;
  pending[pending_count++] = {stream.data(), stream.data() + stream.size(), to.data(), to.data() + to.size()};
  return true;
}

bool HuffmanFrameDecoder::State::decode_pending() {
  const std::size_t count = pending_count;
  pending_count = 0;
  return count == 0 || decode_streams(table, {pending.data(), count});
}

}  // namespace ostraca
