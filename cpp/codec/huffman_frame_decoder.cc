#include "codec/huffman_frame_decoder.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "base/limits.h"
#include "codec/huffman_streams.h"
#include "codec/huffman_weights.h"

namespace ostraca {
namespace {

constexpr std::size_t kBlockMax = 128 * kKiB;  // RFC 8878, 3.1.1.2.4
constexpr std::size_t kBlockHeaderBytes = 3;
constexpr std::size_t kJumpTableBytes = 6;
constexpr std::size_t kFourStreamsMin = 10;  // below, the fourth may have nothing to say

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

struct Literals {
  bool treeless = false;
  bool four_streams = false;
  std::size_t header_bytes = 0;
  std::size_t decoded = 0;
  std::size_t coded = 0;  // with the tree's description
};

// RFC 8878, 3.1.1.3.1.1; coded literals only.
bool read_literals_header(Bytes block, Literals* literals) {
  constexpr unsigned kHuffman = 2;
  if (block.size() < 5) return false;
  const std::uint64_t header = load_bits(block, 5);
  const unsigned format = header >> 2 & 3;
  const unsigned field = format < 2 ? 10 : format == 2 ? 14 : 18;
  literals->treeless = (header & 1) != 0;
  literals->four_streams = format != 0;
  literals->header_bytes = (4 + 2 * field) / 8;
  literals->decoded = header >> 4 & ((1u << field) - 1);
  literals->coded = header >> (4 + field) & ((1u << field) - 1);
  return (header & kHuffman) != 0;
}

}  // namespace

struct HuffmanFrameDecoder::State {
  bool read_frame(Bytes frame, MutableBytes out);
  std::size_t read_coded_block(Bytes block, MutableBytes out);
  bool add_streams(Bytes coded, MutableBytes out, bool four);
  bool add_stream(Bytes stream, MutableBytes out);
  bool decode_pending();

  bool has_table = false;
  DecodeTable table;
  // Streams of one tree wait for each other, as many as a chunk can have.
  std::array<BitSource, 4 * (kChunkBytesMax / kBlockMax + 1)> pending;
  std::size_t pending_count = 0;
};

HuffmanFrameDecoder::HuffmanFrameDecoder() : state_(std::make_unique<State>()) {}
HuffmanFrameDecoder::~HuffmanFrameDecoder() = default;

bool HuffmanFrameDecoder::decode(Bytes frame, MutableBytes out) {
  state_->has_table = false;
  state_->pending_count = 0;
  return state_->read_frame(frame, out) && state_->decode_pending();
}

// RFC 8878, 3.1.1.2.
bool HuffmanFrameDecoder::State::read_frame(Bytes frame, MutableBytes out) {
  enum BlockType : unsigned { kRaw = 0, kRle = 1, kCompressed = 2 };
  const std::size_t header_bytes = read_frame_header(frame, out.size());
  if (header_bytes == 0) return false;
  for (Bytes rest = frame.subspan(header_bytes);;) {
    if (rest.size() < kBlockHeaderBytes) return false;
    const std::uint64_t header = load_bits(rest, kBlockHeaderBytes);
    const bool last = (header & 1) != 0;
    const unsigned type = header >> 1 & 3;
    const std::size_t size = header >> 3, stored = type == kRle ? 1 : size;
    rest = rest.subspan(kBlockHeaderBytes);
    if (size > kBlockMax || stored > rest.size()) return false;
    const Bytes block = rest.first(stored);
    rest = rest.subspan(stored);

    std::size_t decoded = size;
    if (type == kCompressed)
      decoded = read_coded_block(block, out);
    else if (type > kCompressed || size > out.size())
      return false;
    else if (type == kRle)
      std::fill_n(out.begin(), size, block[0]);
    else
      std::copy(block.begin(), block.end(), out.begin());
    if (type == kCompressed && decoded == 0) return false;
    out = out.subspan(decoded);
    if (last) return rest.empty() && out.empty();
  }
}

// RFC 8878, 3.1.1.3: a literals section and no sequences. Returns what it decodes to, 0 if it is anything else.
std::size_t HuffmanFrameDecoder::State::read_coded_block(Bytes block, MutableBytes out) {
  Literals literals;
  if (!read_literals_header(block, &literals)) return 0;
  if (literals.decoded == 0 || literals.decoded > std::min(out.size(), kBlockMax)) return 0;
  if (block.size() != literals.header_bytes + literals.coded + 1 || block.back() != std::byte{0}) return 0;
  Bytes coded = block.subspan(literals.header_bytes, literals.coded);
  if (!literals.treeless) {
    if (!decode_pending()) return 0;
    std::array<std::uint8_t, 256> lengths;
    const std::size_t description = read_code_lengths(coded, &lengths);
    if (description == 0) return 0;
    fill_decode_table(lengths, &table);
    has_table = true;
    coded = coded.subspan(description);
  }
  if (!has_table || !add_streams(coded, out.first(literals.decoded), literals.four_streams)) return 0;
  return literals.decoded;
}

// RFC 8878, 4.2.2 and 3.1.1.3.1.6.
bool HuffmanFrameDecoder::State::add_streams(Bytes coded, MutableBytes out, bool four) {
  if (!four) return add_stream(coded, out);
  if (coded.size() < kJumpTableBytes || out.size() < kFourStreamsMin) return false;
  const std::size_t quarter = (out.size() + 3) / 4;
  Bytes streams = coded.subspan(kJumpTableBytes);
  for (unsigned k = 0; k < 3; ++k) {
    const std::size_t bytes = load_le<std::uint16_t>(coded.data() + 2 * k);
    if (bytes > streams.size() || !add_stream(streams.first(bytes), out.first(quarter))) return false;
    streams = streams.subspan(bytes);
    out = out.subspan(quarter);
  }
  return add_stream(streams, out);
}

bool HuffmanFrameDecoder::State::add_stream(Bytes stream, MutableBytes out) {
  if (stream.empty() || stream.back() == std::byte{0}) return false;
  if (pending_count == pending.size() && !decode_pending()) return false;
  pending[pending_count++] = {stream.data(), stream.data() + stream.size(), out.data(), out.data() + out.size()};
  return true;
}

bool HuffmanFrameDecoder::State::decode_pending() {
  const std::size_t count = pending_count;
  pending_count = 0;
  return count == 0 || decode_streams(table, {pending.data(), count});
}

}  // namespace ostraca
