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

bool same_array(const DataDirectory& a, const LeafRecord& x, const DataDirectory& b, const LeafRecord& y) {
  return x.kind == y.kind && x.dtype == y.dtype && a.detail(x) == b.detail(y) &&
         std::ranges::equal(a.shape(x), b.shape(y));
}

// The parts' files, then those of the base that any of them refers to, by process. Returns what each part's own
// numbers become.
std::vector<std::vector<std::uint32_t>> merge_files(const std::vector<Part>& parts, std::vector<FileRecord>& out) {
  std::vector<FileRecord> base;
  for (const Part& part : parts) {
    out.push_back(part.record);
    for (const FileRecord& file : part.directory.files)
      if (file.in_base) base.push_back(file);
  }
  std::ranges::stable_sort(base, {}, &FileRecord::process_index);
  const auto same = [](const FileRecord& a, const FileRecord& b) { return a.process_index == b.process_index; };
  base.erase(std::unique(base.begin(), base.end(), same), base.end());
  out.insert(out.end(), base.begin(), base.end());
  std::vector<std::vector<std::uint32_t>> numbers(parts.size());
  for (std::uint32_t p = 0; p < parts.size(); ++p)
    for (const FileRecord& file : parts[p].directory.files) {
      const auto at = std::ranges::lower_bound(base, file.process_index, {}, &FileRecord::process_index);
      numbers[p].push_back(file.in_base ? static_cast<std::uint32_t>(parts.size() + (at - base.begin())) : p);
    }
  return numbers;
}

// Adds to `out` the shards that `part` has of one leaf. `files`: what its numbers of files become.
void append_shards(IndexDirectory& out, LeafRecord& leaf, const DataDirectory& part, const LeafRecord& source,
                   std::span<const std::uint32_t> files) {
  for (const ShardRecord& shard : part.shards_of(source)) {
    std::uint64_t count = 0;
    (void)grid_count(part.shard_shape(source, shard), part.chunk_shape(source, shard), &count);  // decoding checked it
    ShardRecord merged{out.add_dims(std::span(part.dims).subspan(shard.dims, 3 * source.rank)), out.refs.size(),
                       shard.process};
    for (std::uint64_t i = 0; i < count; ++i) {
      ChunkRef ref = part.refs[shard.first_ref + i];
      ref.file = files[ref.file];
      out.refs.push_back(ref);
    }
    out.shards.push_back(merged);
    ++leaf.shard_count;
  }
}

}  // namespace

Result<IndexDirectory> merge(const std::vector<Part>& parts) {
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
  IndexDirectory out;
  const std::vector<std::vector<std::uint32_t>> files = merge_files(parts, out.files);
  for (auto next = all.begin(); next != all.end();) {
    const std::span occurrences(next, std::find_if(next, all.end(), [&](auto& o) { return o.place != next->place; }));
    next += static_cast<std::ptrdiff_t>(occurrences.size());
    const DataDirectory& first = parts[occurrences.front().part].directory;
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
      append_shards(out, leaf, parts[o.part].directory, *o.leaf, files[o.part]);
    }
    out.leaves.push_back(leaf);
  }
  return out;
}

}  // namespace ostraca
