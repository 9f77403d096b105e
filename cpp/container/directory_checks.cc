#include "container/directory_checks.h"

#include <algorithm>
#include <limits>

#include "base/checked.h"
#include "base/limits.h"
#include "container/key_path.h"

namespace ostraca {
namespace {

// Bytes and dimensions of an array: strides and offsets in memory are signed.
constexpr std::uint64_t kArrayBytesMax = std::numeric_limits<std::int64_t>::max();
// Steps of check_disjoint over a whole directory: a floor, and what a shard may cost on average.
constexpr std::uint64_t kDisjointStepsMin = 1u << 28;
constexpr std::uint64_t kDisjointStepsPerShard = 256;

// What a missing element is, and whether only text may be assigned (docs/format.md, section 6).
constexpr std::string_view kStringsDetails[] = {"", "na=nan", "na=none", "strict", "strict na=nan", "strict na=none"};

std::string in_dimension(std::size_t d) { return " in dimension " + std::to_string(d); }

Status check_kind(const Directory& directory, const LeafRecord& leaf) {
  const auto bad = [&](const char* expected) {
    return leaf_error(directory, leaf,
                      "kind " + std::to_string(static_cast<unsigned>(leaf.kind)) + ": expected " + expected +
                          ", found dtype " + dtype_info(leaf.dtype).name + " of rank " + std::to_string(leaf.rank));
  };
  const auto is = [&](DType dtype, unsigned rank) { return leaf.dtype == dtype && leaf.rank == rank; };
  switch (leaf.kind) {
    case LeafKind::kArray:
      if (leaf.dtype == DType::kNone) return bad("a dtype");
      return {};
    case LeafKind::kPrngKey:
      // Its detail is the implementation's name, so the dtype can't need one.
      if (leaf.dtype == DType::kNone || leaf.dtype >= DType::kDatetime64) return bad("a dtype without detail");
      if (leaf.detail_bytes == 0 || !valid_utf8(directory.detail(leaf)))
        return bad("an implementation's name in UTF-8");
      return {};
    case LeafKind::kInt:
      if (!is(DType::kUint8, 1) || directory.shape(leaf)[0] == 0) return bad("uint8 [n], n >= 1");
      break;
    case LeafKind::kFloat:
      if (!is(DType::kFloat64, 0)) return bad("float64 []");
      break;
    case LeafKind::kBool:
      if (!is(DType::kBool, 0)) return bad("bool []");
      break;
    case LeafKind::kStr:
    case LeafKind::kBytes:
      if (!is(DType::kUint8, 1)) return bad("uint8 [n]");
      break;
    case LeafKind::kStrings:
    case LeafKind::kByteStrings:
      if (leaf.dtype != DType::kUint64 || leaf.big_endian) return bad("little-endian uint64");
      if (leaf.kind == LeafKind::kByteStrings) break;
      return std::ranges::find(kStringsDetails, directory.detail(leaf)) != std::end(kStringsDetails)
                 ? Status()
                 : bad("a detail that says what is missing");
    default:
      if (!is(DType::kNone, 0)) return bad("no dtype and rank 0");
  }
  return leaf.detail_bytes == 0 ? Status() : bad("no detail");
}

// Places in text and dimensions, and what kind, dtype, detail and byte order allow together. Sets the item bytes.
Status check_leaf_fields(const Directory& directory, const LeafRecord& leaf, std::uint64_t* item) {
  if (leaf.detail_bytes > kDetailBytesMax)
    return leaf_error(directory, leaf,
                      "detail: expected at most 1024 bytes, found " + std::to_string(leaf.detail_bytes));
  if (!inside(leaf.detail_offset, leaf.detail_bytes, directory.text.size()))
    return leaf_error(directory, leaf, "detail lies outside the text");
  if (leaf.rank > kRankMax)
    return leaf_error(directory, leaf, "rank: expected at most 64, found " + std::to_string(leaf.rank));
  if (!inside(leaf.dims, leaf.rank, directory.dims.size()))
    return leaf_error(directory, leaf, "global shape lies outside the dimensions");
  OSTRACA_RETURN_IF_ERROR(check_kind(directory, leaf));
  if (leaf.kind == LeafKind::kArray && leaf.dtype < DType::kDatetime64 && leaf.detail_bytes != 0)
    return leaf_error(directory, leaf, std::string("dtype ") + dtype_info(leaf.dtype).name + " has no detail");
  if (leaf.big_endian && dtype_info(leaf.dtype).scalar_bytes < 2)
    return leaf_error(directory, leaf, std::string("dtype ") + dtype_info(leaf.dtype).name + " has no byte order");
  const Result<std::uint32_t> bytes = item_bytes(leaf.dtype, directory.detail(leaf));
  if (!bytes.ok()) return leaf_error(directory, leaf, bytes.status().message());
  *item = *bytes;
  return {};
}

// Sets the number of elements.
Status check_shape(const Directory& directory, const LeafRecord& leaf, std::uint64_t item, std::uint64_t* elements) {
  const std::span<const std::uint64_t> shape = directory.shape(leaf);
  std::uint64_t bytes = 0;
  bool fits = checked_volume(shape, std::max<std::uint64_t>(item, 1), &bytes) && bytes <= kArrayBytesMax;
  for (std::uint64_t extent : shape) fits = fits && extent <= kArrayBytesMax;
  if (!fits) return leaf_error(directory, leaf, "global shape: expected fewer than 2^63 bytes");
  *elements = bytes / std::max<std::uint64_t>(item, 1);
  return {};
}

// One shard by itself: its box, grid and references.
Status check_shard(const Directory& directory, const LeafRecord& leaf, const ShardRecord& shard, std::uint64_t item) {
  const auto bad = [&](const std::string& message) {
    const std::size_t number = static_cast<std::size_t>(&shard - directory.shards.data()) - leaf.first_shard;
    return leaf_error(directory, leaf, "shard " + std::to_string(number) + " " + message);
  };
  if (!inside(shard.dims, 3u * leaf.rank, directory.dims.size())) return bad("has a box outside the dimensions");
  const auto global = directory.shape(leaf);
  const auto offset = directory.shard_offset(leaf, shard);
  const auto shape = directory.shard_shape(leaf, shard);
  const auto chunk = directory.chunk_shape(leaf, shard);
  std::uint64_t chunk_bytes = item;
  for (std::size_t d = 0; d < leaf.rank; ++d) {
    if (!inside(offset[d], shape[d], global[d]))
      return bad("lies outside the global shape: offset " + std::to_string(offset[d]) + " + shape " +
                 std::to_string(shape[d]) + " > " + std::to_string(global[d]) + in_dimension(d));
    if (shape[d] == 0) return bad("is empty" + in_dimension(d));
    if (chunk[d] == 0) return bad("has an empty chunk shape" + in_dimension(d));
    chunk_bytes *= std::min(chunk[d], shape[d]);  // no overflow: at most the bytes of the global shape
  }
  if (chunk_bytes > kChunkBytesMax)
    return bad("has chunks of " + std::to_string(chunk_bytes) + " bytes: expected at most 4 MiB");
  std::uint64_t chunks = 0;
  if (!grid_count(shape, chunk, &chunks) || !inside(shard.first_ref, chunks, directory.refs.size()))
    return bad("has " + std::to_string(chunks) + " chunks from reference " + std::to_string(shard.first_ref) + " of " +
               std::to_string(directory.refs.size()));
  return {};
}

Status check_shards(const Directory& directory, const LeafRecord& leaf, std::uint64_t item, std::uint64_t elements,
                    bool complete, std::uint64_t* budget) {
  const bool has_bytes = kind_has_data(leaf.kind) && item > 0 && elements > 0;
  if (!has_bytes && leaf.shard_count != 0)
    return leaf_error(directory, leaf, "expected no shards, found " + std::to_string(leaf.shard_count));
  for (const ShardRecord& shard : directory.shards_of(leaf))
    OSTRACA_RETURN_IF_ERROR(check_shard(directory, leaf, shard, item));
  if (leaf.shard_count > 1) OSTRACA_RETURN_IF_ERROR(check_disjoint(directory, leaf, budget));
  if (!has_bytes || !complete) return {};
  std::uint64_t covered = 0;  // at most `elements`, as the shards are disjoint
  for (const ShardRecord& shard : directory.shards_of(leaf)) {
    std::uint64_t volume = 0;
    if (!checked_volume(directory.shard_shape(leaf, shard), 1, &volume)) volume = 0;
    covered += volume;
  }
  if (covered != elements)
    return leaf_error(directory, leaf,
                      "its shards cover " + std::to_string(covered) + " of " + std::to_string(elements) + " elements");
  return {};
}

Status check_processes(const Directory& directory, bool complete) {
  // A data file's directory does not know how many processes there are.
  const std::uint64_t processes = complete ? directory.processes() : kProcessCountMax;
  for (std::size_t i = 0; i < directory.shards.size(); ++i)
    if (directory.shards[i].process >= processes)
      return format_error("directory: shard " + std::to_string(i) + ": process: expected less than " +
                          std::to_string(processes) + ", found " + std::to_string(directory.shards[i].process));
  return {};
}

struct RefRange {
  std::uint64_t first = 0;
  std::uint64_t end = 0;
  std::uint32_t leaf = 0;
  std::uint32_t shard = 0;
};

bool same_grid(const Directory& directory, const RefRange& a, const RefRange& b) {
  const LeafRecord& leaf_a = directory.leaves[a.leaf];
  const LeafRecord& leaf_b = directory.leaves[b.leaf];
  const ShardRecord& shard_a = directory.shards[a.shard];
  const ShardRecord& shard_b = directory.shards[b.shard];
  const auto item_a = item_bytes(leaf_a.dtype, directory.detail(leaf_a));
  const auto item_b = item_bytes(leaf_b.dtype, directory.detail(leaf_b));
  return a.first == b.first && a.end == b.end && *item_a == *item_b &&
         std::ranges::equal(directory.shard_shape(leaf_a, shard_a), directory.shard_shape(leaf_b, shard_b)) &&
         std::ranges::equal(directory.chunk_shape(leaf_a, shard_a), directory.chunk_shape(leaf_b, shard_b));
}

}  // namespace

Status leaf_error(const Directory& directory, const LeafRecord& leaf, const std::string& message) {
  return format_error("leaf '" + printable_name(directory.path(leaf)) + "': " + message);
}

namespace {

Status file_error(std::size_t i, const std::string& message) {
  return format_error("directory: file " + std::to_string(i) + ": " + message);
}

// One entry by itself.
Status check_file(const FileRecord& file, std::size_t i, bool is_itself) {
  if (file.process_index >= kProcessCountMax)
    return file_error(i, "process index: expected less than " + std::to_string(kProcessCountMax) + ", found " +
                             std::to_string(file.process_index));
  if (!is_itself && file.bytes < kHeaderBytes + kFooterBytes)
    return file_error(i, std::to_string(file.bytes) + " bytes hold no header and footer");
  if (!file.in_base && file.shift != 0) return file_error(i, "is not of the base, and has a number in its index");
  // Each part but a process's first shifts those after it by one.
  if (file.in_base && (file.shift < file.part || file.shift >= kFileCountMax))
    return file_error(i, "its number in the base's index exceeds its process index by " + std::to_string(file.shift) +
                             ": expected " + std::to_string(file.part) + " to " + std::to_string(kFileCountMax - 1));
  return {};
}

// The process's files up to this one, which is the last of them; or this one alone, and then others come after it.
Status check_own_files_of_data_file(const Directory& directory, std::size_t own) {
  const auto bad = [](const std::string& message) { return format_error("directory: " + message); };
  const std::vector<FileRecord>& files = directory.files;
  if (own == 0 || files[own - 1].bytes != 0 || files[own - 1].footer_crc != 0)
    return bad("expected the data file itself, with size and CRC zero, last of the process's own");
  for (std::size_t i = 0; own > 1 && i < own; ++i)
    if (files[i].process_index != files[0].process_index || files[i].part != i)
      return file_error(i, "expected part " + std::to_string(i) + " of the process's files");
  if (own == 1 && files[0].part > 0 && (!directory.leaves.empty() || files.size() > 1))
    return bad("a part before the last says nothing of leaves: expected none, and no files but itself");
  return {};
}

}  // namespace

Status check_files(const Directory& directory, bool complete) {
  const std::vector<FileRecord>& files = directory.files;
  const auto own = static_cast<std::size_t>(std::ranges::find(files, true, &FileRecord::in_base) - files.begin());
  for (std::size_t i = 0; i < files.size(); ++i) {
    OSTRACA_RETURN_IF_ERROR(check_file(files[i], i, !complete && i + 1 == own));
    if (i > 0 && files[i].in_base < files[i - 1].in_base) return file_error(i, "comes after those of the base");
    if (i > 0 && files[i].in_base == files[i - 1].in_base && files[i].id != files[i - 1].id)
      return file_error(i, "has another attempt id than the file before it");
  }
  if (own > kFileCountMax)
    return format_error("directory: expected at most " + std::to_string(kFileCountMax) + " files, found " +
                        std::to_string(own));
  if (!complete) return check_own_files_of_data_file(directory, own);
  for (std::size_t i = 0; i < own; ++i)
    if (i == 0 ? files[i].process_index != 0 || files[i].part != 0 : !is_successor(files[i - 1], files[i]))
      return file_error(i, "is not in the order of process index and part: found process " +
                               std::to_string(files[i].process_index) + ", part " + std::to_string(files[i].part));
  return {};
}

Status check_leaves(const Directory& directory, bool complete) {
  // Key paths must not share text: a small directory could otherwise spell out terabytes of them.
  std::uint64_t path_bytes = 0;
  std::uint64_t next_shard = 0;
  std::uint64_t budget = kDisjointStepsMin + kDisjointStepsPerShard * directory.shards.size();
  for (const LeafRecord& leaf : directory.leaves) {
    if (leaf.path_bytes > kKeyPathBytesMax || !inside(leaf.path_offset, leaf.path_bytes, directory.text.size()))
      return format_error("directory: leaf " + std::to_string(&leaf - directory.leaves.data()) + ": key path of " +
                          std::to_string(leaf.path_bytes) + " bytes at " + std::to_string(leaf.path_offset) + " of " +
                          std::to_string(directory.text.size()) + " bytes of text");
    path_bytes += leaf.path_bytes;
    if (leaf.first_shard != next_shard || !inside(next_shard, leaf.shard_count, directory.shards.size()))
      return leaf_error(directory, leaf,
                        std::to_string(leaf.shard_count) + " shards from " + std::to_string(leaf.first_shard) +
                            ": expected from " + std::to_string(next_shard) + " within " +
                            std::to_string(directory.shards.size()));
    next_shard += leaf.shard_count;
    std::uint64_t item = 0;
    std::uint64_t elements = 0;
    OSTRACA_RETURN_IF_ERROR(check_leaf_fields(directory, leaf, &item));
    OSTRACA_RETURN_IF_ERROR(check_shape(directory, leaf, item, &elements));
    OSTRACA_RETURN_IF_ERROR(check_shards(directory, leaf, item, elements, complete, &budget));
  }
  if (next_shard != directory.shards.size())
    return format_error("directory: leaves have " + std::to_string(next_shard) + " of " +
                        std::to_string(directory.shards.size()) + " shards");
  if (path_bytes > directory.text.size())
    return format_error("directory: key paths overlap: " + std::to_string(path_bytes) + " bytes in " +
                        std::to_string(directory.text.size()) + " bytes of text");
  return check_processes(directory, complete);
}

Status check_shared_references(const Directory& directory) {
  for (std::size_t i = 0; i < directory.refs.size(); ++i) {
    const ChunkRef& ref = directory.refs[i];
    if (ref.file >= directory.files.size() || ref.offset >= kChunkBytesMax)
      return format_error("directory: reference " + std::to_string(i) + ": offset " + std::to_string(ref.offset) +
                          " in file " + std::to_string(ref.file) + " of " + std::to_string(directory.files.size()));
  }
  std::vector<RefRange> ranges;
  ranges.reserve(directory.shards.size());
  bool ascending = true;  // as they are when nothing is tied, and then nothing is shared
  for (std::uint32_t l = 0; l < directory.leaves.size(); ++l) {
    const LeafRecord& leaf = directory.leaves[l];
    for (std::uint64_t s = leaf.first_shard; s < leaf.first_shard + leaf.shard_count; ++s) {
      const ShardRecord& shard = directory.shards[s];
      std::uint64_t count = 0;
      if (!grid_count(directory.shard_shape(leaf, shard), directory.chunk_shape(leaf, shard), &count)) count = 0;
      ascending = ascending && (ranges.empty() || ranges.back().end <= shard.first_ref);
      ranges.push_back({shard.first_ref, shard.first_ref + count, l, static_cast<std::uint32_t>(s)});
    }
  }
  if (ascending) return {};
  std::ranges::sort(ranges, {}, &RefRange::first);
  for (std::size_t i = 1; i < ranges.size(); ++i) {
    const RefRange& a = ranges[i - 1];
    const RefRange& b = ranges[i];
    if (b.first < a.end && !same_grid(directory, a, b))
      return leaf_error(directory, directory.leaves[b.leaf],
                        "shares some references with leaf '" +
                            printable_name(directory.path(directory.leaves[a.leaf])) + "', but not its whole grid");
  }
  return {};
}

}  // namespace ostraca
