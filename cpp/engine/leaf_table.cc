#include "engine/leaf_table.h"

namespace ostraca {

Result<std::size_t> LeafTable::add(const ArraySource& source, const std::string& name) {
  const auto [known, added] = numbers_.try_emplace(name, leaves_.size());
  if (added) {
    leaves_.push_back(
        {source.path, source.kind, source.dtype, source.detail, source.big_endian, source.global_shape, {}});
    return known->second;
  }
  const Leaf& leaf = leaves_[known->second];
  if (leaf.path != source.path || !kind_has_data(source.kind) || source.shape == source.global_shape)
    return invalid_argument("two leaves are named '" + name + "'");
  if (leaf.kind != source.kind || leaf.dtype != source.dtype || leaf.detail != source.detail ||
      leaf.global_shape != source.global_shape)
    return mismatch("leaf '" + name + "': its shards differ in kind, dtype or global shape");
  return known->second;
}

void LeafTable::add_shard(std::size_t leaf, const ArraySource& source, const PlannedSource& planned) {
  leaves_[leaf].shards.push_back({source.offset, source.shape, &planned});
}

Directory LeafTable::directory(std::uint32_t process_index, const CheckpointId& id) const {
  Directory out;
  out.files.push_back({.process_index = process_index, .id = id});
  out.leaves.reserve(leaves_.size());
  for (const Leaf& leaf : leaves_) {
    out.leaves.push_back({.path_offset = out.add_text(leaf.path),
                          .path_bytes = static_cast<std::uint32_t>(leaf.path.size()),
                          .kind = leaf.kind,
                          .dtype = leaf.dtype,
                          .big_endian = leaf.big_endian,
                          .rank = static_cast<std::uint8_t>(leaf.global_shape.size()),
                          .dims = out.add_dims(leaf.global_shape),
                          .first_shard = out.shards.size(),
                          .shard_count = static_cast<std::uint32_t>(leaf.shards.size()),
                          .detail_bytes = static_cast<std::uint32_t>(leaf.detail.size()),
                          .detail_offset = out.add_text(leaf.detail)});
    for (const Shard& shard : leaf.shards) {
      out.shards.push_back(
          {.dims = out.add_dims(shard.offset), .first_ref = out.refs.size(), .process = process_index});
      out.add_dims(shard.shape);
      out.add_dims(shard.planned->chunk_shape);
      out.refs.insert(out.refs.end(), shard.planned->refs.begin(), shard.planned->refs.end());
    }
  }
  return out;
}

}  // namespace ostraca
