#include "engine/keyframe.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <string_view>
#include <utility>

#include "base/limits.h"
#include "checksum/crc32c.h"
#include "engine/lifetime.h"
#include "engine/stores.h"

namespace ostraca {
namespace {

constexpr char kOfThread[] = "a coding thread's memory for the base (threads= lowers it)";

std::size_t path_hash(std::string_view path) { return std::hash<std::string_view>()(path); }

}  // namespace

Keyframe::Keyframe(std::unique_ptr<Storage> storage, std::unique_ptr<Lease> lease, StoredCheckpoint stored,
                   std::uint64_t budget_bytes)
    : storage_(std::move(storage)),
      lease_(std::move(lease)),
      stored_(std::move(stored)),
      budget_bytes_(budget_bytes),
      files_(*storage_, nullptr, stored_.directory) {
  const IndexDirectory& d = stored_.directory;
  for (std::uint32_t i = 0; i < d.leaves.size(); ++i) leaves_.insert(path_hash(d.path(d.leaves[i])), i);
}

Result<std::shared_ptr<Keyframe>> Keyframe::open(std::unique_ptr<Storage> storage, std::uint64_t budget_bytes) {
  while (true) {
    OSTRACA_ASSIGN_OR_RETURN(const std::string text, read_manifest(*storage));
    Result<Manifest> manifest = decode_manifest(text);
    if (!manifest.ok()) return manifest.status().with_context("file '" + storage->path_of(kManifestName) + "'");
    if (!manifest->base_directory.empty()) {  // a delta stands for its keyframe
      std::unique_ptr<Storage> keyframe = beside(*storage, manifest->base_directory);
      const Result<std::string> there = read_manifest(*keyframe);
      const Result<Manifest> base = there.ok() ? decode_manifest(*there) : Result<Manifest>(there.status());
      if (there.status().code() == Code::kSystem)
        return there.status().with_context("the base of '" + storage->path() + "'");
      if (base.ok() && base->id == manifest->base_id && !base->base_directory.empty())
        return format_error("the checkpoint at '" + keyframe->path() + "' is the base of '" + storage->path() +
                            "' and has a base itself");
      if (!base.ok() || base->id != manifest->base_id)
        return not_found("the checkpoint at '" + storage->path() +
                         "' cannot be a base: it is a delta, and its keyframe, '" + keyframe->path() +
                         "', is not there any more; save without a base");
      storage = std::move(keyframe);
      continue;
    }
    Result<std::unique_ptr<Lease>> lease = storage->lease(kManifestName);
    if (!lease.ok() && lease.status().code() != Code::kNotFound) return lease.status();
    if (!lease.ok()) continue;  // read_manifest says what became of it
    OSTRACA_ASSIGN_OR_RETURN(StoredCheckpoint stored, open_checkpoint(*storage));
    if (!(*lease)->current() || !stored.manifest.base_directory.empty()) continue;  // overwritten meanwhile
    return std::shared_ptr<Keyframe>(new Keyframe(std::move(storage), lease.take(), std::move(stored), budget_bytes));
  }
}

Result<std::string> Keyframe::name() const { return storage_->name(); }

BaseChunks Keyframe::find(const ArraySource& source, const Grid& grid) const {
  const IndexDirectory& d = stored_.directory;
  const auto number =
      leaves_.find(path_hash(source.path), [&](std::uint32_t i) { return d.path(d.leaves[i]) == source.path; });
  if (!number) return {};
  const LeafRecord& leaf = d.leaves[*number];
  // The kind does not matter: bytes are bytes.
  if (leaf.dtype != source.dtype || d.detail(leaf) != source.detail ||
      !std::ranges::equal(d.shape(leaf), source.global_shape))
    return {};
  BaseChunks chunks;
  for (const ShardRecord& shard : d.shards_of(leaf))
    grid.match(source.offset, Grid(d.shard_shape(leaf, shard), d.chunk_shape(leaf, shard)), d.shard_offset(leaf, shard),
               [&](std::uint64_t chunk, std::uint64_t its_chunk) {
                 if (chunks.empty()) chunks.assign(grid.count(), std::nullopt);
                 chunks[chunk] = d.refs[shard.first_ref + its_chunk];
               });
  return chunks;
}

Result<const Extent*> Keyframe::extent(std::uint32_t file, std::uint32_t number) {
  OSTRACA_ASSIGN_OR_RETURN(const DataFile* data, files_.get(file));
  return &data->extents[number];  // there: check_references saw to that
}

Result<Bytes> Keyframe::decoded(std::uint32_t file, std::uint32_t number, Scratch& scratch) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = kept_.find(key(file, number)); found != kept_.end()) {
      scratch.kept = found->second.owner;
      return found->second.content;
    }
  }
  OSTRACA_ASSIGN_OR_RETURN(const DataFile* data, files_.get(file));
  const Extent& extent = data->extents[number];
  Result<Bytes> decoded = read(*data, extent, scratch);
  if (!decoded.ok())
    return decoded.status().with_context("the base's chunk at offset " + std::to_string(extent.offset) + " of file '" +
                                         data->file->path() + "'");
  // What is kept stays: every save asks for the same extents in the same order, so that the latest is no better.
  if (kept_bytes_.fetch_add(decoded->size()) + decoded->size() > budget_bytes_) {
    kept_bytes_ -= decoded->size();
    return decoded;
  }
  Result<AlignedBuffer> copy = AlignedBuffer::allocate(decoded->size());
  const std::lock_guard lock(mutex_);
  if (!copy.ok() || kept_.contains(key(file, number))) {
    kept_bytes_ -= decoded->size();
    return decoded;
  }
  std::memcpy(copy->data(), decoded->data(), decoded->size());
  auto owner = std::make_shared<const AlignedBuffer>(copy.take());
  const Bytes content(owner->data(), owner->size());
  kept_.emplace(key(file, number), Kept{std::move(owner), content});
  return decoded;
}

void Keyframe::adopt(std::uint32_t process_index, const std::shared_ptr<const KeptChunks>& chunks) {
  const auto& files = stored_.directory.files;
  const auto file = std::ranges::find_if(
      files, [&](const FileRecord& f) { return f.process_index == process_index && f.id == id() && !f.in_base; });
  if (!chunks || file == files.end()) return;
  const auto first = static_cast<std::uint32_t>(file - files.begin());
  for (const auto& [place, content] : chunks->chunks) {
    kept_.emplace(key(first + place.first, place.second), Kept{chunks, content});
    kept_bytes_ += content.size();
  }
  const std::uint64_t unused = chunks->blocks.size() * kBlockBytes - kept_bytes_;
  budget_bytes_ -= std::min(unused, budget_bytes_);
}

Result<Bytes> Keyframe::read(const DataFile& file, const Extent& extent, Scratch& scratch) const {
  if (scratch.stored.size() == 0) {
    OSTRACA_ASSIGN_OR_RETURN(scratch.stored, AlignedBuffer::allocate(kChunkBytesMax + 2 * kAlignmentMax, kOfThread));
    OSTRACA_ASSIGN_OR_RETURN(scratch.decoded, AlignedBuffer::allocate(kChunkBytesMax, kOfThread));
  }
  Bytes stored(scratch.stored.data(), extent.stored_bytes);
  if (file.file->read_cached(extent.offset, scratch.stored.bytes().first(extent.stored_bytes)) < extent.stored_bytes) {
    const std::uint64_t alignment = file.file->direct_alignment();
    const std::uint64_t start = extent.offset / alignment * alignment;
    const std::uint64_t end = (extent.offset + extent.stored_bytes + alignment - 1) / alignment * alignment;
    OSTRACA_RETURN_IF_ERROR(file.file->read_direct(start, scratch.stored.bytes().first(end - start)));
    stored = Bytes(scratch.stored.data() + (extent.offset - start), extent.stored_bytes);
  }
  if (crc32c(stored) != extent.crc) return corruption("checksum mismatch");
  const auto codec = extent.codec;
  if (codec == Codec::kRaw) return stored;
  const MutableBytes decoded(scratch.decoded.data(), extent.decoded_bytes);
  OSTRACA_RETURN_IF_ERROR(scratch.decoder.decode(codec, stored, decoded));
  return Bytes(decoded);
}

Result<std::shared_ptr<BaseSnapshot>> BaseSnapshot::open(const std::string& path, std::uint64_t budget_bytes) {
  OSTRACA_ASSIGN_OR_RETURN(std::shared_ptr<Keyframe> keyframe, Keyframe::open(open_storage(path), budget_bytes));
  return std::shared_ptr<BaseSnapshot>(std::move(keyframe));
}

}  // namespace ostraca
