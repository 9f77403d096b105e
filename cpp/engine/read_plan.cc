#include "engine/read_plan.h"

#include <algorithm>
#include <tuple>

#include "base/limits.h"
#include "transform/box.h"

namespace ostraca {
namespace {

// Bytes read for nothing between two extents of a base, rather than reading twice.
constexpr std::uint64_t kBaseGapMax = 64 * kKiB;
constexpr std::uint64_t kBaseRoom = 5 * kAlignmentMax;  // what aligning a base's range may cost in a fetch's buffer

// Item bytes of a leaf that has been decoded, which is when its detail was checked.
std::uint32_t checked_item_bytes(const IndexDirectory& directory, const LeafRecord& leaf) {
  return *item_bytes(leaf.dtype, directory.detail(leaf));
}

// Where a chunk and a request's box meet, in the leaf's coordinates.
struct Meeting {
  Dims chunk_start, chunk_shape;  // the chunk's box
  Dims start, shape;              // what both have
};

Meeting meet(const IndexDirectory& directory, const ReadRequest& request, const Target& target) {
  const LeafRecord& leaf = directory.leaves[request.leaf];
  const ShardRecord& shard = directory.shards[target.shard];
  const Grid grid(directory.shard_shape(leaf, shard), directory.chunk_shape(leaf, shard));
  const DimsView shard_start = directory.shard_offset(leaf, shard);
  Meeting m;
  grid.box(target.chunk, m.chunk_start, m.chunk_shape);
  m.start.resize(leaf.rank);
  m.shape.resize(leaf.rank);
  for (std::size_t d = 0; d < leaf.rank; ++d) {
    m.chunk_start[d] += shard_start[d];
    m.start[d] = std::max(m.chunk_start[d], request.start[d]);
    m.shape[d] = std::min(m.chunk_start[d] + m.chunk_shape[d], request.start[d] + request.shape[d]) - m.start[d];
  }
  return m;
}

std::byte* destination(const ReadRequest& request, const Meeting& m) {
  std::byte* data = request.data;
  for (std::size_t d = 0; d < m.start.size(); ++d)
    data += static_cast<std::int64_t>(m.start[d] - request.start[d]) * request.strides[d];
  return data;
}

// Both ranges in one, if they lie together in a file; empty otherwise, or where both are.
FileRange join(const FileRange& a, const FileRange& b) {
  if (a.bytes == 0) return b;
  if (b.bytes == 0) return a;
  if (a.file != b.file || b.offset < a.end() || b.offset - a.end() > kBaseGapMax) return {};
  return {a.file, a.offset, b.end() - a.offset};
}

unsigned swap_unit(const LeafRecord& leaf, const ReadRequest& request) {
  return request.big_endian ? dtype_info(leaf.dtype).scalar_bytes : 1;
}

}  // namespace

std::vector<Target> plan_targets(const IndexDirectory& directory, std::span<const ReadRequest> requests) {
  std::vector<Target> targets;
  Dims start, shape;
  for (std::uint32_t r = 0; r < requests.size(); ++r) {
    const ReadRequest& request = requests[r];
    const LeafRecord& leaf = directory.leaves[request.leaf];
    for (std::uint64_t s = leaf.first_shard; s < leaf.first_shard + leaf.shard_count; ++s) {
      const ShardRecord& shard = directory.shards[s];
      const DimsView offset = directory.shard_offset(leaf, shard), size = directory.shard_shape(leaf, shard);
      start.resize(leaf.rank);
      shape.resize(leaf.rank);
      bool meets = true;
      for (std::size_t d = 0; d < leaf.rank; ++d) {
        const std::uint64_t first = std::max(offset[d], request.start[d]);
        const std::uint64_t last = std::min(offset[d] + size[d], request.start[d] + request.shape[d]);
        meets = meets && first < last;
        start[d] = first - offset[d];
        shape[d] = last - first;
      }
      if (!meets) continue;
      const Grid grid(size, directory.chunk_shape(leaf, shard));
      for (std::uint64_t chunk : grid.touched(start, shape)) {
        const ChunkRef& ref = directory.refs[shard.first_ref + chunk];
        targets.push_back({ref.file, ref.extent, ref.offset, r, s, chunk});
      }
    }
  }
  const auto place = [](const Target& t) { return std::tuple(t.file, t.extent, t.offset); };
  if (!std::ranges::is_sorted(targets, {}, place)) std::ranges::stable_sort(targets, {}, place);
  return targets;
}

std::vector<ExtentRead> plan_extents(std::span<const Target> targets) {
  std::vector<ExtentRead> reads;
  for (std::size_t i = 0; i < targets.size();) {
    std::size_t end = i + 1;
    while (end < targets.size() && targets[end].file == targets[i].file && targets[end].extent == targets[i].extent)
      ++end;
    reads.push_back({targets[i].file, targets[i].extent, targets.subspan(i, end - i)});
    i = end;
  }
  return reads;
}

std::vector<Fetch> plan_fetches(std::span<const ExtentRead> reads, const ExtentTable& extents,
                                const TableOffset& table_offset, std::uint64_t max_bytes) {
  std::vector<Fetch> fetches;
  for (std::size_t i = 0; i < reads.size(); ++i) {
    const ExtentRead& read = reads[i];
    const std::vector<Extent>& table = extents(read.file);
    const std::uint64_t offset = table[read.extent].offset;
    FileRange own{read.file, offset, extent_end(table, read.extent, table_offset(read.file)) - offset};
    FileRange base;
    if (read.base_file != kNoBase) {
      const Extent& e = extents(read.base_file)[read.base_extent];
      base = {read.base_file, e.offset, e.stored_bytes};
    }
    if (!fetches.empty()) {
      Fetch& last = fetches.back();
      const FileRange both = join(last.base, base);
      const std::uint64_t bytes = own.end() - last.own.offset + (both.bytes ? both.bytes + kBaseRoom : 0);
      const bool fits = last.own.file == own.file && last.own.end() == own.offset &&
                        (both.bytes > 0 || base.bytes == 0) && bytes <= max_bytes;
      if (fits) {
        last.own.bytes = own.end() - last.own.offset;
        last.base = both;
        last.reads = reads.subspan(i - last.reads.size(), last.reads.size() + 1);
        continue;
      }
    }
    fetches.push_back({own, base, reads.subspan(i, 1)});
  }
  return fetches;
}

void scatter(const IndexDirectory& directory, const ReadRequest& request, const Target& target,
             const std::byte* chunk) {
  const LeafRecord& leaf = directory.leaves[request.leaf];
  const std::uint32_t item = checked_item_bytes(directory, leaf);
  const Meeting m = meet(directory, request, target);
  const Strides strides = c_strides(m.chunk_shape, item);
  for (std::size_t d = 0; d < leaf.rank; ++d)
    chunk += static_cast<std::int64_t>(m.start[d] - m.chunk_start[d]) * strides[d];
  copy_box(destination(request, m), request.strides, chunk, strides, m.shape, item, swap_unit(leaf, request));
}

std::byte* direct_destination(const IndexDirectory& directory, std::span<const ReadRequest> requests,
                              const ExtentRead& read, std::uint32_t decoded_bytes) {
  if (read.targets.size() != 1) return nullptr;
  const Target& target = read.targets.front();
  const ReadRequest& request = requests[target.request];
  const LeafRecord& leaf = directory.leaves[request.leaf];
  if (swap_unit(leaf, request) > 1) return nullptr;
  const std::uint32_t item = checked_item_bytes(directory, leaf);
  const Meeting m = meet(directory, request, target);
  if (m.shape != m.chunk_shape || !is_c_contiguous(m.shape, request.strides, item)) return nullptr;
  std::uint64_t bytes = item;
  for (std::uint64_t d : m.shape) bytes *= d;
  return bytes == decoded_bytes ? destination(request, m) : nullptr;
}

std::uint64_t chunk_bytes(const IndexDirectory& directory, const LeafRecord& leaf, const ShardRecord& shard,
                          std::uint64_t chunk) {
  Dims origin, shape;
  Grid(directory.shard_shape(leaf, shard), directory.chunk_shape(leaf, shard)).box(chunk, origin, shape);
  std::uint64_t bytes = checked_item_bytes(directory, leaf);
  for (std::uint64_t d : shape) bytes *= d;
  return bytes;
}

}  // namespace ostraca
