#include "engine/write_plan.h"

#include <algorithm>
#include <bit>
#include <tuple>
#include <utility>

#include "base/checked.h"
#include "base/stream_copy.h"
#include "transform/box.h"

namespace ostraca {

Status normalize(ArraySource& a, std::uint32_t* item) {
  OSTRACA_ASSIGN_OR_RETURN(*item, item_bytes(a.dtype, a.detail));
  if (!kind_has_data(a.kind)) {
    if (a.dtype != DType::kNone || !a.shape.empty()) return invalid_argument("a leaf of this kind holds no array");
    return {};
  }
  if (a.dtype == DType::kNone) return invalid_argument("a leaf that holds data needs a dtype");
  const std::size_t rank = a.shape.size();
  if (rank > kRankMax)
    return invalid_argument("rank " + std::to_string(rank) + " is more than " + std::to_string(kRankMax));
  if (dtype_info(a.dtype).scalar_bytes <= 1) a.big_endian = false;  // single bytes have no order
  if (a.strides.empty()) a.strides = c_strides(a.shape, *item);
  if (a.global_shape.empty()) a.global_shape = a.shape;
  if (a.offset.empty()) a.offset.assign(rank, 0);
  if (a.strides.size() != rank || a.global_shape.size() != rank || a.offset.size() != rank)
    return invalid_argument("shape, strides, global shape and offset differ in length");
  std::uint64_t bytes = 0;
  if (!checked_volume(a.global_shape, std::max<std::uint32_t>(*item, 1), &bytes) || bytes > INT64_MAX)
    return invalid_argument("the global shape is too large");
  for (std::size_t d = 0; d < rank; ++d)
    if (!inside(a.offset[d], a.shape[d], a.global_shape[d]))
      return invalid_argument("offset " + std::to_string(a.offset[d]) + " + shape " + std::to_string(a.shape[d]) +
                              " is more than the global shape " + std::to_string(a.global_shape[d]) + " in dimension " +
                              std::to_string(d));
  return {};
}

bool same_memory(const ArraySource& a, const ArraySource& b) {
  return a.data == b.data && a.shape == b.shape && a.strides == b.strides && a.dtype == b.dtype &&
         a.detail == b.detail && a.big_endian == b.big_endian;
}

std::uint64_t memory_hash(const ArraySource& a) {
  std::uint64_t hash = reinterpret_cast<std::uintptr_t>(a.data);
  const auto mix = [&](std::uint64_t value) { hash = std::rotl((hash ^ value) * 0x9E3779B97F4A7C15, 29); };
  for (std::uint64_t size : a.shape) mix(size);
  for (std::int64_t stride : a.strides) mix(static_cast<std::uint64_t>(stride));
  return hash;
}

PlannedSource::PlannedSource(ArraySource source, std::uint32_t item)
    : array(std::move(source)), item_bytes(item), bytes(item), grid(array.shape, array.chunk_shape) {
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

void PlannedSource::stage(std::uint64_t chunk, std::byte* out) const {
  if (const std::byte* data = in_place(chunk)) return stream_copy(out, data, chunk_bytes(chunk));
  gather(chunk, out);
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

void Packer::add(PlannedSource* source, std::string_view name) {
  members_.push_back({source->array.dtype, name, source, source->base.empty() ? std::nullopt : source->base[0]});
}

namespace {

void append(Piece& piece, PlannedSource* source) {
  const DTypeInfo& info = dtype_info(source->array.dtype);
  piece.format = {info.scalar_bytes, info.is_float};
  piece.fragments.push_back({source, 0, piece.decoded_bytes});
  piece.decoded_bytes += static_cast<std::uint32_t>(source->bytes);
}

}  // namespace

// Takes the members that lie side by side in one extent of the base, from its start. Whether that is all of the extent
// is seen when it is compared.
void Packer::take_packs_of_base(std::vector<Piece>& pieces) {
  const auto extent = [](const Member& m) { return std::tuple(m.dtype, m.base->file, m.base->extent); };
  const auto place = [](const Member& m) { return std::tuple(m.dtype, m.base->file, m.base->extent, m.base->offset); };
  const auto begin = std::stable_partition(members_.begin(), members_.end(), [](const Member& m) { return !m.base; });
  const auto end = members_.end();
  if (!std::ranges::is_sorted(begin, end, {}, place)) std::ranges::stable_sort(begin, end, {}, place);
  std::vector<Member> left;
  for (auto first = begin, next = begin; first != end; first = next) {
    const std::size_t left_before = left.size();
    Piece piece;
    bool whole = true;
    for (; next != end && extent(*next) == extent(*first); ++next) {
      if (next->base->offset < piece.decoded_bytes) {
        left.push_back(*next);  // the base has it tied to one that is taken
        continue;
      }
      whole = whole && next->base->offset == piece.decoded_bytes &&
              piece.decoded_bytes + next->source->bytes <= kPackBytesMax;
      if (whole) append(piece, next->source);
    }
    if (whole) {
      pieces.push_back(std::move(piece));
    } else {
      left.resize(left_before);
      left.insert(left.end(), first, next);
    }
  }
  members_.erase(begin, end);
  members_.insert(members_.end(), left.begin(), left.end());
}

std::vector<Piece> Packer::take() {
  std::vector<Piece> pieces;
  take_packs_of_base(pieces);
  const std::size_t first = pieces.size();
  DType dtype = DType::kNone;
  const auto place = [](const Member& m) { return std::tuple(m.dtype, m.name); };
  if (!std::ranges::is_sorted(members_, {}, place)) std::ranges::stable_sort(members_, {}, place);
  for (const Member& member : members_) {
    if (pieces.size() == first || member.dtype != dtype ||
        pieces.back().decoded_bytes + member.source->bytes > kPackBytesMax)
      pieces.emplace_back();
    dtype = member.dtype;
    append(pieces.back(), member.source);
  }
  members_.clear();
  return pieces;
}

}  // namespace ostraca
