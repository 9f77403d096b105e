#include "engine/leaf_table.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace ostraca {

Result<std::size_t> LeafTable::add(const ArraySource& source, std::string name) {
  const std::size_t hash = std::hash<std::string_view>()(name);
  if (const auto known = numbers_.find(hash, [&](std::uint32_t i) { return names_[i] == name; })) {
    const LeafRecord& leaf = directory_.leaves[*known];
    if (directory_.path(leaf) != source.path || !kind_has_data(source.kind) || source.shape == source.global_shape)
      return invalid_argument("two leaves are named '" + name + "'");
    if (leaf.kind != source.kind || leaf.dtype != source.dtype || directory_.detail(leaf) != source.detail ||
        !std::ranges::equal(directory_.shape(leaf), source.global_shape))
      return mismatch("leaf '" + name + "': its shards differ in kind, dtype or global shape");
    return *known;
  }
  const std::size_t number = directory_.leaves.size();
  directory_.leaves.push_back({.path_offset = directory_.add_text(source.path),
                               .path_bytes = static_cast<std::uint32_t>(source.path.size()),
                               .kind = source.kind,
                               .dtype = source.dtype,
                               .big_endian = source.big_endian,
                               .rank = static_cast<std::uint8_t>(source.global_shape.size()),
                               .dims = directory_.add_dims(source.global_shape),
                               .detail_bytes = static_cast<std::uint32_t>(source.detail.size()),
                               .detail_offset = directory_.add_text(source.detail)});
  numbers_.insert(hash, static_cast<std::uint32_t>(number));
  names_.push_back(std::move(name));
  return number;
}

void LeafTable::add_shard(std::size_t leaf, const ArraySource& source, const PlannedSource& planned) {
  shards_.push_back({leaf, directory_.add_dims(source.offset), &planned});
  directory_.add_dims(source.shape);
  directory_.add_dims(planned.array.chunk_shape);
}

DataDirectory LeafTable::take_directory(std::span<const FileRecord> files, std::span<const FileRecord> base_files) {
  DataDirectory out = std::move(directory_);
  out.files.assign(files.begin(), files.end());
  out.files.insert(out.files.end(), base_files.begin(), base_files.end());
  std::ranges::stable_sort(shards_, {}, &Shard::leaf);
  out.shards.reserve(shards_.size());
  out.refs.reserve(shards_.size());
  auto next = shards_.begin();
  for (std::size_t i = 0; i < out.leaves.size(); ++i) {
    LeafRecord& leaf = out.leaves[i];
    leaf.first_shard = out.shards.size();
    for (; next != shards_.end() && next->leaf == i; ++next) {
      out.shards.push_back({.dims = next->dims, .first_ref = out.refs.size(), .process = files.back().process_index});
      out.refs.insert(out.refs.end(), next->planned->refs.begin(), next->planned->refs.end());
      ++leaf.shard_count;
    }
  }
  for (ChunkRef& ref : out.refs)
    if ((ref.file & kRefToBase) != 0) ref.file = static_cast<std::uint32_t>(files.size()) + (ref.file & ~kRefToBase);
  return out;
}

}  // namespace ostraca
