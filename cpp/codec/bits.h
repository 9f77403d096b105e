// Bits one by one, for the small parts of a frame: descriptions of trees and tables.
#pragma once

#include <cstddef>

#include "base/bytes.h"

namespace ostraca {

// Appends bits, least significant first. What does not fit is dropped, but counted.
class BitWriter {
 public:
  explicit BitWriter(MutableBytes out) : out_(out) {}
  void put(unsigned value, unsigned bits) {
    for (unsigned i = 0; i < bits; ++i, ++at_) {
      if (at_ / 8 >= out_.size()) continue;
      if (at_ % 8 == 0) out_[at_ / 8] = std::byte{0};
      out_[at_ / 8] |= static_cast<std::byte>((value >> i & 1) << at_ % 8);
    }
  }
  std::size_t bytes() const { return (at_ + 7) / 8; }  // needed; more than there were if it overflowed

 private:
  MutableBytes out_;
  std::size_t at_ = 0;
};

// The bits [at, at + bits) of `in`, least significant first; outside of it bits are zero.
inline unsigned bits_at(Bytes in, std::ptrdiff_t at, unsigned bits) {
  unsigned value = 0;
  for (unsigned i = 0; i < bits; ++i) {
    const std::ptrdiff_t bit = at + static_cast<std::ptrdiff_t>(i);
    if (bit < 0 || bit >= 8 * static_cast<std::ptrdiff_t>(in.size())) continue;
    value |= (std::to_integer<unsigned>(in[static_cast<std::size_t>(bit) / 8]) >> bit % 8 & 1) << i;
  }
  return value;
}

}  // namespace ostraca
