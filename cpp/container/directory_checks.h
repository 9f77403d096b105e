// What decoding a directory checks once the tables are loaded, one function a concern. Internal to container/.
#pragma once

#include "container/directory.h"

namespace ostraca {

// Ids, order and process indices of the file table.
Status check_files(const Directory& directory, bool complete);

// Every leaf and its shards by themselves: places inside the tables, kind, dtype, shapes, boxes, cover.
// All other checks, and the accessors of Directory, are safe only after this one.
Status check_leaves(const Directory& directory, bool complete);

// References exist; shards that share any share them all (docs/format.md, section 4: tied arrays).
Status check_shared_references(const Directory& directory);

// Key paths are well-formed, unique as paths and as display names, and make one tree.
Status check_key_paths(const Directory& directory);
// Strings have their data after them: in an index.
Status check_strings(const Directory& directory);

// No two of the leaf's shards share an element. Takes what it spends off `budget`, and refuses when that is used up:
// honest shards are grids, and cost little more than a sort. REQUIRES: every box is not empty and lies in the shape.
Status check_disjoint(const Directory& directory, const LeafRecord& leaf, std::uint64_t* budget);

// format_error("leaf 'params/w': " + message)
Status leaf_error(const Directory& directory, const LeafRecord& leaf, const std::string& message);

}  // namespace ostraca
