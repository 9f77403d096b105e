#include "container/file_format.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstdio>
#include <cstring>

#include "base/checked.h"
#include "base/limits.h"
#include "checksum/crc32c.h"

namespace ostraca {
namespace {

constexpr unsigned char kHeaderMagic[8] = {0x89, 'O', 'S', 'T', 'R', 'A', 'C', 'A'};
constexpr unsigned char kFooterMagic[8] = {'A', 'C', 'A', 'R', 'T', 'S', 'O', 0x89};
constexpr std::uint8_t kContentHashXxh3 = 1;
constexpr std::size_t kHeaderCrcAt = kHeaderBytes - 4;
constexpr std::size_t kFooterMagicAt = 80;
constexpr std::size_t kFooterCrcAt = kFooterBytes - 4;
constexpr std::size_t kDirectoryHeadBytes = 64;

std::string hex32(std::uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof text, "%08x", static_cast<unsigned>(value));
  return text;
}

std::string found(const char* what, std::uint64_t expected, std::uint64_t actual) {
  return std::string(what) + ": expected " + std::to_string(expected) + ", found " + std::to_string(actual);
}

Status check_crc(const char* what, Bytes covered, std::uint32_t stored) {
  const std::uint32_t computed = crc32c(covered);
  if (computed == stored) return {};
  return corruption(std::string(what) + ": crc32c: expected " + hex32(stored) + ", computed " + hex32(computed));
}

CheckpointId load_id(const std::byte* p) {
  CheckpointId id;
  std::memcpy(id.bytes.data(), p, id.bytes.size());
  return id;
}

bool is_magic(const std::byte* p, const unsigned char (&magic)[8]) { return std::memcmp(p, magic, 8) == 0; }

Status check_header_fields(const FileHeader& header, unsigned kind, unsigned hash) {
  if (kind != 1 && kind != 2) return format_error("header: kind: expected 1 or 2, found " + std::to_string(kind));
  if (hash != kContentHashXxh3) return format_error(found("header: content hash algorithm", kContentHashXxh3, hash));
  if (header.process_count < 1 || header.process_count > kProcessCountMax)
    return format_error("header: process count: expected 1 to " + std::to_string(kProcessCountMax) + ", found " +
                        std::to_string(header.process_count));
  if (header.process_index >= header.process_count)
    return format_error("header: process index " + std::to_string(header.process_index) + " of " +
                        std::to_string(header.process_count) + " processes");
  if (!std::has_single_bit(header.alignment) || header.alignment > kAlignmentMax)
    return format_error("header: alignment: expected a power of two up to 65536, found " +
                        std::to_string(header.alignment));
  if (header.kind == FileKind::kData && (header.part > 0) != ((header.features & kFeatureParts) != 0))
    return format_error("header: part " + std::to_string(header.part) +
                        " and the feature 'parts' go together: expected both or neither");
  if (header.kind == FileKind::kIndex && header.part != 0)
    return format_error(found("header: part of an index file", 0, header.part));
  if (header.kind == FileKind::kIndex && header.process_index != 0)
    return format_error(found("header: process index of an index file", 0, header.process_index));
  if (header.kind == FileKind::kIndex && header.alignment != 1)
    return format_error(found("header: alignment of an index file", 1, header.alignment));
  return {};
}

Status check_extent(const Extent& extent, Bytes entry) {
  if (extent.decoded_bytes < 1 || extent.decoded_bytes > kChunkBytesMax)
    return format_error("decoded bytes: expected 1 to 4 MiB, found " + std::to_string(extent.decoded_bytes));
  if (extent.stored_bytes < 1 || extent.stored_bytes > extent.decoded_bytes)
    return format_error("stored bytes: expected 1 to " + std::to_string(extent.decoded_bytes) + ", found " +
                        std::to_string(extent.stored_bytes));
  if (extent.codec > Codec::kDelta)
    return format_error("codec: expected at most " + std::to_string(static_cast<unsigned>(Codec::kDelta)) + ", found " +
                        std::to_string(static_cast<unsigned>(extent.codec)));
  if (extent.codec == Codec::kRaw && extent.stored_bytes != extent.decoded_bytes)
    return format_error(found("stored bytes of a raw extent", extent.decoded_bytes, extent.stored_bytes));
  if (!all_zero(entry.subspan(21, 3))) return format_error("reserved bytes are not zero");
  if (extent.codec != Codec::kDelta && !all_zero(entry.subspan(40, 24)))
    return format_error("an extent that is not a delta names a base");
  return {};
}

Extent load_extent(const std::byte* p) {
  Extent extent;
  extent.offset = load_le<std::uint64_t>(p);
  extent.stored_bytes = load_le<std::uint32_t>(p + 8);
  extent.decoded_bytes = load_le<std::uint32_t>(p + 12);
  extent.crc = load_le<std::uint32_t>(p + 16);
  extent.codec = static_cast<Codec>(load_le<std::uint8_t>(p + 20));
  std::memcpy(extent.hash.data(), p + 24, 16);
  std::memcpy(extent.base_hash.data(), p + 40, 16);
  extent.base_file = load_le<std::uint32_t>(p + 56);
  extent.base_extent = load_le<std::uint32_t>(p + 60);
  return extent;
}

// `next` starts where `end` ends, or after padding. REQUIRES: alignment >= 1
Status check_gap(std::uint64_t end, std::uint64_t next, std::uint32_t alignment) {
  if (next < end)
    return format_error("overlap: byte " + std::to_string(next) + " comes before " + std::to_string(end) +
                        ", the end of what precedes it");
  if (next - end >= alignment)
    return format_error("a gap of " + std::to_string(next - end) + " bytes before byte " + std::to_string(next) +
                        ": expected fewer than " + std::to_string(alignment));
  return {};
}

}  // namespace

std::array<std::byte, kHeaderBytes> encode_header(const FileHeader& header) {
  std::array<std::byte, kHeaderBytes> out{};
  std::byte* p = out.data();
  std::memcpy(p, kHeaderMagic, sizeof kHeaderMagic);
  store_le(p + 8, kFormatVersion);
  store_le(p + 12, static_cast<std::uint8_t>(header.kind));
  store_le(p + 13, kContentHashXxh3);
  store_le(p + 14, static_cast<std::uint16_t>(header.part));
  store_le(p + 16, header.features);
  std::memcpy(p + 24, header.id.bytes.data(), header.id.bytes.size());
  store_le(p + 40, header.process_index);
  store_le(p + 44, header.process_count);
  store_le(p + 48, header.alignment);
  store_le(p + 52, header.compatible_features);
  store_le(p + kHeaderCrcAt, crc32c(Bytes(out).first(kHeaderCrcAt)));
  return out;
}

Result<FileHeader> decode_header(Bytes bytes) {
  if (bytes.size() != kHeaderBytes) return format_error(found("header: bytes", kHeaderBytes, bytes.size()));
  const std::byte* p = bytes.data();
  if (!is_magic(p, kHeaderMagic)) return format_error("header: no magic number: not an Ostraca file");
  OSTRACA_RETURN_IF_ERROR(check_crc("header", bytes.first(kHeaderCrcAt), load_le<std::uint32_t>(p + kHeaderCrcAt)));
  const auto version = load_le<std::uint32_t>(p + 8);
  if (version != kFormatVersion) return unknown_version(version);
  FileHeader header;
  header.features = load_le<std::uint64_t>(p + 16);
  if ((header.features & ~kFeaturesSupported) != 0)
    return format_error("header: requires features that this build lacks: bits " +
                        std::to_string(header.features & ~kFeaturesSupported));
  const auto kind = load_le<std::uint8_t>(p + 12);
  header.kind = static_cast<FileKind>(kind);
  header.id = load_id(p + 24);
  header.process_index = load_le<std::uint32_t>(p + 40);
  header.process_count = load_le<std::uint32_t>(p + 44);
  header.alignment = load_le<std::uint32_t>(p + 48);
  header.part = load_le<std::uint16_t>(p + 14);
  header.compatible_features = load_le<std::uint64_t>(p + 52);
  OSTRACA_RETURN_IF_ERROR(check_header_fields(header, kind, load_le<std::uint8_t>(p + 13)));
  return header;
}

std::array<std::byte, kFooterBytes> encode_footer(const FileFooter& footer) {
  std::array<std::byte, kFooterBytes> out{};
  std::byte* p = out.data();
  store_le(p, footer.table_offset);
  store_le(p + 8, footer.extent_count);
  store_le(p + 16, footer.directory_offset);
  store_le(p + 24, footer.directory_stored_bytes);
  store_le(p + 32, footer.directory_decoded_bytes);
  store_le(p + 40, footer.table_crc);
  store_le(p + 44, footer.directory_crc);
  std::memcpy(p + 48, footer.id.bytes.data(), footer.id.bytes.size());
  store_le(p + 64, footer.file_bytes);
  std::memcpy(p + kFooterMagicAt, kFooterMagic, sizeof kFooterMagic);
  store_le(p + 88, footer.header_crc);
  store_le(p + kFooterCrcAt, crc32c(Bytes(out).first(kFooterCrcAt)));
  return out;
}

namespace {

// Header, extents, table, directory and footer follow each other in a file of `file_bytes`.
Status check_footer_places(const FileFooter& footer, std::uint64_t file_bytes) {
  if (footer.file_bytes != file_bytes)
    return corruption(found("footer: size of the file", footer.file_bytes, file_bytes));
  if (file_bytes < kHeaderBytes + kFooterBytes)
    return format_error("footer: a file of " + std::to_string(file_bytes) + " bytes holds no header and footer");
  const std::uint64_t footer_offset = file_bytes - kFooterBytes;
  if (footer.extent_count > 0xFFFFFFFF)
    return format_error("footer: extents: expected fewer than 2^32, found " + std::to_string(footer.extent_count));
  const std::uint64_t table_bytes = footer.extent_count * kExtentEntryBytes;
  if (footer.table_offset < kHeaderBytes || !inside(footer.table_offset, table_bytes, footer_offset))
    return format_error("footer: extent table of " + std::to_string(table_bytes) + " bytes at " +
                        std::to_string(footer.table_offset) + " lies outside the file's " + std::to_string(file_bytes));
  if (footer.directory_offset != footer.table_offset + table_bytes)
    return format_error(
        found("footer: offset of the directory", footer.table_offset + table_bytes, footer.directory_offset));
  if (footer.directory_stored_bytes < 1 ||
      !inside(footer.directory_offset, footer.directory_stored_bytes, footer_offset))
    return format_error("footer: directory of " + std::to_string(footer.directory_stored_bytes) + " bytes at " +
                        std::to_string(footer.directory_offset) + " lies outside the file's " +
                        std::to_string(file_bytes));
  if (footer.directory_decoded_bytes < kDirectoryHeadBytes || footer.directory_decoded_bytes > kDirectoryBytesMax)
    return format_error("footer: decoded bytes of the directory: expected 64 to 2 GiB, found " +
                        std::to_string(footer.directory_decoded_bytes));
  // The header knows the exact alignment; this bound needs no header.
  return check_gap(footer.directory_offset + footer.directory_stored_bytes, footer_offset, kAlignmentMax)
      .with_context("footer");
}

}  // namespace

Result<FileFooter> decode_footer(Bytes bytes, std::uint64_t file_bytes) {
  if (bytes.size() != kFooterBytes) return format_error(found("footer: bytes", kFooterBytes, bytes.size()));
  const std::byte* p = bytes.data();
  if (!is_magic(p + kFooterMagicAt, kFooterMagic))
    return corruption("footer: no magic number: the file is cut off or was never finished");
  OSTRACA_RETURN_IF_ERROR(check_crc("footer", bytes.first(kFooterCrcAt), footer_crc(bytes)));
  FileFooter footer;
  footer.table_offset = load_le<std::uint64_t>(p);
  footer.extent_count = load_le<std::uint64_t>(p + 8);
  footer.directory_offset = load_le<std::uint64_t>(p + 16);
  footer.directory_stored_bytes = load_le<std::uint64_t>(p + 24);
  footer.directory_decoded_bytes = load_le<std::uint64_t>(p + 32);
  footer.table_crc = load_le<std::uint32_t>(p + 40);
  footer.directory_crc = load_le<std::uint32_t>(p + 44);
  footer.id = load_id(p + 48);
  footer.file_bytes = load_le<std::uint64_t>(p + 64);
  footer.header_crc = load_le<std::uint32_t>(p + 88);
  if (!all_zero(bytes.subspan(72, 8))) return format_error("footer: reserved bytes are not zero");
  OSTRACA_RETURN_IF_ERROR(check_footer_places(footer, file_bytes));
  return footer;
}

Status unknown_version(std::uint64_t version) {
  return format_error("format version: expected " + std::to_string(kFormatVersion) + ", found " +
                      std::to_string(version) +
                      (version > kFormatVersion ? "; a later release of Ostraca wrote it: upgrade to read it" : ""));
}

std::uint32_t header_crc(Bytes header) { return load_le<std::uint32_t>(header.data() + kHeaderBytes - 4); }
std::uint32_t footer_crc(Bytes footer) { return load_le<std::uint32_t>(footer.data() + kFooterCrcAt); }

std::vector<std::byte> encode_extents(const std::vector<Extent>& extents) {
  std::vector<std::byte> out(extents.size() * kExtentEntryBytes);
  std::byte* p = out.data();
  for (const Extent& extent : extents) {
    store_le(p, extent.offset);
    store_le(p + 8, extent.stored_bytes);
    store_le(p + 12, extent.decoded_bytes);
    store_le(p + 16, extent.crc);
    store_le(p + 20, extent.codec);
    std::memcpy(p + 24, extent.hash.data(), 16);
    std::memcpy(p + 40, extent.base_hash.data(), 16);
    store_le(p + 56, extent.base_file);
    store_le(p + 60, extent.base_extent);
    p += kExtentEntryBytes;
  }
  return out;
}

Result<std::vector<Extent>> decode_extents(Bytes table, std::uint32_t alignment, std::uint64_t table_offset) {
  if (table.size() % kExtentEntryBytes != 0 || table.size() / kExtentEntryBytes > 0xFFFFFFFF)
    return format_error("extent table: " + std::to_string(table.size()) + " bytes are no table of 64-byte entries");
  std::vector<Extent> extents;
  extents.reserve(table.size() / kExtentEntryBytes);
  std::uint64_t end = kHeaderBytes;
  for (std::size_t at = 0; at < table.size(); at += kExtentEntryBytes) {
    const Bytes entry = table.subspan(at, kExtentEntryBytes);
    const Extent extent = load_extent(entry.data());
    Status status = check_extent(extent, entry);
    if (status.ok()) status = check_gap(end, extent.offset, alignment);
    if (status.ok() && !inside(extent.offset, extent.stored_bytes, table_offset))
      status = format_error(std::to_string(extent.stored_bytes) + " bytes at " + std::to_string(extent.offset) +
                            " reach beyond the extent table's offset " + std::to_string(table_offset));
    if (!status.ok()) return status.with_context("extent " + std::to_string(at / kExtentEntryBytes));
    end = extent.offset + extent.stored_bytes;
    extents.push_back(extent);
  }
  OSTRACA_RETURN_IF_ERROR(check_gap(end, table_offset, alignment).with_context("extent table"));
  return extents;
}

std::uint64_t extent_end(const std::vector<Extent>& extents, std::size_t i, std::uint64_t table_offset) {
  return i + 1 < extents.size() ? extents[i + 1].offset : table_offset;
}

bool all_zero(Bytes bytes) {
  // A buffer is zero when its first byte is and it equals itself shifted by one; memcmp is the fastest loop there is.
  if (bytes.empty()) return true;
  return bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

std::string data_file_name(std::uint32_t process_index, const CheckpointId& id, std::uint32_t part) {
  char prefix[32];
  if (part == 0) {
    std::snprintf(prefix, sizeof prefix, "p%05u-", static_cast<unsigned>(process_index));
  } else {
    std::snprintf(prefix, sizeof prefix, "p%05u-%05u-", static_cast<unsigned>(process_index), part);
  }
  return prefix + id.hex() + ".ostraca";
}

std::string index_file_name(const CheckpointId& id) { return "index-" + id.hex() + ".ostraca"; }
std::string intent_file_name(const CheckpointId& id) { return "intent-" + id.hex() + ".json"; }

std::string tombstone_file_name(const CheckpointId& id) { return "tombstone-" + id.hex() + ".json"; }

std::string notes_file_name(std::uint64_t number) { return "notes-" + std::to_string(number) + ".json"; }

std::uint64_t notes_number(std::string_view name) {
  constexpr std::string_view kBegin = "notes-", kEnd = ".json";
  if (name.size() <= kBegin.size() + kEnd.size() || !name.starts_with(kBegin) || !name.ends_with(kEnd)) return 0;
  const std::string_view digits = name.substr(kBegin.size(), name.size() - kBegin.size() - kEnd.size());
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  const bool good = error == std::errc() && number <= kNotesNumberMax && notes_file_name(number) == name;
  return good ? number : 0;
}

}  // namespace ostraca
