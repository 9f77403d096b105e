// The sequences section of a zstd block (RFC 8878, 3.1.1.3.2): runs of zeros, each a match that repeats the byte
// before.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/bytes.h"
#include "codec/fse.h"
#include "codec/zero_runs.h"

namespace ostraca {

// The lengths of a sequence are coded one by one: a code, and the bits that tell between the lengths that share it.
inline constexpr std::size_t kLiteralCodes = 36, kMatchCodes = 53;
static_assert(kMatchCodes <= kFseSymbolsMax);

// Writes the sections of one frame's blocks. All share the tables, which the first one describes.
class SequencesWriter {
 public:
  // Room that the section of so many runs takes at most.
  static constexpr std::size_t room(std::size_t runs) { return 3 + 1 + 2 * kSharesBytesMax + 1 + 7 * runs + 16; }

  void begin(std::span<const ZeroRun> runs);  // of all blocks
  // Returns the section's end. REQUIRES: one run or more, room(runs.size()) bytes.
  std::byte* put(std::span<const ZeroRun> runs, std::byte* out) const;
  void described() { described_ = true; }  // what was put last is kept: from now on it need not be said again
  bool is_described() const { return described_; }
  std::size_t description_bytes() const { return 1 + literals_.description_bytes + zeros_.description_bytes; }

 private:
  struct Lengths {
    bool single = false;                                 // all have one code
    FseCoder coder;                                      // if not
    std::array<std::byte, kSharesBytesMax> description;  // the code, or how the states are shared
    std::size_t description_bytes = 0;
    void begin(std::span<const std::uint32_t> counts);
    std::byte* describe(std::byte* out) const;
  };
  Lengths literals_, zeros_;
  bool described_ = false;
};

// Reads such sections, whoever wrote them. The bytes may be malicious.
class SequencesReader {
 public:
  void begin() { literals_.known = matches_.known = false; }  // another frame

  // Whether a section begins as those that read() takes.
  static bool takes(Bytes section) {
    Header header;
    return read_header(section, &header);
  }
  // Fills the front of `out` with what a block's literals and sequences say, and returns its bytes; 0 if they are not
  // of this kind, or not valid. Writes nothing outside of `out`. REQUIRES: 8 readable bytes before the section,
  // kLiteralsSlack after the literals.
  std::size_t read(Bytes section, Bytes literals, MutableBytes out);

 private:
  struct Entry {
    std::uint32_t base;  // the shortest length
    std::uint8_t extra;  // bits that tell how much longer
    std::uint8_t bits;   // of the next state
    std::uint16_t next;  // from where on
  };
  struct Table {
    bool known = false;
    unsigned bits = 0;
    std::array<Entry, std::size_t{1} << kFseBitsMax> entries;
  };
  struct Header {
    std::size_t count = 0;  // of sequences
    unsigned modes = 0;     // of the tables of literal lengths, offsets, match lengths
    std::size_t bytes = 0;
  };
  struct Field;
  static bool read_header(Bytes section, Header* header);
  static bool read_table(unsigned mode, const Field& field, Bytes* in, Table* table);
  std::size_t execute(Bytes stream, std::size_t count, Bytes literals, MutableBytes out) const;

  Table literals_, matches_;
};

}  // namespace ostraca
