// What a save is going to do: sources cut into chunks, chunks gathered into batches that fit one output block.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/limits.h"
#include "codec/codec.h"
#include "container/directory.h"
#include "engine/grid.h"
#include "engine/keyframe.h"
#include "ostraca/writer.h"

namespace ostraca {

// Whether the chunks of an array are worth coding as deltas: found out from the first of every kDeltaGroup, as a
// hopeless array should cost next to nothing. It depends on the data alone, not on which thread comes first.
enum class DeltaWorth : std::uint8_t { kUnknown, kTry, kHopeless };
inline constexpr std::uint64_t kDeltaGroup = 16;  // chunks

// In a reference's file, for as long as the number of the process's own files is not known: the rest of it is the
// number of a file among those of the base that are referred to.
inline constexpr std::uint32_t kRefToBase = 1u << 31;

// An extent of the base.
struct BasePlace {
  std::uint32_t file;
  std::uint32_t extent;
};

// Fills in what may be left out of a source, and refuses what does not fit together.
Status normalize(ArraySource& source, std::uint32_t* item_bytes);
// Whether two sources are the same memory, read in the same way; a hash that is the same for these.
bool same_memory(const ArraySource& a, const ArraySource& b);
std::uint64_t memory_hash(const ArraySource& a);

// A source with its grid. Its address is stable; fragments point at it.
struct PlannedSource {
  // REQUIRES: the array's chunk shape is set.
  PlannedSource(ArraySource array, std::uint32_t item_bytes);
  PlannedSource(const PlannedSource&) = delete;
  PlannedSource& operator=(const PlannedSource&) = delete;

  // The chunk's bytes: C order, little-endian. REQUIRES: `out` has the chunk's size.
  void gather(std::uint64_t chunk, std::byte* out) const;
  // The same, for a copy that is read later.
  void stage(std::uint64_t chunk, std::byte* out) const;
  // The chunk's bytes where they lie, if they already have that form; null otherwise.
  const std::byte* in_place(std::uint64_t chunk) const;
  std::uint32_t chunk_bytes(std::uint64_t chunk) const;

  ArraySource array;
  std::uint32_t item_bytes;
  std::uint64_t bytes;
  Grid grid;
  BaseChunks base;
  std::vector<DeltaWorth> delta_worth;  // of each group of chunks; guarded by the pipeline's mutex
  ShortVector<ChunkRef, 1> refs;        // filled in by the pipeline, one for each chunk
  std::uint64_t unread_chunks;          // guarded by the pipeline's mutex

 private:
  const std::byte* locate(std::uint64_t chunk, Dims& box_shape) const;
};

// A chunk's place in a piece.
struct Fragment {
  PlannedSource* source;
  std::uint64_t chunk;
  std::uint32_t offset;  // in the piece's decoded bytes
};

// What becomes one extent: a chunk, or a pack of small arrays.
struct Piece {
  ElementFormat format;
  std::uint32_t decoded_bytes = 0;
  std::vector<Fragment> fragments;
  std::optional<BasePlace> base = {};  // what is at the same place there: the same chunk, or a pack of the same arrays
};

// What one output block holds, whatever it compresses to.
struct Batch {
  std::vector<Piece> pieces;
  std::size_t decoded_bytes = 0;
  bool reads_mutable_memory = false;
};

// Gathers pieces into batches, in order. The first batch leaves room for the file's header.
class BatchBuilder {
 public:
  // Returns the batch that `piece` did not fit into, if that is now full; otherwise an empty one.
  Batch add(Piece piece);
  Batch take();  // what has been gathered; may be empty

 private:
  Batch batch_;
  std::size_t room_ = kBlockBytes - kHeaderBytes;
};

// Small arrays, to be packed when all of them are known. Packs that the base has are made again, whatever came and went
// elsewhere, so that they can be compared; of the others those of one dtype share pieces, in the order of names.
class Packer {
 public:
  // REQUIRES: the name lives until take().
  void add(PlannedSource* source, std::string_view name);
  std::vector<Piece> take();

 private:
  struct Member {
    DType dtype;
    std::string_view name;  // a leaf's small shards share it
    PlannedSource* source;
    std::optional<ChunkRef> base;
  };
  void take_packs_of_base(std::vector<Piece>& pieces);

  std::vector<Member> members_;
};

}  // namespace ostraca
