// Loading and checking committed checkpoints.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ostraca/dims.h"
#include "ostraca/options.h"
#include "ostraca/status.h"
#include "ostraca/types.h"

namespace ostraca {

struct ReaderOptions {
  unsigned threads = 0;          // that decode; 0: the usable cores
  std::size_t coding_bytes = 0;  // of fetch buffers; 0: kCodingBytesDefault
  IoMode io = IoMode::kAuto;     // kAuto: the page cache when it is hot, else past it
};

// A box of a stored leaf and the memory that receives it.
struct ReadRequest {
  std::uint64_t leaf = 0;
  Dims start;                 // of the box in the leaf; empty: zeros
  Dims shape;                 // of the box
  std::byte* data = nullptr;  // element [0, ..., 0] of the box
  Strides strides;            // bytes, of `data`; empty: C order
  bool big_endian = false;    // the order wanted in memory
};

struct LeafInfo {
  std::string_view path;  // encoded key path; valid as long as the Reader
  LeafKind kind = LeafKind::kArray;
  DType dtype = DType::kNone;
  std::string_view detail;
  bool big_endian = false;
  DimsView shape;
  std::uint64_t bytes = 0;  // decoded
};

// One chunk of a leaf, for people and tools.
struct ChunkInfo {
  std::string file;
  std::uint64_t offset = 0;
  std::uint32_t stored_bytes = 0;   // of the whole extent
  std::uint32_t decoded_bytes = 0;  // of the whole extent
  Codec codec = Codec::kRaw;
  std::string hash;                     // hexadecimal
  std::uint32_t offset_in_extent = 0;   // of the chunk's decoded bytes: in packs
  bool in_base = false;                 // the file is the base's: a reference
  std::uint32_t base_stored_bytes = 0;  // of a delta: what else is read, the base's extent
  Dims origin;
  Dims shape;
};

struct ReadStatistics {
  std::uint64_t chunks_read = 0;
  std::uint64_t bytes_read = 0;  // stored bytes fetched
  std::uint64_t chunks_decoded = 0;
  std::uint64_t bytes_decoded = 0;
};

// A committed checkpoint, open. Thread-safe. Holds its files open (up to a limit), so that an overwrite of the
// checkpoint does not pull them away.
class Reader {
 public:
  static Result<std::unique_ptr<Reader>> open(const std::string& path, ReaderOptions options = {});
  virtual ~Reader() = default;

  virtual const std::string& manifest() const = 0;  // JSON text
  virtual std::uint64_t leaf_count() const = 0;
  virtual LeafInfo leaf(std::uint64_t i) const = 0;                       // REQUIRES: i < leaf_count()
  virtual Result<std::vector<ChunkInfo>> chunks(std::uint64_t leaf) = 0;  // REQUIRES: leaf < leaf_count()
  virtual Result<std::uint64_t> stored_bytes(std::uint64_t leaf) = 0;     // a pack counts by its share

  // Reads each chunk that is needed once, checks its CRC, decodes it and scatters it to every request. With `deep`
  // the content hash of every decoded chunk is checked too. On failure `modified`, if given, holds a flag for every
  // request: whether its memory has been written to.
  virtual Status read_into(std::span<const ReadRequest> requests, bool deep = false, const Poll& poll = {},
                           std::vector<bool>* modified = nullptr) = 0;
  virtual ReadStatistics statistics() const = 0;
};

struct Damage {
  std::string file;
  std::uint64_t offset = 0;
  std::string array;  // display name; empty when unknown or more than one
  std::string reason;
};

struct VerifyReport {
  std::uint64_t chunks = 0;
  std::uint64_t bytes = 0;
  std::vector<Damage> damaged;
  std::vector<Damage> unreadable;  // places that the operating system did not let us read: what they hold is not known
  bool ok() const { return damaged.empty() && unreadable.empty(); }
};

// Checks every byte of every file of a checkpoint, and with `deep` that every chunk decodes to the content it was
// made from. Goes on after damage and after errors of the system. Fails only where nothing can be said (kNotFound, an
// unreadable manifest, the caller cancelled).
Result<VerifyReport> verify(const std::string& path, bool deep = false, unsigned threads = 0, const Poll& poll = {});

}  // namespace ostraca
