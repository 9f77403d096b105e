// Memory that is used again and again, and grows when more is asked for.
#pragma once

#include <cstddef>
#include <memory>

namespace ostraca {

// Not initialized, so that only what is written takes memory. Not thread-safe.
template <class T>
class Scratch {
 public:
  // At least so many elements; what they were is lost when it grows.
  void reserve(std::size_t count) {
    if (count <= size_) return;
    memory_.reset();  // first: never both
    size_ = 0;
    memory_ = std::make_unique_for_overwrite<T[]>(count);
    size_ = count;
  }
  T* data() const { return memory_.get(); }
  std::size_t size() const { return size_; }

 private:
  std::unique_ptr<T[]> memory_;
  std::size_t size_ = 0;
};

}  // namespace ostraca
