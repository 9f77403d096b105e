#include "transform/box.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/limits.h"

namespace ostraca {
namespace {

struct Axis {
  std::uint64_t count = 1;
  std::int64_t dst_stride = 0;
  std::int64_t src_stride = 0;
};

// One more than the limit on rank: the groups of a byte-swapped item become an axis.
struct Box {
  std::array<Axis, kRankMax + 1> axes;
  std::size_t rank = 0;
};

// Destination-order axes: outermost first, ascending addresses, neighbours merged where both sides allow it.
// Any order of copying is right, since the two sides do not overlap.
void simplify(Box& box, std::byte*& dst, const std::byte*& src) {
  for (std::size_t i = 0; i < box.rank; ++i) {
    Axis& axis = box.axes[i];
    if (axis.dst_stride >= 0) continue;
    const auto last = static_cast<std::int64_t>(axis.count - 1);
    dst += last * axis.dst_stride;
    src += last * axis.src_stride;
    axis.dst_stride = -axis.dst_stride;
    axis.src_stride = -axis.src_stride;
  }
  std::stable_sort(box.axes.begin(), box.axes.begin() + static_cast<std::ptrdiff_t>(box.rank),
                   [](const Axis& a, const Axis& b) { return a.dst_stride > b.dst_stride; });
  std::size_t kept = 0;
  for (std::size_t i = 0; i < box.rank; ++i) {
    const Axis inner = box.axes[i];
    const auto count = static_cast<std::int64_t>(inner.count);
    if (kept > 0 && box.axes[kept - 1].dst_stride == count * inner.dst_stride &&
        box.axes[kept - 1].src_stride == count * inner.src_stride) {
      box.axes[kept - 1] = {box.axes[kept - 1].count * inner.count, inner.dst_stride, inner.src_stride};
    } else {
      box.axes[kept++] = inner;
    }
  }
  box.rank = kept;
}

constexpr std::size_t kLineBytes = 64;      // a cache line
constexpr std::size_t kTiledItemMax = 64;   // bytes; larger items are whole lines already
constexpr std::size_t kUnbufferedItem = 8;  // bytes; from here on a tile has few lines

// Copies an inner rectangle of items: `rows` by `columns`, the latter innermost.
using Kernel = void (*)(std::byte* dst, const std::byte* src, const Axis& rows, const Axis& columns, std::size_t item);

void copy_runs(std::byte* dst, const std::byte* src, const Axis& rows, const Axis& columns, std::size_t item) {
  for (std::uint64_t r = 0; r < rows.count; ++r) {
    std::byte* d = dst + static_cast<std::int64_t>(r) * rows.dst_stride;
    const std::byte* s = src + static_cast<std::int64_t>(r) * rows.src_stride;
    for (std::uint64_t c = 0; c < columns.count; ++c, d += columns.dst_stride, s += columns.src_stride)
      std::memcpy(d, s, item);
  }
}

inline std::uint16_t swapped(std::uint16_t x) { return __builtin_bswap16(x); }
inline std::uint32_t swapped(std::uint32_t x) { return __builtin_bswap32(x); }
inline std::uint64_t swapped(std::uint64_t x) { return __builtin_bswap64(x); }

struct Word16 {  // sixteen bytes that move as one
  std::uint64_t half[2];
};

template <class Word, bool kSwap>
void copy_words(std::byte* dst, const std::byte* src, const Axis& rows, const Axis& columns, std::size_t) {
  for (std::uint64_t r = 0; r < rows.count; ++r) {
    std::byte* d = dst + static_cast<std::int64_t>(r) * rows.dst_stride;
    const std::byte* s = src + static_cast<std::int64_t>(r) * rows.src_stride;
    if (columns.dst_stride == sizeof(Word) && columns.src_stride == sizeof(Word)) {
      for (std::uint64_t c = 0; c < columns.count; ++c) {  // known strides: this one vectorises
        auto word = load_le<Word>(s + c * sizeof(Word));
        if constexpr (kSwap) word = swapped(word);
        store_le(d + c * sizeof(Word), word);
      }
      continue;
    }
    std::uint64_t c = 0;
    if constexpr (sizeof(Word) < 8) {
      // Gathered words leave eight bytes at a time: narrow stores are what a transpose waits for.
      constexpr std::uint64_t kTogether = 8 / sizeof(Word);
      if (columns.dst_stride == sizeof(Word)) {
        for (; c + kTogether <= columns.count; c += kTogether, d += 8) {
          std::uint64_t together = 0;
          for (std::uint64_t i = 0; i < kTogether; ++i, s += columns.src_stride) {
            auto word = load_le<Word>(s);
            if constexpr (kSwap) word = swapped(word);
            together |= static_cast<std::uint64_t>(word) << (8 * sizeof(Word) * i);
          }
          store_le(d, together);
        }
      }
    }
    for (; c < columns.count; ++c, d += columns.dst_stride, s += columns.src_stride) {
      auto word = load_le<Word>(s);
      if constexpr (kSwap) word = swapped(word);
      store_le(d, word);
    }
  }
}

Kernel pick_kernel(std::size_t item, bool swap) {
  switch (item) {
    case 1:
      return copy_words<std::uint8_t, false>;
    case 2:
      return swap ? copy_words<std::uint16_t, true> : copy_words<std::uint16_t, false>;
    case 4:
      return swap ? copy_words<std::uint32_t, true> : copy_words<std::uint32_t, false>;
    case 8:
      return swap ? copy_words<std::uint64_t, true> : copy_words<std::uint64_t, false>;
    case 16:
      return copy_words<Word16, false>;
  }
  return copy_runs;
}

std::uint64_t magnitude(std::int64_t stride) {
  return stride < 0 ? 0 - static_cast<std::uint64_t>(stride) : static_cast<std::uint64_t>(stride);
}

// When the source's fastest axis is not the destination's, rows of one side are columns of the other. Square tiles let
// both sides use whole cache lines while these are still cached. Small items make tiles of many lines, which push each
// other out when they are a power of two apart: those tiles go through a buffer, so that each line is used at once.
void copy_tiled(Kernel kernel, std::byte* dst, const std::byte* src, const Axis& rows, const Axis& columns,
                std::size_t item) {
  const std::uint64_t tile = std::max<std::uint64_t>(kLineBytes / item, 8);
  const bool buffered = item < kUnbufferedItem;
  const Kernel gather = pick_kernel(item, false);
  const auto pitch = static_cast<std::int64_t>((tile + 1) * item);
  const auto unit = static_cast<std::int64_t>(item);
  std::byte buffer[kLineBytes * (kLineBytes + 1)];  // the largest tile: of one-byte items
  for (std::uint64_t c = 0; c < columns.count; c += tile) {
    const std::uint64_t width = std::min(tile, columns.count - c);
    for (std::uint64_t r = 0; r < rows.count; r += tile) {
      const std::uint64_t height = std::min(tile, rows.count - r);
      const auto i = static_cast<std::int64_t>(r), j = static_cast<std::int64_t>(c);
      std::byte* const to = dst + i * rows.dst_stride + j * columns.dst_stride;
      const std::byte* const from = src + i * rows.src_stride + j * columns.src_stride;
      if (buffered) {
        gather(buffer, from, {width, pitch, columns.src_stride}, {height, unit, rows.src_stride}, item);
        kernel(to, buffer, {height, rows.dst_stride, unit}, {width, columns.dst_stride, pitch}, item);
      } else {
        kernel(to, from, {height, rows.dst_stride, rows.src_stride}, {width, columns.dst_stride, columns.src_stride},
               item);
      }
    }
  }
}

// Walks all axes but the two of the rectangle like an odometer.
void walk(Box& outer, Kernel kernel, bool tiled, std::byte* dst, const std::byte* src, const Axis& rows,
          const Axis& columns, std::size_t item) {
  std::array<std::uint64_t, kRankMax + 1> index{};
  for (;;) {
    if (tiled) {
      copy_tiled(kernel, dst, src, rows, columns, item);
    } else {
      kernel(dst, src, rows, columns, item);
    }
    std::size_t i = outer.rank;
    for (; i > 0; --i) {
      const Axis& axis = outer.axes[i - 1];
      dst += axis.dst_stride;
      src += axis.src_stride;
      if (++index[i - 1] < axis.count) break;
      index[i - 1] = 0;
      dst -= static_cast<std::int64_t>(axis.count) * axis.dst_stride;
      src -= static_cast<std::int64_t>(axis.count) * axis.src_stride;
    }
    if (i == 0) return;
  }
}

Axis take_axis(Box& box, std::size_t i) {
  const Axis axis = box.axes[i];
  for (std::size_t k = i + 1; k < box.rank; ++k) box.axes[k - 1] = box.axes[k];
  --box.rank;
  return axis;
}

}  // namespace

void copy_box(std::byte* dst, std::span<const std::int64_t> dst_strides, const std::byte* src,
              std::span<const std::int64_t> src_strides, std::span<const std::uint64_t> shape, std::size_t item_bytes,
              unsigned swap_bytes) {
  Box box;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] == 0) return;
    if (shape[i] > 1) box.axes[box.rank++] = {shape[i], dst_strides[i], src_strides[i]};
  }
  std::size_t item = item_bytes;
  const bool swap = swap_bytes > 1;
  if (swap && item > swap_bytes) {  // the groups of an item are an axis of their own
    const auto stride = static_cast<std::int64_t>(swap_bytes);
    box.axes[box.rank++] = {item / swap_bytes, stride, stride};
    item = swap_bytes;
  }
  simplify(box, dst, src);
  if (!swap && box.rank > 0) {
    const Axis& inner = box.axes[box.rank - 1];
    if (inner.dst_stride == static_cast<std::int64_t>(item) && inner.src_stride == inner.dst_stride) {
      item *= inner.count;
      --box.rank;
    }
  }

  Axis rows, columns;
  if (box.rank > 0) columns = take_axis(box, box.rank - 1);
  bool tiled = false;
  if (box.rank > 0) {
    std::size_t fastest = box.rank - 1;
    std::uint64_t best = ~std::uint64_t{0};
    for (std::size_t i = 0; i < box.rank; ++i) {
      const std::uint64_t stride = magnitude(box.axes[i].src_stride);
      if (stride != 0 && stride <= best) best = stride, fastest = i;
    }
    tiled = best < magnitude(columns.src_stride) && item <= kTiledItemMax;
    rows = take_axis(box, tiled ? fastest : box.rank - 1);
  }
  walk(box, pick_kernel(item, swap), tiled, dst, src, rows, columns, item);
}

}  // namespace ostraca
