#include <algorithm>
#include <vector>

#include "container/directory_checks.h"

namespace ostraca {
namespace {

constexpr std::size_t kPairwiseMax = 8;  // boxes compared each with each without further thought

// Splits the boxes, one dimension after the other, into runs that don't touch in it. That takes grids, and whatever
// straight cuts can make, apart in a few sorts. What no dimension splits is compared pair by pair.
class DisjointCheck {
 public:
  DisjointCheck(const Directory& directory, const LeafRecord& leaf, std::uint64_t* budget)
      : directory_(directory), leaf_(leaf), budget_(budget) {}

  Status run() {
    boxes_.reserve(leaf_.shard_count);
    for (const ShardRecord& shard : directory_.shards_of(leaf_)) boxes_.push_back(directory_.dims.data() + shard.dims);
    todo_.push_back({0, boxes_.size(), 0});
    while (!todo_.empty()) {
      const Range range = todo_.back();
      todo_.pop_back();
      bool split = false;
      if (range.end - range.begin > kPairwiseMax)
        for (std::size_t k = 0; k < leaf_.rank && !split; ++k) {
          if (!spend(range.end - range.begin)) return too_irregular();
          split = split_along((range.dimension + k) % leaf_.rank, range);
        }
      if (!split) OSTRACA_RETURN_IF_ERROR(compare_pairs(range));
    }
    return {};
  }

 private:
  struct Range {
    std::size_t begin = 0;
    std::size_t end = 0;
    std::size_t dimension = 0;  // the one to try first
  };

  // A box is its dimensions: offset, then shape.
  std::uint64_t low(const std::uint64_t* box, std::size_t d) const { return box[d]; }
  std::uint64_t high(const std::uint64_t* box, std::size_t d) const { return box[d] + box[leaf_.rank + d]; }

  bool spend(std::uint64_t steps) {
    if (steps > *budget_) return false;
    *budget_ -= steps;
    return true;
  }

  // False when the boxes of `range` are one run along `d`.
  bool split_along(std::size_t d, const Range& range) {
    const auto first = boxes_.begin();
    std::sort(first + static_cast<std::ptrdiff_t>(range.begin), first + static_cast<std::ptrdiff_t>(range.end),
              [&](const auto* a, const auto* b) { return low(a, d) < low(b, d); });
    std::size_t begin = range.begin;
    std::uint64_t reach = high(boxes_[begin], d);
    for (std::size_t i = range.begin + 1; i < range.end; ++i) {
      if (low(boxes_[i], d) >= reach) {
        todo_.push_back({begin, i, d + 1});
        begin = i;
      }
      reach = std::max(reach, high(boxes_[i], d));
    }
    if (begin == range.begin) return false;
    todo_.push_back({begin, range.end, d + 1});
    return true;
  }

  Status compare_pairs(const Range& range) {
    for (std::size_t i = range.begin; i < range.end; ++i) {
      if (!spend(range.end - i)) return too_irregular();
      for (std::size_t j = i + 1; j < range.end; ++j)
        if (overlap(boxes_[i], boxes_[j])) return overlap_error(boxes_[i], boxes_[j]);
    }
    return {};
  }

  bool overlap(const std::uint64_t* a, const std::uint64_t* b) const {
    for (std::size_t d = 0; d < leaf_.rank; ++d)
      if (low(a, d) >= high(b, d) || low(b, d) >= high(a, d)) return false;
    return true;
  }

  std::string describe(const std::uint64_t* box) const {
    constexpr std::size_t kDimensionsShown = 8;
    std::string out = "[";
    for (std::size_t d = 0; d < std::min<std::size_t>(leaf_.rank, kDimensionsShown); ++d)
      out += (d > 0 ? ", " : "") + std::to_string(low(box, d)) + ":" + std::to_string(high(box, d));
    return out + (leaf_.rank > kDimensionsShown ? ", ...]" : "]");
  }

  Status overlap_error(const std::uint64_t* a, const std::uint64_t* b) const {
    return leaf_error(directory_, leaf_, "shards overlap: " + describe(a) + " and " + describe(b));
  }

  Status too_irregular() const {
    return leaf_error(directory_, leaf_,
                      std::to_string(leaf_.shard_count) + " shards overlap, or lie too irregularly to tell");
  }

  const Directory& directory_;
  const LeafRecord& leaf_;
  std::uint64_t* budget_;
  std::vector<const std::uint64_t*> boxes_;
  std::vector<Range> todo_;
};

}  // namespace

Status check_disjoint(const Directory& directory, const LeafRecord& leaf, std::uint64_t* budget) {
  return DisjointCheck(directory, leaf, budget).run();
}

}  // namespace ostraca
