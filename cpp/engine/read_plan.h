// What a load is going to do: which extents it needs, who wants which part of each, and how they are fetched.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "container/directory.h"
#include "engine/grid.h"
#include "ostraca/reader.h"

namespace ostraca {

// One chunk that one request wants some of.
struct Target {
  std::uint32_t file;
  std::uint32_t extent;
  std::uint32_t offset;  // of the chunk in the decoded extent
  std::uint32_t request;
  std::uint64_t shard;  // into Directory::shards
  std::uint64_t chunk;  // in the shard's grid
};

inline constexpr std::uint32_t kNoBase = ~std::uint32_t{0};

// An extent and the targets it feeds: a run of the plan's targets. Where it is a delta that is to be decoded, also the
// extent that it is the difference to.
struct ExtentRead {
  std::uint32_t file;
  std::uint32_t extent;
  std::span<const Target> targets;
  std::uint32_t base_file = kNoBase;
  std::uint32_t base_extent = 0;
};

// A range of a file.
struct FileRange {
  std::uint32_t file = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;

  std::uint64_t end() const { return offset + bytes; }
};

// Extents that lie together, read at once: a run of the plan's extents. The range holds their padding too. `base`
// holds the extents they are differences to, and perhaps more; it is empty where there are none.
struct Fetch {
  FileRange own;
  FileRange base;
  std::span<const ExtentRead> reads;
};

// REQUIRES of requests: leaf numbers in range; boxes inside their leaves; strides filled in.
std::vector<Target> plan_targets(const IndexDirectory& directory, std::span<const ReadRequest> requests);
std::vector<ExtentRead> plan_extents(std::span<const Target> targets);
// Adjacent extents are fetched together, up to `max_bytes` with what they are differences to.
using ExtentTable = std::function<const std::vector<Extent>&(std::uint32_t file)>;
using TableOffset = std::function<std::uint64_t(std::uint32_t file)>;
std::vector<Fetch> plan_fetches(std::span<const ExtentRead> reads, const ExtentTable& extents,
                                const TableOffset& table_offset, std::uint64_t max_bytes);

// Copies what `target` wants of its chunk's decoded bytes.
void scatter(const IndexDirectory& directory, const ReadRequest& request, const Target& target, const std::byte* chunk);

// The memory that wants exactly this extent's decoded bytes, as they are: it can be decoded into directly. Null if
// there is none, or more than one target.
std::byte* direct_destination(const IndexDirectory& directory, std::span<const ReadRequest> requests,
                              const ExtentRead& read, std::uint32_t decoded_bytes);

// Decoded bytes of a chunk.
std::uint64_t chunk_bytes(const IndexDirectory& directory, const LeafRecord& leaf, const ShardRecord& shard,
                          std::uint64_t chunk);

}  // namespace ostraca
