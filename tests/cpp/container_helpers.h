// Builders and byte tricks that the tests of container/ share.
#pragma once

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "container/directory.h"
#include "container/file_format.h"

namespace ostraca {

inline KeyPart key(std::string text) { return {KeyPart::Type::kString, std::move(text), 0}; }
inline KeyPart integer_key(std::int64_t value) { return {KeyPart::Type::kInteger, {}, value}; }
inline KeyPart list_index(std::int64_t value) { return {KeyPart::Type::kListIndex, {}, value}; }
inline KeyPart tuple_index(std::int64_t value) { return {KeyPart::Type::kTupleIndex, {}, value}; }
inline KeyPart attribute(std::string text) { return {KeyPart::Type::kAttribute, std::move(text), 0}; }

inline CheckpointId test_id(std::uint8_t seed = 1) {
  CheckpointId id;
  for (std::size_t i = 0; i < id.bytes.size(); ++i) id.bytes[i] = static_cast<std::uint8_t>(seed + i);
  return id;
}

using Dims = std::vector<std::uint64_t>;

// Builds directories in the form that writers produce.
class DirectoryBuilder {
 public:
  explicit DirectoryBuilder(std::uint32_t processes = 1) {
    for (std::uint32_t p = 0; p < processes; ++p) directory.files.push_back({4096, 7, p, test_id(), false});
  }

  LeafRecord& leaf(const std::vector<KeyPart>& parts, const Dims& shape, DType dtype = DType::kFloat32,
                   LeafKind kind = LeafKind::kArray, const std::string& detail = "") {
    const std::string path = encode_key_path(parts);
    LeafRecord leaf;
    leaf.path_offset = directory.add_text(path);
    leaf.path_bytes = static_cast<std::uint32_t>(path.size());
    leaf.kind = kind;
    leaf.dtype = dtype;
    leaf.rank = static_cast<std::uint8_t>(shape.size());
    leaf.dims = directory.add_dims(shape);
    leaf.first_shard = directory.shards.size();
    leaf.detail_bytes = static_cast<std::uint32_t>(detail.size());
    leaf.detail_offset = directory.add_text(detail);
    directory.leaves.push_back(leaf);
    return directory.leaves.back();
  }

  // A shard of the last leaf, with a reference for each chunk.
  void shard(const Dims& offset, const Dims& shape, const Dims& chunk, std::uint32_t file = 0) {
    ShardRecord shard;
    shard.dims = directory.add_dims(offset);
    directory.add_dims(shape);
    directory.add_dims(chunk);
    shard.first_ref = directory.refs.size();
    shard.process = file;
    directory.shards.push_back(shard);
    ++directory.leaves.back().shard_count;
    std::uint64_t count = 0;
    if (!grid_count(shape, chunk, &count)) count = 0;
    for (std::uint64_t i = 0; i < count; ++i)
      directory.refs.push_back({file, static_cast<std::uint32_t>(directory.refs.size()), 0});
  }

  // A leaf that is one shard of one chunk.
  void whole(const std::vector<KeyPart>& parts, const Dims& shape, DType dtype = DType::kFloat32) {
    leaf(parts, shape, dtype);
    shard(Dims(shape.size(), 0), shape, shape);
  }

  Result<IndexDirectory> decode() const { return decode_index_directory(encode_directory(directory)); }
  // The message of the refusal; empty when it is accepted.
  std::string refusal(bool complete = true) const {
    const auto bytes = encode_directory(directory);
    const Status status = complete ? decode_index_directory(bytes).status() : decode_data_directory(bytes).status();
    return status.message();
  }

  IndexDirectory directory;
};

template <class T>
std::vector<T> flipped(std::vector<T> bytes, std::size_t bit) {
  bytes[bit / 8] ^= T(1u << bit % 8);
  return bytes;
}

}  // namespace ostraca
