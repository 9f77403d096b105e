// Finds numbered things by a hash of what they are.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace ostraca {

// What is compared stays with the caller. One cache line for a look-up that finds nothing, which is what most of a
// save's are; std::unordered_map takes several, and a malloc. Not thread-safe.
class HashIndex {
 public:
  // The number inserted with this hash for which equal(number) holds.
  template <class Equal>
  std::optional<std::uint32_t> find(std::uint64_t hash, Equal equal) const {
    if (slots_.empty()) return std::nullopt;
    for (std::size_t i = place(hash); slots_[i].used; i = (i + 1) & (slots_.size() - 1))
      if (slots_[i].hash == hash && equal(slots_[i].number)) return slots_[i].number;
    return std::nullopt;
  }
  void insert(std::uint64_t hash, std::uint32_t number) {
    if (2 * (count_ + 1) > slots_.size()) grow();
    ++count_;
    put({hash, number, true});
  }

 private:
  struct Slot {
    std::uint64_t hash = 0;
    std::uint32_t number = 0;
    bool used = false;
  };
  std::size_t place(std::uint64_t hash) const {  // Fibonacci hashing: the hash may be a pointer
    return static_cast<std::size_t>(hash * 0x9E3779B97F4A7C15 >> 1) >> (63 - std::countr_zero(slots_.size()));
  }
  void put(const Slot& slot) {
    std::size_t i = place(slot.hash);
    while (slots_[i].used) i = (i + 1) & (slots_.size() - 1);
    slots_[i] = slot;
  }
  void grow() {
    std::vector<Slot> old(slots_.empty() ? 16 : 2 * slots_.size());
    old.swap(slots_);
    for (const Slot& slot : old)
      if (slot.used) put(slot);
  }

  std::vector<Slot> slots_;  // a power of two, at most half of them used
  std::size_t count_ = 0;
};

}  // namespace ostraca
