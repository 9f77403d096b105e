// Shapes, offsets and strides: short vectors that need no memory of their own for up to four dimensions.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

namespace ostraca {

// What a save or load of 100,000 small arrays would otherwise spend its time on is malloc. Not thread-safe.
template <class T, std::size_t kInside>
class ShortVector {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  using value_type = T;
  using iterator = T*;
  using const_iterator = const T*;

  ShortVector() = default;
  explicit ShortVector(std::size_t size, const T& value = T()) { assign(size, value); }
  ShortVector(std::initializer_list<T> values) { copy(values.begin(), values.size()); }
  // Implicit: a copy of what any contiguous range holds is no conversion worth spelling out.
  template <class Range>
    requires(!std::same_as<std::remove_cvref_t<Range>, ShortVector> && std::convertible_to<Range, std::span<const T>>)
  ShortVector(Range&& range) {
    const std::span<const T> values(range);
    copy(values.data(), values.size());
  }
  template <std::input_iterator Iterator>
  ShortVector(Iterator first, Iterator last) {
    resize(static_cast<std::size_t>(std::distance(first, last)));
    std::copy(first, last, begin());
  }
  ShortVector(const ShortVector& other) { copy(other.data(), other.size_); }
  ShortVector(ShortVector&& other) noexcept
      : inside_(other.inside_), outside_(std::move(other.outside_)), size_(std::exchange(other.size_, 0)) {}
  ShortVector& operator=(const ShortVector& other) {
    if (this != &other) copy(other.data(), other.size_);
    return *this;
  }
  ShortVector& operator=(ShortVector&& other) noexcept {
    inside_ = other.inside_;
    outside_ = std::move(other.outside_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }
  ~ShortVector() = default;

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* data() { return outside_ ? outside_.get() : inside_.data(); }
  const T* data() const { return outside_ ? outside_.get() : inside_.data(); }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }
  T& operator[](std::size_t i) { return data()[i]; }
  const T& operator[](std::size_t i) const { return data()[i]; }

  // What the elements are afterwards is unspecified, unless the size stays.
  void resize(std::size_t size) {
    if (size == size_) return;
    outside_.reset();
    size_ = 0;
    if (size > kInside) outside_ = std::make_unique<T[]>(size);
    size_ = size;
  }
  void assign(std::size_t size, const T& value) {
    resize(size);
    std::fill_n(data(), size, value);
  }

  friend bool operator==(const ShortVector& a, const ShortVector& b) { return std::ranges::equal(a, b); }

 private:
  void copy(const T* values, std::size_t size) {
    resize(size);
    std::copy_n(values, size, data());
  }

  std::array<T, kInside> inside_{};
  std::unique_ptr<T[]> outside_;  // unless they fit inside
  std::size_t size_ = 0;
};

using Dims = ShortVector<std::uint64_t, 4>;
using Strides = ShortVector<std::int64_t, 4>;
using DimsView = std::span<const std::uint64_t>;

}  // namespace ostraca
