// Overflow-checked arithmetic on sizes that come from files or callers.
#pragma once

#include <cstdint>
#include <span>

namespace ostraca {

// False on overflow; *out is then unspecified.
inline bool checked_add(std::uint64_t a, std::uint64_t b, std::uint64_t* out) {
  return !__builtin_add_overflow(a, b, out);
}
inline bool checked_mul(std::uint64_t a, std::uint64_t b, std::uint64_t* out) {
  return !__builtin_mul_overflow(a, b, out);
}

// Product of `dims` times `unit`; 0 when any dimension is 0, whatever the others are.
inline bool checked_volume(std::span<const std::uint64_t> dims, std::uint64_t unit, std::uint64_t* out) {
  for (std::uint64_t d : dims)
    if (d == 0) return *out = 0, true;
  *out = unit;
  for (std::uint64_t d : dims)
    if (!checked_mul(*out, d, out)) return false;
  return true;
}

// [offset, offset + length) lies inside [0, size).
inline bool inside(std::uint64_t offset, std::uint64_t length, std::uint64_t size) {
  return offset <= size && length <= size - offset;
}

}  // namespace ostraca
