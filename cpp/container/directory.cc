#include "container/directory.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/checked.h"
#include "base/limits.h"
#include "container/directory_checks.h"

namespace ostraca {
namespace {

constexpr std::size_t kHeadBytes = 64;
constexpr std::size_t kFileBytes = 40;
constexpr std::size_t kLeafBytes = 48;
constexpr std::size_t kShardBytes = 24;
constexpr std::size_t kRefBytes = 16;
constexpr std::size_t kDimBytes = 8;
// Bytes of one entry of each section, in their order; the head counts entries in the same order.
constexpr std::array<std::size_t, 6> kEntryBytes = {kFileBytes, kLeafBytes, kShardBytes, kRefBytes, kDimBytes, 1};
constexpr std::array<const char*, 6> kSectionNames = {"files", "leaves", "shards", "references", "dimensions", "text"};

void store_file(const FileRecord& file, std::byte* p) {
  store_le(p, file.bytes);
  store_le(p + 8, file.footer_crc);
  store_le(p + 12, file.process_index);
  std::memcpy(p + 16, file.id.bytes.data(), file.id.bytes.size());
  store_le(p + 32, static_cast<std::uint8_t>(file.in_base));
  store_le(p + 34, static_cast<std::uint16_t>(file.part));
  store_le(p + 36, file.shift);
}

void store_leaf(const LeafRecord& leaf, std::byte* p) {
  store_le(p, leaf.path_offset);
  store_le(p + 8, leaf.path_bytes);
  store_le(p + 12, static_cast<std::uint8_t>(leaf.kind));
  store_le(p + 13, static_cast<std::uint8_t>(leaf.dtype));
  store_le(p + 14, static_cast<std::uint8_t>(leaf.big_endian));
  store_le(p + 15, leaf.rank);
  store_le(p + 16, leaf.dims);
  store_le(p + 24, leaf.first_shard);
  store_le(p + 32, leaf.shard_count);
  store_le(p + 36, leaf.detail_bytes);
  store_le(p + 40, leaf.detail_offset);
}

void store_shard(const ShardRecord& shard, std::byte* p) {
  store_le(p, shard.dims);
  store_le(p + 8, shard.first_ref);
  store_le(p + 16, shard.process);
}

void store_ref(const ChunkRef& ref, std::byte* p) {
  store_le(p, ref.file);
  store_le(p + 4, ref.extent);
  store_le(p + 8, ref.offset);
}

// Loaders return null, or what is wrong with the entry.
const char* load_file(const std::byte* p, FileRecord* file) {
  file->bytes = load_le<std::uint64_t>(p);
  file->footer_crc = load_le<std::uint32_t>(p + 8);
  file->process_index = load_le<std::uint32_t>(p + 12);
  std::memcpy(file->id.bytes.data(), p + 16, file->id.bytes.size());
  const auto origin = load_le<std::uint8_t>(p + 32);
  file->in_base = origin == 1;
  if (origin > 1) return "origin: expected 0 or 1";
  file->part = load_le<std::uint16_t>(p + 34);
  file->shift = load_le<std::uint32_t>(p + 36);
  return all_zero(Bytes(p + 33, 1)) ? nullptr : "reserved bytes are not zero";
}

const char* load_leaf(const std::byte* p, LeafRecord* leaf) {
  leaf->path_offset = load_le<std::uint64_t>(p);
  leaf->path_bytes = load_le<std::uint32_t>(p + 8);
  const auto kind = load_le<std::uint8_t>(p + 12);
  const auto dtype = load_le<std::uint8_t>(p + 13);
  const auto order = load_le<std::uint8_t>(p + 14);
  leaf->kind = static_cast<LeafKind>(kind);
  leaf->dtype = static_cast<DType>(dtype);
  leaf->big_endian = order == 1;
  leaf->rank = load_le<std::uint8_t>(p + 15);
  leaf->dims = load_le<std::uint64_t>(p + 16);
  leaf->first_shard = load_le<std::uint64_t>(p + 24);
  leaf->shard_count = load_le<std::uint32_t>(p + 32);
  leaf->detail_bytes = load_le<std::uint32_t>(p + 36);
  leaf->detail_offset = load_le<std::uint64_t>(p + 40);
  if (kind < 1 || kind > static_cast<unsigned>(LeafKind::kByteStrings)) return "kind: expected 1 to 13";
  if (dtype >= kDTypeCount) return "dtype: expected at most 37";
  return order > 1 ? "byte order: expected 0 or 1" : nullptr;
}

const char* load_shard(const std::byte* p, ShardRecord* shard) {
  shard->dims = load_le<std::uint64_t>(p);
  shard->first_ref = load_le<std::uint64_t>(p + 8);
  shard->process = load_le<std::uint32_t>(p + 16);
  return load_le<std::uint32_t>(p + 20) == 0 ? nullptr : "reserved bytes are not zero";
}

const char* load_ref(const std::byte* p, ChunkRef* ref) {
  ref->file = load_le<std::uint32_t>(p);
  ref->extent = load_le<std::uint32_t>(p + 4);
  ref->offset = load_le<std::uint32_t>(p + 8);
  return load_le<std::uint32_t>(p + 12) == 0 ? nullptr : "reserved bytes are not zero";
}

template <class T>
Status load_section(Bytes section, const char* name, std::size_t entry_bytes, const char* (*load)(const std::byte*, T*),
                    std::vector<T>* out) {
  out->resize(section.size() / entry_bytes);
  const std::byte* p = section.data();
  for (std::size_t i = 0; i < out->size(); ++i, p += entry_bytes)
    if (const char* problem = load(p, &(*out)[i]))
      return format_error("directory: " + std::string(name) + "[" + std::to_string(i) + "]: " + problem);
  return {};
}

// Cuts the sections out; they fill `bytes` exactly.
Status split_sections(Bytes bytes, std::array<Bytes, 6>* sections) {
  if (bytes.size() < kHeadBytes || bytes.size() > kDirectoryBytesMax)
    return format_error("directory: expected 64 bytes to 2 GiB, found " + std::to_string(bytes.size()));
  if (!all_zero(bytes.subspan(48, 16))) return format_error("directory: reserved bytes are not zero");
  std::uint64_t at = kHeadBytes;
  for (std::size_t i = 0; i < sections->size(); ++i) {
    const auto count = load_le<std::uint64_t>(bytes.data() + 8 * i);
    std::uint64_t length = 0;
    if (!checked_mul(count, kEntryBytes[i], &length) || !inside(at, length, bytes.size()))
      return format_error("directory: " + std::to_string(count) + " " + kSectionNames[i] +
                          " do not fit: " + std::to_string(bytes.size() - at) + " bytes are left");
    (*sections)[i] = bytes.subspan(at, length);
    at += length;
  }
  if (at != bytes.size())
    return format_error("directory: sections end at byte " + std::to_string(at) + " of " +
                        std::to_string(bytes.size()));
  return {};
}

// Chunks of a shard, with the bytes of each, in C order.
class ChunkBytes {
 public:
  // REQUIRES: check_leaves accepted the shard, so that no product overflows.
  ChunkBytes(std::span<const std::uint64_t> shape, std::span<const std::uint64_t> chunk, std::uint64_t item)
      : shape_(shape), chunk_(chunk), item_(item) {}

  std::uint64_t current() const {
    std::uint64_t bytes = item_;
    for (std::size_t d = 0; d < shape_.size(); ++d) bytes *= std::min(chunk_[d], shape_[d] - corner_[d]);
    return bytes;
  }
  // False after the last chunk.
  bool next() {
    for (std::size_t d = shape_.size(); d-- > 0;) {
      if (chunk_[d] < shape_[d] - corner_[d]) return corner_[d] += chunk_[d], true;
      corner_[d] = 0;
    }
    return false;
  }

 private:
  std::span<const std::uint64_t> shape_;
  std::span<const std::uint64_t> chunk_;
  std::uint64_t item_;
  std::array<std::uint64_t, kRankMax> corner_{};
};

Status check_reference(const ChunkRef& ref, std::uint64_t bytes,
                       std::span<const std::vector<Extent>* const> extents_of) {
  if (ref.file >= extents_of.size())
    return format_error("file " + std::to_string(ref.file) + " of " + std::to_string(extents_of.size()));
  const std::vector<Extent>* extents = extents_of[ref.file];
  if (extents == nullptr) return {};
  if (ref.extent >= extents->size())
    return format_error("extent " + std::to_string(ref.extent) + " of the " + std::to_string(extents->size()) +
                        " in file " + std::to_string(ref.file));
  const std::uint64_t held = (*extents)[ref.extent].decoded_bytes;
  if (!inside(ref.offset, bytes, held))
    return format_error("offset " + std::to_string(ref.offset) + " + " + std::to_string(bytes) +
                        " bytes of a chunk > " + std::to_string(held) + " decoded bytes of extent " +
                        std::to_string(ref.extent) + " in file " + std::to_string(ref.file));
  return {};
}

// Fills `directory`. `complete`: it is an index's.
Status decode_directory(Bytes bytes, bool complete, Directory& directory) {
  std::array<Bytes, 6> sections;
  OSTRACA_RETURN_IF_ERROR(split_sections(bytes, &sections));
  OSTRACA_RETURN_IF_ERROR(load_section(sections[0], "files", kFileBytes, load_file, &directory.files));
  OSTRACA_RETURN_IF_ERROR(load_section(sections[1], "leaves", kLeafBytes, load_leaf, &directory.leaves));
  OSTRACA_RETURN_IF_ERROR(load_section(sections[2], "shards", kShardBytes, load_shard, &directory.shards));
  OSTRACA_RETURN_IF_ERROR(load_section(sections[3], "references", kRefBytes, load_ref, &directory.refs));
  directory.dims.resize(sections[4].size() / kDimBytes);
  if (!sections[4].empty()) std::memcpy(directory.dims.data(), sections[4].data(), sections[4].size());
  directory.text = as_text(sections[5]);
  OSTRACA_RETURN_IF_ERROR(check_files(directory, complete));
  OSTRACA_RETURN_IF_ERROR(check_leaves(directory, complete));
  OSTRACA_RETURN_IF_ERROR(check_shared_references(directory));
  OSTRACA_RETURN_IF_ERROR(check_key_paths(directory));
  return complete ? check_strings(directory) : Status();
}

}  // namespace

std::uint32_t Directory::own_files() const {
  const auto end = std::ranges::partition_point(files, [](const FileRecord& file) { return !file.in_base; });
  return static_cast<std::uint32_t>(end - files.begin());
}

std::uint64_t Directory::add_dims(std::span<const std::uint64_t> values) {
  const std::uint64_t place = dims.size();
  dims.insert(dims.end(), values.begin(), values.end());
  return place;
}

std::uint64_t Directory::add_text(std::string_view value) {
  const std::uint64_t place = text.size();
  text.append(value);
  return place;
}

bool grid_count(std::span<const std::uint64_t> shape, std::span<const std::uint64_t> chunk_shape,
                std::uint64_t* count) {
  if (std::ranges::find(shape, 0u) != shape.end()) return *count = 0, true;
  *count = 1;
  for (std::size_t d = 0; d < shape.size(); ++d)
    if (chunk_shape[d] == 0 ||
        !checked_mul(*count, shape[d] / chunk_shape[d] + (shape[d] % chunk_shape[d] != 0), count))
      return false;
  return true;
}

std::vector<std::byte> encode_directory(const Directory& directory) {
  const std::array<std::uint64_t, 6> counts = {directory.files.size(), directory.leaves.size(), directory.shards.size(),
                                               directory.refs.size(),  directory.dims.size(),   directory.text.size()};
  std::size_t total = kHeadBytes;
  for (std::size_t i = 0; i < counts.size(); ++i) total += counts[i] * kEntryBytes[i];
  std::vector<std::byte> out(total);  // zeroed: reserved fields need no stores
  std::byte* p = out.data();
  for (std::size_t i = 0; i < counts.size(); ++i) store_le(p + 8 * i, counts[i]);
  p += kHeadBytes;
  for (const FileRecord& file : directory.files) store_file(file, p), p += kFileBytes;
  for (const LeafRecord& leaf : directory.leaves) store_leaf(leaf, p), p += kLeafBytes;
  for (const ShardRecord& shard : directory.shards) store_shard(shard, p), p += kShardBytes;
  for (const ChunkRef& ref : directory.refs) store_ref(ref, p), p += kRefBytes;
  if (!directory.dims.empty()) std::memcpy(p, directory.dims.data(), directory.dims.size() * kDimBytes);
  p += directory.dims.size() * kDimBytes;
  if (!directory.text.empty()) std::memcpy(p, directory.text.data(), directory.text.size());
  return out;
}

Result<DataDirectory> decode_data_directory(Bytes bytes) {
  DataDirectory directory;
  OSTRACA_RETURN_IF_ERROR(decode_directory(bytes, false, directory));
  return directory;
}

Result<IndexDirectory> decode_index_directory(Bytes bytes) {
  IndexDirectory directory;
  OSTRACA_RETURN_IF_ERROR(decode_directory(bytes, true, directory));
  return directory;
}

namespace {

// Calls visit(leaf, number of the shard in it, number of the chunk, reference, bytes) for every chunk, until it says
// false. Shards that share references share their whole grid (check_shared_references): one of them speaks for all, and
// the work stays proportional to the references.
template <class Visit>
void for_each_reference(const Directory& directory, Visit visit) {
  std::vector<bool> seen(directory.refs.size());
  for (const LeafRecord& leaf : directory.leaves) {
    if (leaf.shard_count == 0) continue;
    const std::uint64_t item = *item_bytes(leaf.dtype, directory.detail(leaf));  // check_leaves accepted it
    for (std::size_t s = 0; s < leaf.shard_count; ++s) {
      const ShardRecord& shard = directory.shards[leaf.first_shard + s];
      if (seen[shard.first_ref]) continue;
      seen[shard.first_ref] = true;
      ChunkBytes chunk(directory.shard_shape(leaf, shard), directory.chunk_shape(leaf, shard), item);
      std::uint64_t i = 0;
      do {
        if (!visit(leaf, s, i, directory.refs[shard.first_ref + i], chunk.current())) return;
        ++i;
      } while (chunk.next());
    }
  }
}

}  // namespace

Status check_references(const Directory& directory, std::span<const std::vector<Extent>* const> extents_of) {
  Status status;
  for_each_reference(
      directory, [&](const LeafRecord& leaf, std::size_t shard, std::uint64_t chunk, const ChunkRef& ref, auto bytes) {
        const Status found = check_reference(ref, bytes, extents_of);
        if (!found.ok())
          status = leaf_error(
              directory, leaf,
              "shard " + std::to_string(shard) + ": chunk " + std::to_string(chunk) + ": " + found.message());
        return found.ok();
      });
  return status;
}

ReferencesByFile::ReferencesByFile(const Directory& directory) : begin_(directory.files.size() + 1) {
  const auto for_each = [&](auto visit) {
    for_each_reference(directory, [&](const LeafRecord&, std::size_t, std::uint64_t, const ChunkRef& ref, auto bytes) {
      visit(ref, static_cast<std::uint32_t>(ref.offset + bytes));  // fits: both are at most 4 MiB
      return true;
    });
  };
  for_each([&](const ChunkRef& ref, std::uint32_t) { ++begin_[ref.file + 1]; });
  for (std::size_t i = 1; i < begin_.size(); ++i) begin_[i] += begin_[i - 1];
  needs_.resize(begin_.back());
  std::vector<std::size_t> next = begin_;
  for_each([&](const ChunkRef& ref, std::uint32_t end) { needs_[next[ref.file]++] = {ref.extent, end}; });
}

bool ReferencesByFile::fit(std::uint32_t file, const std::vector<Extent>& extents) const {
  for (std::size_t i = begin_[file]; i < begin_[file + 1]; ++i)
    if (needs_[i].extent >= extents.size() || needs_[i].end > extents[needs_[i].extent].decoded_bytes) return false;
  return true;
}

}  // namespace ostraca
