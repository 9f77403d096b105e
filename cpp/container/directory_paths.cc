#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "container/directory_checks.h"
#include "container/key_path.h"

namespace ostraca {
namespace {

std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

// Hash of `text` after something whose hash is `state`.
std::uint64_t hash_more(std::uint64_t state, std::string_view text) {
  constexpr std::uint64_t kOdd1 = 0x9E3779B97F4A7C15, kOdd2 = 0xD6E8FEB86659FD93;
  const std::size_t size = text.size();
  for (; text.size() >= 8; text.remove_prefix(8))
    state = mix(state ^ load_le<std::uint64_t>(as_bytes(text).data()), kOdd1);
  std::uint64_t tail = 0;
  if (!text.empty()) std::memcpy(&tail, text.data(), text.size());
  return mix(state ^ tail, kOdd2 ^ size) + kOdd1;
}

// A set of hashes that is allowed to say "seen" wrongly: the caller then looks exactly. So it needs no keys, and a
// hostile file that makes hashes collide only makes it say so at once.
class SeenHashes {
 public:
  explicit SeenHashes(std::size_t count) : slots_(std::bit_ceil(2 * count + kProbesMax)) {}

  // False when it may have been inserted before.
  bool insert(std::uint64_t hash) {
    hash |= 1;  // zero marks a free slot
    for (std::size_t probe = 0; probe < kProbesMax; ++probe) {
      std::uint64_t& slot = slots_[((hash >> 1) + probe) & (slots_.size() - 1)];
      if (slot == hash) return false;
      if (slot == 0) return slot = hash, true;
    }
    return false;
  }

 private:
  static constexpr std::size_t kProbesMax = 64;
  std::vector<std::uint64_t> slots_;
};

// Whether a leaf is the data of the strings before it: the one leaf that lies below another.
bool is_data_of_strings(const Directory& directory, const LeafRecord& leaf) {
  static const std::string part = encode_key_path({{KeyPart::Type::kAttribute, "data", 0}});
  if (&leaf == directory.leaves.data()) return false;
  const LeafRecord& before = *(&leaf - 1);
  const std::string_view path = directory.path(leaf), above = directory.path(before);
  return kind_is_strings(before.kind) && path.size() == above.size() + part.size() && path.starts_with(above) &&
         path.ends_with(part);
}

// Walks the leaves and compares each with the one before it. In tree order, all leaves below a node follow each other,
// so neighbours are all that can disagree.
class PathCheck {
 public:
  explicit PathCheck(const Directory& directory) : directory_(directory) {}

  bool grouped() const { return grouped_; }  // no node was left and entered again, as far as `seen` can tell
  bool integer_keys() const { return integer_keys_; }

  // REQUIRES: without `seen`, leaves come in an order in which those below a node follow each other.
  Status visit(const LeafRecord& leaf, SeenHashes* seen) {
    const std::string_view path = directory_.path(leaf);
    std::string_view previous;
    if (previous_ != nullptr) previous = directory_.path(*previous_);
    const auto common = static_cast<std::size_t>(std::ranges::mismatch(path, previous).in1 - path.begin());
    Node left;  // the highest node that is left with this leaf
    bool leaves_node = false;
    for (; !nodes_.empty() && nodes_.back().end > common; nodes_.pop_back()) left = nodes_.back(), leaves_node = true;
    std::size_t at = nodes_.empty() ? 0 : nodes_.back().end;
    if (previous_ != nullptr && (!leaves_node || at == path.size())) return nested(leaf, path == previous);
    if (leaves_node && seen != nullptr && !left.recorded) grouped_ = seen->insert(left.hash) && grouped_;
    for (bool first = true; at < path.size(); first = false) {
      KeyPartView part;
      std::string_view rest = path.substr(at);
      if (const char* problem = next_key_part(&rest, &part))
        return leaf_error(directory_, leaf, std::string("key path: ") + problem);
      Node node;
      node.end = path.size() - rest.size();
      node.container = container_of(part.type);
      node.hash = hash_more(nodes_.empty() ? 0 : nodes_.back().hash, path.substr(at, node.end - at));
      integer_keys_ = integer_keys_ || part.type == KeyPart::Type::kInteger;
      if (first && leaves_node) {
        if (node.container != left.container) return mixed(leaf, at);
        node.recorded = true;
        if (seen != nullptr) grouped_ = seen->insert(node.hash) && grouped_;
      }
      nodes_.push_back(node);
      at = node.end;
    }
    previous_ = &leaf;
    return {};
  }

 private:
  // A part of the previous leaf's path, with the parts before it.
  struct Node {
    std::size_t end = 0;  // bytes of the path up to here
    std::uint64_t hash = 0;
    int container = 0;
    bool recorded = false;  // in the set of seen nodes
  };

  Status nested(const LeafRecord& leaf, bool same) const {
    if (same) return leaf_error(directory_, leaf, "key path is not unique");
    return leaf_error(
        directory_, leaf,
        "and leaf '" + printable_name(directory_.path(*previous_)) + "' cannot both exist: one lies below the other");
  }

  Status mixed(const LeafRecord& leaf, std::size_t parent_end) const {
    return leaf_error(directory_, leaf,
                      "and leaf '" + printable_name(directory_.path(*previous_)) +
                          "' disagree on the container of node '" +
                          printable_name(directory_.path(leaf).substr(0, parent_end)) + "'");
  }

  const Directory& directory_;
  const LeafRecord* previous_ = nullptr;
  std::vector<Node> nodes_;
  bool grouped_ = true;
  bool integer_keys_ = false;
};

// Exact, whatever the order: sorted by their bytes, paths with a common beginning follow each other.
Status check_sorted_paths(const Directory& directory) {
  std::vector<const LeafRecord*> order;
  order.reserve(directory.leaves.size());
  for (const LeafRecord& leaf : directory.leaves)
    if (!is_data_of_strings(directory, leaf)) order.push_back(&leaf);
  std::ranges::sort(order, {}, [&](const LeafRecord* leaf) { return directory.path(*leaf); });
  PathCheck check(directory);
  for (const LeafRecord* leaf : order) OSTRACA_RETURN_IF_ERROR(check.visit(*leaf, nullptr));
  return {};
}

Status check_names(const Directory& directory) {
  struct Name {
    std::uint64_t hash = 0;
    std::size_t offset = 0;
    std::size_t bytes = 0;
    const LeafRecord* leaf = nullptr;
  };
  std::string all;
  std::vector<Name> names;
  names.reserve(directory.leaves.size());
  for (const LeafRecord& leaf : directory.leaves) {
    const std::size_t offset = all.size();
    KeyPartView part;
    for (std::string_view rest = directory.path(leaf); !rest.empty();) {
      if (rest.size() != leaf.path_bytes) all.push_back('/');
      if (next_key_part(&rest, &part) != nullptr) return leaf_error(directory, leaf, "key path is malformed");
      append_display(part, &all);
    }
    names.push_back({0, offset, all.size() - offset, &leaf});
  }
  const auto text = [&](const Name& name) { return std::string_view(all).substr(name.offset, name.bytes); };
  for (Name& name : names) name.hash = hash_more(0, text(name));
  std::ranges::sort(
      names, [&](const Name& a, const Name& b) { return a.hash != b.hash ? a.hash < b.hash : text(a) < text(b); });
  for (std::size_t i = 1; i < names.size(); ++i)
    if (names[i].hash == names[i - 1].hash && text(names[i]) == text(names[i - 1]))
      return leaf_error(directory, *names[i].leaf, "another leaf has the same display name");
  return {};
}

}  // namespace

Status check_key_paths(const Directory& directory) {
  PathCheck check(directory);
  SeenHashes seen(2 * directory.leaves.size());
  for (const LeafRecord& leaf : directory.leaves)
    if (!is_data_of_strings(directory, leaf)) OSTRACA_RETURN_IF_ERROR(check.visit(leaf, &seen));
  if (!check.grouped()) OSTRACA_RETURN_IF_ERROR(check_sorted_paths(directory));
  // Where containers agree, different paths have different names, but that 5 is spelt like "5".
  return check.integer_keys() ? check_names(directory) : Status();
}

Status check_strings(const Directory& directory) {
  for (const LeafRecord& leaf : directory.leaves) {
    if (!kind_is_strings(leaf.kind)) continue;
    const LeafRecord* const data = &leaf + 1;
    if (&leaf == &directory.leaves.back() || !is_data_of_strings(directory, *data) || data->kind != LeafKind::kArray ||
        data->dtype != DType::kUint8 || data->rank != 1)
      return leaf_error(directory, leaf, "expected its data in the leaf after it: uint8 [n], at its attribute 'data'");
  }
  return {};
}

}  // namespace ostraca
