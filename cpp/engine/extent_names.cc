#include "engine/extent_names.h"

namespace ostraca {

void ExtentNames::add(std::uint32_t extent, const std::string& name) {
  std::vector<std::string>& names = names_[extent];
  if (names.empty() || names.back() != name) names.push_back(name);
  if (all_.empty() || all_.back() != name) all_.push_back(name);
}

std::vector<std::uint32_t> ExtentNames::extents() const {
  std::vector<std::uint32_t> out;
  for (const auto& [extent, names] : names_) out.push_back(extent);
  return out;
}

std::vector<ExtentNames> names_by_file(const Directory& directory) {
  std::vector<ExtentNames> out(directory.files.size());
  for (const LeafRecord& leaf : directory.leaves) {
    const Result<std::string> name = display_name(directory.path(leaf));
    if (!name.ok()) continue;
    for (const ShardRecord& shard : directory.shards_of(leaf)) {
      std::uint64_t count = 0;
      (void)grid_count(directory.shard_shape(leaf, shard), directory.chunk_shape(leaf, shard), &count);
      for (std::uint64_t i = 0; i < count; ++i) {
        const ChunkRef& ref = directory.refs[shard.first_ref + i];
        out[ref.file].add(ref.extent, *name);
      }
    }
  }
  return out;
}

}  // namespace ostraca
