#include "engine/merge.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/hash_index.h"

namespace ostraca {
namespace {

bool same_array(const Directory& a, const LeafRecord& x, const Directory& b, const LeafRecord& y) {
  return x.kind == y.kind && x.dtype == y.dtype && a.detail(x) == b.detail(y) &&
         std::ranges::equal(a.shape(x), b.shape(y));
}

// Adds to `out` the shards that `part` (file number `file`) has of one leaf.
void append_shards(Directory& out, LeafRecord& leaf, const Directory& part, const LeafRecord& source,
                   std::uint32_t file) {
  for (const ShardRecord& shard : part.shards_of(source)) {
    std::uint64_t count = 0;
    (void)grid_count(part.shard_shape(source, shard), part.chunk_shape(source, shard), &count);  // decoding checked it
    ShardRecord merged{out.add_dims(std::span(part.dims).subspan(shard.dims, 3 * source.rank)), out.refs.size(),
                       shard.process};
    for (std::uint64_t i = 0; i < count; ++i) {
      ChunkRef ref = part.refs[shard.first_ref + i];
      ref.file = file;
      out.refs.push_back(ref);
    }
    out.shards.push_back(merged);
    ++leaf.shard_count;
  }
}

}  // namespace

Result<Directory> merge(const std::vector<Part>& parts) {
  struct Occurrence {
    std::uint32_t place;  // in the result
    std::uint32_t part;
    const LeafRecord* leaf;
  };
  std::vector<Occurrence> all;
  std::vector<std::string_view> paths;
  HashIndex places;
  for (std::uint32_t p = 0; p < parts.size(); ++p)
    for (const LeafRecord& leaf : parts[p].directory.leaves) {
      const std::string_view path = parts[p].directory.path(leaf);
      const std::size_t hash = std::hash<std::string_view>()(path);
      std::optional<std::uint32_t> place;
      if (p > 0) place = places.find(hash, [&](std::uint32_t i) { return paths[i] == path; });
      if (!place) {
        place = static_cast<std::uint32_t>(paths.size());
        paths.push_back(path);
        if (parts.size() > 1) places.insert(hash, *place);  // within a part, paths are unique
      }
      all.push_back({*place, p, &leaf});
    }
  std::ranges::stable_sort(all, {}, &Occurrence::place);
  Directory out;
  for (const Part& part : parts) out.files.push_back(part.record);
  for (auto next = all.begin(); next != all.end();) {
    const std::span occurrences(next, std::find_if(next, all.end(), [&](auto& o) { return o.place != next->place; }));
    next += static_cast<std::ptrdiff_t>(occurrences.size());
    const Directory& first = parts[occurrences.front().part].directory;
    LeafRecord leaf = *occurrences.front().leaf;
    const LeafRecord source = leaf;
    leaf.path_offset = out.add_text(first.path(source));
    leaf.detail_offset = out.add_text(first.detail(source));
    leaf.dims = out.add_dims(first.shape(source));
    leaf.first_shard = out.shards.size();
    leaf.shard_count = 0;
    for (const Occurrence& o : occurrences) {
      if (!same_array(first, source, parts[o.part].directory, *o.leaf)) {
        const Result<std::string> name = display_name(first.path(source));
        return mismatch("leaf '" + (name.ok() ? *name : "?") + "': processes " +
                        std::to_string(parts[occurrences.front().part].record.process_index) + " and " +
                        std::to_string(parts[o.part].record.process_index) +
                        " gave it different kinds, dtypes or shapes");
      }
      append_shards(out, leaf, parts[o.part].directory, *o.leaf, o.part);
    }
    out.leaves.push_back(leaf);
  }
  return out;
}

}  // namespace ostraca
