// The leaves a Writer was given, and the directory they become.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash_index.h"
#include "container/directory.h"
#include "engine/write_plan.h"
#include "ostraca/writer.h"

namespace ostraca {

// Leaves in the order in which they were first added; a leaf's shards together. Not thread-safe.
class LeafTable {
 public:
  // Notes the leaf of a source, or that one more shard of a known leaf comes. Refuses a source that is a whole leaf
  // when its name is taken, and a shard of another kind, dtype or global shape than the leaf's first. Returns the
  // leaf's number. REQUIRES: what the source may leave out is filled in.
  Result<std::size_t> add(const ArraySource& source, std::string name);
  // A shard that holds data, for the leaf just noted. `planned` may serve several shards (tied arrays).
  void add_shard(std::size_t leaf, const ArraySource& source, const PlannedSource& planned);
  std::string_view name(std::size_t leaf) const { return names_[leaf]; }  // valid as long as this

  // For once. `files`: the process's own, the one with this directory last. `base_files`: those that are referred to.
  // REQUIRES: the pipeline has filled in the references.
  DataDirectory take_directory(std::span<const FileRecord> files, std::span<const FileRecord> base_files);

 private:
  struct Shard {
    std::size_t leaf;
    std::uint64_t dims;  // into Directory::dims
    const PlannedSource* planned;
  };
  DataDirectory directory_;  // without files, shards and references
  std::vector<Shard> shards_;
  std::deque<std::string> names_;  // display names, at stable addresses
  HashIndex numbers_;              // leaves by name
};

}  // namespace ostraca
