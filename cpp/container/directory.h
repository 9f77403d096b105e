// The directory: leaves, shards and where their chunks are (docs/format.md, section 4). Bytes <-> structs, no I/O.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "container/file_format.h"
#include "ostraca/status.h"
#include "ostraca/types.h"

namespace ostraca {

struct FileRecord {
  std::uint64_t bytes = 0;
  std::uint32_t footer_crc = 0;
  std::uint32_t process_index = 0;
  CheckpointId id;
  bool in_base = false;
  std::uint32_t part = 0;
  std::uint32_t shift = 0;  // in_base: what its number in the base's index exceeds its process index by

  std::uint32_t base_number() const { return process_index + shift; }  // REQUIRES: in_base
  std::string name() const { return data_file_name(process_index, id, part); }
  bool operator==(const FileRecord&) const = default;
};

// Whether `next` comes after `file` in an index: it is the process's next part, or the next process's first.
inline bool is_successor(const FileRecord& file, const FileRecord& next) {
  if (next.process_index == file.process_index) return next.part == file.part + 1;
  return next.process_index == file.process_index + 1 && next.part == 0;
}

struct ChunkRef {
  std::uint32_t file = 0;
  std::uint32_t extent = 0;
  std::uint32_t offset = 0;
};

struct ShardRecord {
  std::uint64_t dims = 0;       // into Directory::dims: offset, shape, chunk shape, rank values each
  std::uint64_t first_ref = 0;  // into Directory::refs
  std::uint32_t process = 0;
};

struct LeafRecord {
  std::uint64_t path_offset = 0;  // into Directory::text
  std::uint32_t path_bytes = 0;
  LeafKind kind = LeafKind::kArray;
  DType dtype = DType::kNone;
  bool big_endian = false;
  std::uint8_t rank = 0;
  std::uint64_t dims = 0;  // into Directory::dims: the global shape
  std::uint64_t first_shard = 0;
  std::uint32_t shard_count = 0;
  std::uint32_t detail_bytes = 0;
  std::uint64_t detail_offset = 0;
};

// Flat tables, in the form they are stored in. Immutable once parsed, then safe to share between threads. This is what
// the directories of data files and of indexes share; each is a type of its own, for `files` means something else.
struct Directory {
  std::vector<FileRecord> files;
  std::vector<LeafRecord> leaves;
  std::vector<ShardRecord> shards;
  std::vector<ChunkRef> refs;
  std::vector<std::uint64_t> dims;
  std::string text;

  std::string_view path(const LeafRecord& leaf) const { return {text.data() + leaf.path_offset, leaf.path_bytes}; }
  std::string_view detail(const LeafRecord& leaf) const {
    return {text.data() + leaf.detail_offset, leaf.detail_bytes};
  }
  std::span<const std::uint64_t> shape(const LeafRecord& leaf) const { return {dims.data() + leaf.dims, leaf.rank}; }
  std::span<const ShardRecord> shards_of(const LeafRecord& leaf) const {
    return {shards.data() + leaf.first_shard, leaf.shard_count};
  }
  std::span<const std::uint64_t> shard_offset(const LeafRecord& leaf, const ShardRecord& shard) const {
    return {dims.data() + shard.dims, leaf.rank};
  }
  std::span<const std::uint64_t> shard_shape(const LeafRecord& leaf, const ShardRecord& shard) const {
    return {dims.data() + shard.dims + leaf.rank, leaf.rank};
  }
  std::span<const std::uint64_t> chunk_shape(const LeafRecord& leaf, const ShardRecord& shard) const {
    return {dims.data() + shard.dims + 2 * leaf.rank, leaf.rank};
  }

  // The checkpoint's own files, which come first, and how many processes wrote them. REQUIRES: check_files accepted.
  std::uint32_t own_files() const;
  std::uint32_t processes() const { return own_files() == 0 ? 0 : files[own_files() - 1].process_index + 1; }

  std::uint64_t add_dims(std::span<const std::uint64_t> values);  // returns their place
  std::uint64_t add_text(std::string_view value);

 protected:
  Directory() = default;
  Directory(const Directory&) = default;
  Directory(Directory&&) = default;
  Directory& operator=(const Directory&) = default;
  Directory& operator=(Directory&&) = default;
  ~Directory() = default;
};

// A data file's. First come the process's files up to this one, which cannot know its own size and checksum (docs/
// format.md, section 4), then the base's. All shards are of one process, and need not cover their leaves.
struct DataDirectory : Directory {
  DataDirectory() = default;
};

// An index's. Its files are all of the checkpoint, by process, then the base's. The shards cover their leaves.
struct IndexDirectory : Directory {
  IndexDirectory() = default;
};

// Number of chunks of a grid: product of ceil(shape / chunk_shape). False on overflow or a zero in the chunk shape.
bool grid_count(std::span<const std::uint64_t> shape, std::span<const std::uint64_t> chunk_shape, std::uint64_t* count);

std::vector<std::byte> encode_directory(const Directory& directory);

// Parses and checks everything that can be checked without the files: section sizes, offsets into sections, kinds,
// dtypes, details, key paths (well-formed, unique as paths and as names, containers agree), shapes without overflow,
// shards inside their leaf and disjoint, references inside the tables; and what the type of directory promises. A
// message names the leaf where there is one.
Result<DataDirectory> decode_data_directory(Bytes bytes);
Result<IndexDirectory> decode_index_directory(Bytes bytes);

// What references ask of one file at a time, for who opens many files of one directory: each reference is then looked
// at once, not once for each file. Immutable, so it may be shared between threads.
class ReferencesByFile {
 public:
  // REQUIRES: decoding accepted it.
  explicit ReferencesByFile(const Directory& directory);
  // Whether the extents of a file hold all chunks that refer to it; check_references says which one it is that does
  // not.
  bool fit(std::uint32_t file, const std::vector<Extent>& extents) const;

 private:
  struct Need {
    std::uint32_t extent;
    std::uint32_t end;  // in its decoded bytes
  };
  std::vector<std::size_t> begin_;  // of each file's; and the end
  std::vector<Need> needs_;
};

// Every reference points at an extent that holds its chunk. `extents_of[f]` is the table of file f; null: not checked.
Status check_references(const Directory& directory, std::span<const std::vector<Extent>* const> extents_of);

}  // namespace ostraca
