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

// The shares' files, then those of the base that any of them refers to, in its order. Returns what each share's own
// numbers become.
std::vector<std::vector<std::uint32_t>> merge_files(const std::vector<Share>& shares, std::vector<FileRecord>& out) {
  std::vector<FileRecord> base;
  std::vector<std::uint32_t> firsts;  // of each share
  for (const Share& share : shares) {
    firsts.push_back(static_cast<std::uint32_t>(out.size()));
    out.insert(out.end(), share.files.begin(), share.files.end());
    for (const FileRecord& file : share.directory.files)
      if (file.in_base) base.push_back(file);
  }
  std::ranges::stable_sort(base, {}, &FileRecord::base_number);
  const auto same = [](const FileRecord& a, const FileRecord& b) { return a.base_number() == b.base_number(); };
  base.erase(std::unique(base.begin(), base.end(), same), base.end());
  const auto first_of_base = static_cast<std::uint32_t>(out.size());
  out.insert(out.end(), base.begin(), base.end());
  std::vector<std::vector<std::uint32_t>> numbers(shares.size());
  for (std::size_t i = 0; i < shares.size(); ++i)
    for (const FileRecord& file : shares[i].directory.files) {
      const auto at = std::ranges::lower_bound(base, file.base_number(), {}, &FileRecord::base_number);
      numbers[i].push_back(file.in_base ? first_of_base + static_cast<std::uint32_t>(at - base.begin())
                                        : firsts[i] + static_cast<std::uint32_t>(numbers[i].size()));
    }
  return numbers;
}

// Adds to `out` the shards that `share` has of one leaf. `files`: what its numbers of files become.
void append_shards(IndexDirectory& out, LeafRecord& leaf, const DataDirectory& share, const LeafRecord& source,
                   std::span<const std::uint32_t> files) {
  for (const ShardRecord& shard : share.shards_of(source)) {
    std::uint64_t count = 0;
    (void)grid_count(share.shard_shape(source, shard), share.chunk_shape(source, shard),
                     &count);  // decoding checked it
    ShardRecord merged{out.add_dims(std::span(share.dims).subspan(shard.dims, 3 * source.rank)), out.refs.size(),
                       shard.process};
    for (std::uint64_t i = 0; i < count; ++i) {
      ChunkRef ref = share.refs[shard.first_ref + i];
      ref.file = files[ref.file];
      out.refs.push_back(ref);
    }
    out.shards.push_back(merged);
    ++leaf.shard_count;
  }
}

}  // namespace

bool names_itself_alone(const DataDirectory& directory, const FileRecord& file) {
  if (directory.files.size() != 1 || !directory.leaves.empty()) return false;
  FileRecord itself = file;  // without what it cannot say of itself
  itself.bytes = itself.footer_crc = 0;
  return directory.files[0] == itself;
}

Result<IndexDirectory> merge(const std::vector<Share>& shares) {
  struct Occurrence {
    std::uint32_t place;  // in the result
    std::uint32_t share;
    const LeafRecord* leaf;
  };
  std::vector<Occurrence> all;
  std::vector<std::string_view> paths;
  HashIndex places;
  for (std::uint32_t p = 0; p < shares.size(); ++p)
    for (const LeafRecord& leaf : shares[p].directory.leaves) {
      const std::string_view path = shares[p].directory.path(leaf);
      const std::size_t hash = std::hash<std::string_view>()(path);
      std::optional<std::uint32_t> place;
      if (p > 0) place = places.find(hash, [&](std::uint32_t i) { return paths[i] == path; });
      if (!place) {
        place = static_cast<std::uint32_t>(paths.size());
        paths.push_back(path);
        if (shares.size() > 1) places.insert(hash, *place);  // within a share, paths are unique
      }
      all.push_back({*place, p, &leaf});
    }
  std::ranges::stable_sort(all, {}, &Occurrence::place);
  IndexDirectory out;
  const std::vector<std::vector<std::uint32_t>> files = merge_files(shares, out.files);
  for (auto next = all.begin(); next != all.end();) {
    const std::span occurrences(next, std::find_if(next, all.end(), [&](auto& o) { return o.place != next->place; }));
    next += static_cast<std::ptrdiff_t>(occurrences.size());
    const DataDirectory& first = shares[occurrences.front().share].directory;
    LeafRecord leaf = *occurrences.front().leaf;
    const LeafRecord source = leaf;
    leaf.path_offset = out.add_text(first.path(source));
    leaf.detail_offset = out.add_text(first.detail(source));
    leaf.dims = out.add_dims(first.shape(source));
    leaf.first_shard = out.shards.size();
    leaf.shard_count = 0;
    for (const Occurrence& o : occurrences) {
      if (!same_array(first, source, shares[o.share].directory, *o.leaf)) {
        const Result<std::string> name = display_name(first.path(source));
        return mismatch("leaf '" + (name.ok() ? *name : "?") + "': processes " +
                        std::to_string(shares[occurrences.front().share].files.front().process_index) + " and " +
                        std::to_string(shares[o.share].files.front().process_index) +
                        " gave it different kinds, dtypes or shapes");
      }
      append_shards(out, leaf, shares[o.share].directory, *o.leaf, files[o.share]);
    }
    out.leaves.push_back(leaf);
  }
  return out;
}

}  // namespace ostraca
