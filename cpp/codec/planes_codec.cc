#include "codec/planes_codec.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "base/limits.h"
#include "checksum/crc32c.h"
#include "codec/stored_bytes.h"
#include "transform/delta.h"
#include "transform/planes.h"

namespace ostraca {
namespace {

// ---- encoding

bool is_constant(const std::byte* plane, std::size_t count) { return std::memcmp(plane, plane + 1, count - 1) == 0; }

void write_record(std::byte* payload, unsigned k, PlaneMode mode, std::byte value, std::size_t stored_bytes) {
  std::byte* const record = payload + PlanesLayout::kHeaderBytes + k * PlanesLayout::kRecordBytes;
  record[0] = static_cast<std::byte>(mode);
  record[1] = value;
  store_le<std::uint16_t>(record + 2, 0);
  store_le<std::uint32_t>(record + 4, static_cast<std::uint32_t>(stored_bytes));
}

// Raw planes before the first frame have a known place in the payload; null for all others.
std::array<std::byte*, 8> known_places(const std::array<PlaneMode, 8>& modes, unsigned width, std::size_t count,
                                       MutableBytes out) {
  std::array<std::byte*, 8> places{};
  std::size_t at = PlanesLayout::start(width);
  for (unsigned k = 0; k < width; ++k) {
    if (modes[k] == PlaneMode::kHuffman || modes[k] == PlaneMode::kZstd) break;
    if (modes[k] != PlaneMode::kRaw || count > out.size() - at) continue;
    places[k] = out.data() + at;
    at += count;
  }
  return places;
}

// A chunk's planes: those with a known place are stored there, with their CRC, and all others are in scratch.
struct SplitPlanes {
  std::array<std::byte*, 8> places{};  // null: in scratch
  std::array<std::uint32_t, 8> crcs{};
};

// Goes piece by piece, so that what is stored passes through the cache on its way.
void split(Bytes chunk, Bytes base, const Plan& plan, PlaneScratch& scratch, SplitPlanes& planes) {
  constexpr std::size_t kPieceElements = 32 * kKiB;
  const unsigned width = plan.width;
  const std::size_t count = chunk.size() / width;
  planes.crcs.fill(0);
  for (std::size_t i = 0; i < count; i += kPieceElements) {
    const std::size_t n = std::min(kPieceElements, count - i);
    std::array<std::byte*, 8> to{};
    for (unsigned k = 0; k < width; ++k) to[k] = scratch.plane(k) + (planes.places[k] ? 0 : i);
    if (base.empty()) {
      split_planes(chunk.data() + i * width, n, width, plan.rotate, {to.data(), width});
    } else {
      split_differences(chunk.data() + i * width, base.data() + i * width, n, width, {to.data(), width});
    }
    for (unsigned k = 0; k < width; ++k)
      if (planes.places[k]) planes.crcs[k] = store_bytes({to[k], n}, planes.places[k] + i, planes.crcs[k]);
  }
}

}  // namespace

void PlaneScratch::reserve(std::size_t count, unsigned width) {
  // Planes whose starts are a multiple of 4 KiB apart compete for the same cache sets.
  constexpr std::size_t kStagger = 4096 + 256;
  stride_ = count / 4096 * 4096 + kStagger + 4096;
  memory_.reserve(stride_ * width);
}

std::size_t encode_planes(Bytes chunk, Bytes base, const Plan& plan, FrameEncoder& frames, PlaneScratch& scratch,
                          MutableBytes out, std::uint32_t* crc) {
  const unsigned width = plan.width;
  const std::size_t count = chunk.size() / width;
  std::size_t at = PlanesLayout::start(width);
  if (out.size() <= at) return 0;
  scratch.reserve(count, width);

  std::array<PlaneMode, 8> modes = plan.modes;
  std::array<bool, 8> zero_runs = plan.zero_runs;
  SplitPlanes planes{.places = known_places(modes, width, count, out)};
  split(chunk, base, plan, scratch, planes);

  // The sample may have missed what breaks a constant. Where its plane then moves others, they are split again.
  for (unsigned k = 0; k < width; ++k) {
    const std::byte* const plane = scratch.plane(k);
    if (modes[k] != PlaneMode::kConstant || is_constant(plane, count)) continue;
    modes[k] = PlaneMode::kZstd;  // nearly constant: long matches
    zero_runs[k] = !base.empty() && plane[0] == std::byte{0};
  }
  if (const auto places = known_places(modes, width, count, out); places != planes.places) {
    planes.places = places;
    split(chunk, base, plan, scratch, planes);
  }

  out[0] = static_cast<std::byte>(width);
  out[1] = static_cast<std::byte>(plan.rotate ? PlanesLayout::kRotated : 0);
  store_le<std::uint16_t>(out.data() + 2, 0);
  std::array<std::size_t, 8> sizes{};
  for (unsigned k = 0; k < width; ++k) {
    const Bytes plane(scratch.plane(k), count);
    const MutableBytes rest = out.subspan(at);
    if (modes[k] == PlaneMode::kConstant) {
      write_record(out.data(), k, PlaneMode::kConstant, plane[0], 0);
      continue;
    }
    std::size_t stored = planes.places[k] ? count : 0;
    if (modes[k] == PlaneMode::kHuffman) stored = frames.huffman(plane, rest);
    if (modes[k] == PlaneMode::kZstd)
      stored = zero_runs[k] ? frames.zero_runs(plane, rest) : frames.lz(plane, kFastLevel, rest);
    if (modes[k] != PlaneMode::kRaw && stored > 0 && stored <= worthwhile_bytes(count)) {
      planes.crcs[k] = crc32c(rest.first(stored));
    } else {
      if (count > rest.size()) return 0;
      modes[k] = PlaneMode::kRaw;
      stored = count;
      if (!planes.places[k]) planes.crcs[k] = store_bytes(plane, rest.data(), 0);
    }
    write_record(out.data(), k, modes[k], std::byte{0}, stored);
    sizes[k] = stored;
    at += stored;
  }
  *crc = crc32c(out.first(PlanesLayout::start(width)));
  for (unsigned k = 0; k < width; ++k) *crc = crc32c_combine(*crc, planes.crcs[k], sizes[k]);
  return at;
}

// ---- decoding

namespace {

struct PlaneRecord {
  PlaneMode mode = PlaneMode::kRaw;
  std::byte value{};
  Bytes stored;
};

struct PlanesPayload {
  unsigned width = 0;
  bool rotated = false;
  std::size_t count = 0;
  std::array<PlaneRecord, 8> planes;
};

Status bad_plane(unsigned k, const std::string& what) {
  return format_error("plane " + std::to_string(k) + ": " + what);
}

// Fields that must agree with the mode.
Status check_record(unsigned k, unsigned mode, unsigned value, unsigned reserved, std::size_t bytes,
                    std::size_t count) {
  if (mode > static_cast<unsigned>(PlaneMode::kZstd)) return bad_plane(k, "unknown mode " + std::to_string(mode));
  if (reserved != 0) return bad_plane(k, "reserved bytes are not zero");
  const auto m = static_cast<PlaneMode>(mode);
  if (m != PlaneMode::kConstant && value != 0) return bad_plane(k, "a value is given, but the plane is not constant");
  if (m == PlaneMode::kConstant && bytes != 0)
    return bad_plane(k, "constant, but " + std::to_string(bytes) + " bytes are stored");
  if (m == PlaneMode::kRaw && bytes != count)
    return bad_plane(k, "raw, but " + std::to_string(bytes) + " bytes are stored, expected " + std::to_string(count));
  return {};
}

Status parse(Bytes stored, std::size_t decoded_bytes, PlanesPayload* payload) {
  if (stored.size() < PlanesLayout::kHeaderBytes)
    return format_error("planes payload of " + std::to_string(stored.size()) + " bytes is shorter than its header");
  const auto width = std::to_integer<unsigned>(stored[0]);
  const auto transform = std::to_integer<unsigned>(stored[1]);
  if (width != 1 && width != 2 && width != 4 && width != 8)
    return format_error("planes payload of element width " + std::to_string(width));
  if (transform > PlanesLayout::kRotated)
    return format_error("planes payload of unknown transform " + std::to_string(transform));
  if (load_le<std::uint16_t>(stored.data() + 2) != 0) return format_error("planes header: reserved bytes are not zero");
  if (decoded_bytes % width != 0)
    return format_error("planes payload of element width " + std::to_string(width) + " for " +
                        std::to_string(decoded_bytes) + " bytes");
  std::size_t at = PlanesLayout::start(width);
  if (stored.size() < at)
    return format_error("planes payload of " + std::to_string(stored.size()) + " bytes is shorter than its records");

  payload->width = width;
  payload->rotated = transform == PlanesLayout::kRotated;
  payload->count = decoded_bytes / width;
  for (unsigned k = 0; k < width; ++k) {
    const std::byte* const record = stored.data() + PlanesLayout::kHeaderBytes + k * PlanesLayout::kRecordBytes;
    const auto mode = std::to_integer<unsigned>(record[0]);
    const std::size_t bytes = load_le<std::uint32_t>(record + 4);
    OSTRACA_RETURN_IF_ERROR(check_record(k, mode, std::to_integer<unsigned>(record[1]),
                                         load_le<std::uint16_t>(record + 2), bytes, payload->count));
    if (bytes > stored.size() - at)
      return bad_plane(
          k, std::to_string(bytes) + " bytes are claimed, but " + std::to_string(stored.size() - at) + " remain");
    payload->planes[k] = {static_cast<PlaneMode>(mode), record[1], stored.subspan(at, bytes)};
    at += bytes;
  }
  if (at != stored.size())
    return format_error("planes payload has " + std::to_string(stored.size() - at) + " bytes after its last plane");
  return {};
}

// All planes constant: one element, again and again. Copies out of a piece that stays in the cache.
void fill_constant(const PlanesPayload& payload, MutableBytes out) {
  constexpr std::size_t kPieceMax = 16384;
  std::array<const std::byte*, 8> planes{};
  for (unsigned k = 0; k < payload.width; ++k) planes[k] = &payload.planes[k].value;
  merge_planes({planes.data(), payload.width}, 1, payload.width, payload.rotated, out.data());
  for (std::size_t done = payload.width; done < out.size();) {
    const std::size_t piece = std::min({done, out.size() - done, kPieceMax});
    std::memcpy(out.data() + done, out.data(), piece);
    done += piece;
  }
}

}  // namespace

Status decode_planes(Bytes stored, Bytes base, FrameDecoder& frames, PlaneScratch& scratch, MutableBytes out) {
  PlanesPayload payload;
  OSTRACA_RETURN_IF_ERROR(parse(stored, out.size(), &payload));
  const bool delta = !base.empty();
  if (delta && payload.rotated) return format_error("delta payload of rotated differences");
  const std::span<const PlaneRecord> records(payload.planes.data(), payload.width);
  if (out.empty()) {
    for (const PlaneRecord& record : records)
      if (!record.stored.empty()) return format_error("planes payload stores bytes for an empty chunk");
    return {};
  }
  if (!delta && std::all_of(records.begin(), records.end(),
                            [](const PlaneRecord& r) { return r.mode == PlaneMode::kConstant; })) {
    fill_constant(payload, out);
    return {};
  }

  // A single plane that was not rotated is the element array itself.
  const bool in_place = payload.width == 1 && !payload.rotated && !delta;
  if (!in_place) scratch.reserve(payload.count, payload.width);
  std::array<const std::byte*, 8> planes{};
  for (unsigned k = 0; k < payload.width; ++k) {
    const PlaneRecord& record = records[k];
    if (record.mode == PlaneMode::kRaw) {
      planes[k] = record.stored.data();
      continue;
    }
    const MutableBytes target(in_place ? out.data() : scratch.plane(k), payload.count);
    planes[k] = target.data();
    if (record.mode == PlaneMode::kConstant) {
      std::memset(target.data(), std::to_integer<int>(record.value), target.size());
    } else if (Status status = frames.decode(record.stored, target); !status.ok()) {
      return status.with_context("plane " + std::to_string(k));
    }
  }
  if (delta)
    merge_differences({planes.data(), payload.width}, base.data(), payload.count, payload.width, out.data());
  else if (planes[0] != out.data())
    merge_planes({planes.data(), payload.width}, payload.count, payload.width, payload.rotated, out.data());
  return {};
}

}  // namespace ostraca
