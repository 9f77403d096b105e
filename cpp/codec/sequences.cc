#include "codec/sequences.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace ostraca {
namespace {

enum Mode : unsigned { kPredefined = 0, kSingle = 1, kDescribed = 2, kRepeat = 3 };
constexpr unsigned modes(unsigned literals, unsigned offsets, unsigned matches) {
  return literals << 6 | offsets << 4 | matches << 2;
}

constexpr std::size_t kShortestMatch = 3;
// An offset of code 0 is the first of the last ones, which a frame begins with 1 (RFC 8878, 3.1.1.5).
constexpr std::byte kRepeatedOffset{0};

// ---- codes of lengths, RFC 8878, 3.1.1.3.2.1.1

// Codes below `plain` are a length each; from there on each has some more bits than the code before it, up to the last.
template <std::size_t kCodes>
struct Codes {
  std::array<std::uint8_t, kCodes> extra{};
  std::array<std::uint32_t, kCodes> base{};
};

template <std::size_t kCodes>
constexpr Codes<kCodes> make_codes(unsigned plain, std::uint32_t shortest, std::array<unsigned, 16> with_extra) {
  Codes<kCodes> codes;
  unsigned code = 0;
  std::uint32_t length = shortest;
  for (; code < plain; ++code) codes.base[code] = length++;
  for (unsigned extra = 1; extra <= 16; ++extra)
    for (unsigned i = 0; i < with_extra[extra - 1]; ++i, ++code) {
      codes.extra[code] = static_cast<std::uint8_t>(extra);
      codes.base[code] = length;
      length += 1u << extra;
    }
  return codes;
}

// How many codes have 1, 2, ... 16 more bits.
constexpr Codes<kLiteralCodes> kLiteralLengths =
    make_codes<kLiteralCodes>(16, 0, {4, 2, 2, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1});
constexpr Codes<kMatchCodes> kMatchLengths =
    make_codes<kMatchCodes>(32, kShortestMatch, {4, 2, 2, 2, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1});
static_assert(kLiteralLengths.base[25] == 64 && kLiteralLengths.base[35] == 65536);
static_assert(kMatchLengths.base[43] == 131 && kMatchLengths.base[52] == 65539);

// Codes of the short lengths by table, those of the others by their highest bit.
template <std::size_t kShort, std::size_t kCodes>
constexpr std::array<std::uint8_t, kShort> short_codes(const Codes<kCodes>& codes, std::uint32_t shortest) {
  std::array<std::uint8_t, kShort> table{};
  for (unsigned length = 0, code = 0; length < kShort; ++length) {
    while (code + 1 < kCodes && codes.base[code + 1] <= length + shortest) ++code;
    table[length] = static_cast<std::uint8_t>(code);
  }
  return table;
}

constexpr auto kShortLiterals = short_codes<64>(kLiteralLengths, 0);
constexpr auto kShortMatches = short_codes<128>(kMatchLengths, kShortestMatch);

unsigned literal_code(std::uint32_t length) {
  return length < kShortLiterals.size() ? kShortLiterals[length] : static_cast<unsigned>(std::bit_width(length)) + 18;
}

unsigned match_code(std::uint32_t length) {
  const std::uint32_t more = length - kShortestMatch;
  return more < kShortMatches.size() ? kShortMatches[more] : static_cast<unsigned>(std::bit_width(more)) + 35;
}

// ---- writing

// A bit stream that is written forwards and read backwards.
class BitSink {
 public:
  explicit BitSink(std::byte* out) : out_(out) {}
  // REQUIRES: at most 57 bits since the last flush; no bit of `value` beyond them.
  void put(std::uint64_t value, unsigned bits) {
    carry_ |= value << used_;
    used_ += bits;
  }
  void flush() {
    store_le(out_, carry_);
    out_ += used_ / 8;
    carry_ >>= used_ & ~7u;
    used_ %= 8;
  }
  std::byte* end() {
    put(1, 1);  // the end mark
    flush();
    return out_ + (used_ > 0 ? 1 : 0);
  }

 private:
  std::byte* out_;
  std::uint64_t carry_ = 0;
  unsigned used_ = 0;
};

// As many states as the number of symbols is worth: a description of fine shares is long.
unsigned state_bits(std::uint64_t symbols, std::size_t different) {
  const auto worth = static_cast<unsigned>(std::bit_width(symbols)) - 2;
  return std::clamp(worth, std::max(5u, static_cast<unsigned>(std::bit_width(different))), kFseBitsMax);
}

}  // namespace

void SequencesWriter::Lengths::begin(std::span<const std::uint32_t> counts) {
  std::uint64_t all = 0;
  std::size_t different = 0, code = 0;
  for (std::size_t c = 0; c < counts.size(); ++c) {
    if (counts[c] == 0) continue;
    all += counts[c];
    ++different;
    code = c;
  }
  single = different <= 1;
  if (single) {
    description[0] = static_cast<std::byte>(code);
    description_bytes = 1;
  } else {
    const FseShares shares = share_states(counts, state_bits(all, different));
    description_bytes = write_shares(shares, description.data());
    coder = FseCoder(shares);
  }
}

std::byte* SequencesWriter::Lengths::describe(std::byte* out) const {
  return std::copy_n(description.data(), description_bytes, out);
}

void SequencesWriter::begin(std::span<const ZeroRun> runs) {
  std::array<std::uint32_t, kLiteralCodes> literals{};
  std::array<std::uint32_t, kMatchCodes> zeros{};
  for (const ZeroRun& run : runs) {
    ++literals[literal_code(run.literals)];
    ++zeros[match_code(run.zeros)];
  }
  literals_.begin(literals);
  zeros_.begin(zeros);
  described_ = false;
}

std::byte* SequencesWriter::put(std::span<const ZeroRun> runs, std::byte* out) const {
  const std::size_t n = runs.size();
  if (n < 128) {
    *out++ = static_cast<std::byte>(n);
  } else {  // blocks have fewer than 0x7F00
    *out++ = static_cast<std::byte>(128 + (n >> 8));
    *out++ = static_cast<std::byte>(n & 0xFF);
  }
  if (described_) {
    *out++ = static_cast<std::byte>(modes(kRepeat, kRepeat, kRepeat));
  } else {
    *out++ = static_cast<std::byte>(
        modes(literals_.single ? kSingle : kDescribed, kSingle, zeros_.single ? kSingle : kDescribed));
    out = literals_.describe(out);
    *out++ = kRepeatedOffset;
    out = zeros_.describe(out);
  }
  // The reader's order, from its end: the last sequence's bits first, and at the very end the states to begin with.
  BitSink sink(out);
  const auto put_extra = [&sink](const ZeroRun& run, unsigned literal, unsigned match) {
    sink.put(run.literals - kLiteralLengths.base[literal], kLiteralLengths.extra[literal]);
    sink.put(run.zeros - kMatchLengths.base[match], kMatchLengths.extra[match]);
    sink.flush();
  };
  unsigned literal = literal_code(runs[n - 1].literals), match = match_code(runs[n - 1].zeros);
  unsigned literal_state = literals_.single ? 0 : literals_.coder.first(literal);
  unsigned match_state = zeros_.single ? 0 : zeros_.coder.first(match);
  put_extra(runs[n - 1], literal, match);
  const auto step = [&sink](const Lengths& lengths, unsigned code, unsigned& state) {
    if (lengths.single) return;
    const unsigned bits = lengths.coder.bits_from(state, code);
    sink.put(state & ((1u << bits) - 1), bits);
    state = lengths.coder.before(state, bits, code);
  };
  for (std::size_t i = n - 1; i-- > 0;) {
    literal = literal_code(runs[i].literals);
    match = match_code(runs[i].zeros);
    step(zeros_, match, match_state);
    step(literals_, literal, literal_state);
    put_extra(runs[i], literal, match);
  }
  const auto put_state = [&sink](const Lengths& lengths, unsigned state) {
    if (!lengths.single) sink.put(state - (1u << lengths.coder.bits()), lengths.coder.bits());
  };
  put_state(zeros_, match_state);
  put_state(literals_, literal_state);
  return sink.end();
}

// ---- reading

struct SequencesReader::Field {
  std::span<const std::uint32_t> base;
  std::span<const std::uint8_t> extra;
};

bool SequencesReader::read_table(unsigned mode, const Field& field, Bytes* in, Table* table) {
  if (mode == kRepeat) return table->known;
  table->known = false;
  std::array<FseState, std::size_t{1} << kFseBitsMax> states;
  std::size_t used = 0;
  if (mode == kSingle) {
    if (in->empty() || std::to_integer<std::size_t>((*in)[0]) >= field.base.size()) return false;
    states[0] = {std::to_integer<std::uint8_t>((*in)[0]), 0, 0};
    table->bits = 0;
    used = 1;
  } else if (mode == kDescribed) {
    FseShares shares;
    used = read_shares(*in, kFseBitsMax, field.base.size(), &shares);
    if (used == 0) return false;
    table->bits = shares.bits;
    fill_states(shares, std::span(states).first(std::size_t{1} << shares.bits));
  } else {
    return false;  // the predefined tables are not ours
  }
  *in = in->subspan(used);
  for (std::size_t i = 0; i < std::size_t{1} << table->bits; ++i) {
    const FseState& s = states[i];
    table->entries[i] = {field.base[s.symbol], field.extra[s.symbol], s.bits, s.base};
  }
  table->known = true;
  return true;
}

// RFC 8878, 3.1.1.3.2.1. More sequences than a block of ours has, and offsets that have codes of their own, are not
// ours.
bool SequencesReader::read_header(Bytes section, Header* header) {
  if (section.size() < 3) return false;
  header->count = std::to_integer<std::size_t>(section[0]);
  header->bytes = 2;
  if (header->count == 255) return false;
  if (header->count >= 128) {
    header->count = (header->count - 128) << 8 | std::to_integer<std::size_t>(section[1]);
    header->bytes = 3;
  }
  header->modes = std::to_integer<unsigned>(section[header->bytes - 1]);
  const unsigned offsets = header->modes >> 4 & 3;
  return header->count > 0 && (header->modes & 3) == 0 && (offsets == kSingle || offsets == kRepeat);
}

std::size_t SequencesReader::read(Bytes section, Bytes literals, MutableBytes out) {
  Header header;
  if (!read_header(section, &header)) return 0;
  Bytes rest = section.subspan(header.bytes);
  if (!read_table(header.modes >> 6, {kLiteralLengths.base, kLiteralLengths.extra}, &rest, &literals_)) return 0;
  if ((header.modes >> 4 & 3) == kSingle) {
    if (rest.empty() || rest[0] != kRepeatedOffset) return 0;
    rest = rest.subspan(1);
  } else if (!matches_.known) {  // there was no block before whose offsets this one could repeat
    return 0;
  }
  if (!read_table(header.modes >> 2 & 3, {kMatchLengths.base, kMatchLengths.extra}, &rest, &matches_)) return 0;
  if (rest.empty() || rest.back() == std::byte{0}) return 0;
  return execute(rest, header.count, literals, out);
}

namespace {

constexpr auto kMasks = [] {
  std::array<std::uint32_t, 17> masks{};
  for (std::size_t bits = 0; bits < masks.size(); ++bits) masks[bits] = (1u << bits) - 1;
  return masks;
}();

// A stream's bits from its end on, as in huffman_streams.cc: those of a word that are left, on top, and under them a
// one that was its lowest bit.
class BitReader {
 public:
  explicit BitReader(Bytes stream) : begin_(stream.data()), word_(stream.data() + stream.size() - sizeof bits_) {
    const auto bits = load_le<std::uint64_t>(word_);
    bits_ = (bits | 1) << (std::countl_zero(bits) + 1);
  }
  // The last `count` of the next `end` bits, 16 at most; at most 55 in all between refills. A machine shifts twice a
  // cycle and loads three times, so that the mask is looked up.
  std::uint32_t field(unsigned end, unsigned count) const {
    return static_cast<std::uint32_t>(bits_ >> ((64 - end) & 63)) & kMasks[count];
  }
  void drop(unsigned count) { bits_ <<= count; }
  bool enough() const { return word_ >= begin_; }  // for whatever is dropped until the next refill
  std::ptrdiff_t left() const { return 8 * (word_ + sizeof bits_ - begin_) - used(); }
  void refill() {
    const auto used = static_cast<unsigned>(this->used());
    word_ -= used / 8;
    bits_ = (load_le<std::uint64_t>(word_) | 1) << used % 8;
  }

 private:
  int used() const { return __builtin_ctzll(bits_); }  // never 0: std::countr_zero would ask

  const std::byte* begin_;
  const std::byte* word_;
  std::uint64_t bits_;
};

// Most are no longer than this, and room is mostly there: then a fixed size, a little too much, takes no decision.
constexpr std::size_t kUsualLiterals = kLiteralsSlack, kUsualMatch = 64;

}  // namespace

std::size_t SequencesReader::execute(Bytes stream, std::size_t count, Bytes literals, MutableBytes out) const {
  BitReader bits(stream);
  const auto first_state = [&bits](const Table& table) {
    const std::size_t state = bits.field(table.bits, table.bits);
    bits.drop(table.bits);
    return state;
  };
  std::size_t literal_state = first_state(literals_), match_state = first_state(matches_);
  if (bits.left() < 0) return 0;
  bits.refill();

  const std::byte* literal = literals.data();
  const std::byte* const literals_end = literal + literals.size();
  std::byte* to = out.data();
  std::byte* const end = to + out.size();
  for (; count > 0; --count) {
    const Entry& l = literals_.entries[literal_state];
    const Entry& m = matches_.entries[match_state];
    unsigned used = m.extra;
    const std::size_t match = m.base + bits.field(used, m.extra);
    used += l.extra;
    const std::size_t length = l.base + bits.field(used, l.extra);
    if (count > 1) {  // after the last one, no states follow
      used += l.bits;
      literal_state = l.next + bits.field(used, l.bits);
      used += m.bits;
      match_state = m.next + bits.field(used, m.bits);
    }
    bits.drop(used);
    if (!bits.enough() && bits.left() < 0) return 0;
    bits.refill();

    // Without a literal in front, offset code 0 would mean another offset.
    if (length == 0 || length > static_cast<std::size_t>(literals_end - literal)) return 0;
    const auto room = static_cast<std::size_t>(end - to);
    if (length + match > room) return 0;
    const int value = std::to_integer<int>(literal[length - 1]);
    if (length <= kUsualLiterals && match <= kUsualMatch && room >= kUsualLiterals + kUsualMatch) {
      std::memcpy(to, literal, kUsualLiterals);
      std::memset(to + length, value, kUsualMatch);
    } else {
      std::memcpy(to, literal, length);
      std::memset(to + length, value, match);
    }
    literal += length;
    to += length + match;
  }
  if (bits.left() != 0) return 0;
  const auto rest = static_cast<std::size_t>(literals_end - literal);
  if (rest > static_cast<std::size_t>(end - to)) return 0;
  std::memcpy(to, literal, rest);
  return static_cast<std::size_t>(to - out.data()) + rest;
}

}  // namespace ostraca
