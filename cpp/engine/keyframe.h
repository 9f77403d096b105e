// The keyframe that an incremental save is made against.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "base/buffer.h"
#include "base/hash_index.h"
#include "codec/codec.h"
#include "engine/data_files.h"
#include "engine/grid.h"
#include "engine/kept_chunks.h"
#include "engine/stored_file.h"
#include "ostraca/base_snapshot.h"
#include "ostraca/writer.h"
#include "storage/storage.h"

namespace ostraca {

// Where the base has each chunk of a shard, in the order of its grid. Empty: nowhere.
using BaseChunks = ShortVector<std::optional<ChunkRef>, 1>;

// BaseSnapshot's only kind. Thread-safe.
class Keyframe final : public BaseSnapshot {
 public:
  static Result<std::shared_ptr<Keyframe>> open(std::unique_ptr<Storage> storage, std::uint64_t budget_bytes);

  std::string path() const override { return storage_->path(); }
  const CheckpointId& id() const override { return stored_.manifest.id; }
  std::uint64_t kept_bytes() const override { return kept_bytes_; }
  // Its directory's own name.
  Result<std::string> name() const;
  const FileRecord& file(std::uint32_t number) const { return stored_.directory.files[number]; }

  // The keyframe's chunks that are the same boxes of the same array, whatever shards and files they are in. Takes a
  // look at each shard of the array, as reading the index did.
  BaseChunks find(const ArraySource& source, const Grid& grid) const;
  Result<const Extent*> extent(std::uint32_t file, std::uint32_t number);

  // What reading extents takes: for one thread, used again and again.
  struct Scratch {
    ChunkDecoder decoder;
    AlignedBuffer stored, decoded;
    std::shared_ptr<const void> kept;
  };
  // The extent's decoded bytes, checked: from memory, or read back and, as far as the budget goes, kept. Valid until
  // the scratch is used again.
  Result<Bytes> decoded(std::uint32_t file, std::uint32_t number, Scratch& scratch);
  // Takes over what the save by one of its processes kept. Null: nothing. Blocks count in full in the budget for more.
  // REQUIRES: nobody uses it yet.
  void adopt(std::uint32_t process_index, const std::shared_ptr<const KeptChunks>& chunks);

 private:
  Keyframe(std::unique_ptr<Storage> storage, std::unique_ptr<Lease> lease, StoredCheckpoint stored,
           std::uint64_t budget_bytes);
  struct Kept {
    std::shared_ptr<const void> owner;
    Bytes content;
  };
  static std::uint64_t key(std::uint32_t file, std::uint32_t extent) { return std::uint64_t{file} << 32 | extent; }
  Result<Bytes> read(const DataFile& file, const Extent& extent, Scratch& scratch) const;

  const std::unique_ptr<Storage> storage_;
  const std::unique_ptr<Lease> lease_;
  const StoredCheckpoint stored_;
  std::uint64_t budget_bytes_;
  DataFiles files_;
  HashIndex leaves_;                              // by key path
  std::mutex mutex_;                              // guards kept_
  std::unordered_map<std::uint64_t, Kept> kept_;  // by file and extent
  std::atomic<std::uint64_t> kept_bytes_ = 0;
};

}  // namespace ostraca
