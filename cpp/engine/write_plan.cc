#include "engine/write_plan.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "transform/box.h"

namespace ostraca {

PlannedSource::PlannedSource(ArraySource source, std::uint32_t item, Dims chunks)
    : array(std::move(source)),
      item_bytes(item),
      bytes(item),
      chunk_shape(std::move(chunks)),
      grid(array.shape, chunk_shape) {
  for (std::uint64_t d : array.shape) bytes *= d;
  refs.resize(grid.count());
  unread_chunks = grid.count();
}

const std::byte* PlannedSource::locate(std::uint64_t chunk, Dims& box_shape) const {
  Dims origin;
  grid.box(chunk, origin, box_shape);
  const std::byte* data = array.data;
  for (std::size_t d = 0; d < origin.size(); ++d) data += static_cast<std::int64_t>(origin[d]) * array.strides[d];
  return data;
}

void PlannedSource::gather(std::uint64_t chunk, std::byte* out) const {
  Dims box_shape;
  const std::byte* data = locate(chunk, box_shape);
  copy_box(out, c_strides(box_shape, item_bytes), data, array.strides, box_shape, item_bytes,
           array.big_endian ? dtype_info(array.dtype).scalar_bytes : 1);
}

const std::byte* PlannedSource::in_place(std::uint64_t chunk) const {
  if (array.big_endian && dtype_info(array.dtype).scalar_bytes > 1) return nullptr;
  Dims box_shape;
  const std::byte* data = locate(chunk, box_shape);
  return is_c_contiguous(box_shape, array.strides, item_bytes) ? data : nullptr;
}

std::uint32_t PlannedSource::chunk_bytes(std::uint64_t chunk) const {
  Dims origin, box_shape;
  grid.box(chunk, origin, box_shape);
  std::uint64_t size = item_bytes;
  for (std::uint64_t d : box_shape) size *= d;
  return static_cast<std::uint32_t>(size);
}

Batch BatchBuilder::add(Piece piece) {
  Batch full;
  if (batch_.decoded_bytes + piece.decoded_bytes > room_) full = take();
  batch_.decoded_bytes += piece.decoded_bytes;
  for (const Fragment& fragment : piece.fragments)
    if (!fragment.source->array.immutable) batch_.reads_mutable_memory = true;
  batch_.pieces.push_back(std::move(piece));
  return full;
}

Batch BatchBuilder::take() {
  room_ = kBlockBytes;
  return std::exchange(batch_, {});
}

std::vector<Piece> Packer::take() {
  std::vector<Piece> pieces;
  DType dtype = DType::kNone;
  const auto place = [](const Member& m) { return std::tuple(m.dtype, m.name); };
  if (!std::ranges::is_sorted(members_, {}, place)) std::ranges::stable_sort(members_, {}, place);
  for (const Member& member : members_) {
    const auto size = static_cast<std::uint32_t>(member.source->bytes);
    if (pieces.empty() || member.dtype != dtype || pieces.back().decoded_bytes + size > kPackBytesMax) {
      dtype = member.dtype;
      const DTypeInfo& info = dtype_info(dtype);
      pieces.push_back({{info.scalar_bytes, info.is_float}, 0, {}});
    }
    pieces.back().fragments.push_back({member.source, 0, pieces.back().decoded_bytes});
    pieces.back().decoded_bytes += size;
  }
  members_.clear();
  return pieces;
}

}  // namespace ostraca
