// The leaves a Writer was given, and the directory they become.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

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
  Result<std::size_t> add(const ArraySource& source, const std::string& name);
  // A shard that holds data, for the leaf just noted. `planned` may serve several shards (tied arrays).
  void add_shard(std::size_t leaf, const ArraySource& source, const PlannedSource& planned);

  // REQUIRES: the pipeline has filled in the references.
  Directory directory(std::uint32_t process_index, const CheckpointId& id) const;

 private:
  struct Shard {
    Dims offset;
    Dims shape;
    const PlannedSource* planned;
  };
  struct Leaf {
    std::string path;
    LeafKind kind;
    DType dtype;
    std::string detail;
    bool big_endian;
    Dims global_shape;
    std::vector<Shard> shards;
  };
  std::vector<Leaf> leaves_;
  std::unordered_map<std::string, std::size_t> numbers_;  // by display name
};

}  // namespace ostraca
