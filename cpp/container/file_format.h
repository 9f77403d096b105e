// Header, footer and extent table of data and index files (docs/format.md, section 3): bytes <-> structs, no I/O.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "ostraca/status.h"
#include "ostraca/types.h"

namespace ostraca {

inline constexpr std::uint32_t kFormatVersion = 1;
inline constexpr std::uint64_t kFeatureIncremental = 1;
inline constexpr std::uint64_t kFeatureParts = 2;  // a process wrote several data files
inline constexpr std::uint64_t kFeaturesSupported = kFeatureIncremental | kFeatureParts;  // required, and known here
inline constexpr std::size_t kHeaderBytes = 64;
inline constexpr std::size_t kFooterBytes = 96;
inline constexpr std::size_t kExtentEntryBytes = 64;

enum class FileKind : std::uint8_t { kData = 1, kIndex = 2 };

struct FileHeader {
  FileKind kind = FileKind::kData;
  std::uint64_t features = 0;
  std::uint64_t compatible_features = 0;  // what readers may ignore
  CheckpointId id;
  std::uint32_t process_index = 0;
  std::uint32_t part = 0;  // which of the process's data files
  std::uint32_t process_count = 1;
  std::uint32_t alignment = 1;
};

struct Extent {
  std::uint64_t offset = 0;
  std::uint32_t stored_bytes = 0;
  std::uint32_t decoded_bytes = 0;
  std::uint32_t crc = 0;
  Codec codec = Codec::kRaw;
  std::array<std::byte, 16> hash{};
  std::array<std::byte, 16> base_hash{};
  std::uint32_t base_file = 0;
  std::uint32_t base_extent = 0;
};

struct FileFooter {
  std::uint64_t table_offset = 0;
  std::uint64_t extent_count = 0;
  std::uint64_t directory_offset = 0;
  std::uint64_t directory_stored_bytes = 0;
  std::uint64_t directory_decoded_bytes = 0;
  std::uint32_t table_crc = 0;
  std::uint32_t directory_crc = 0;
  CheckpointId id;
  std::uint64_t file_bytes = 0;
  std::uint32_t header_crc = 0;
};

std::array<std::byte, kHeaderBytes> encode_header(const FileHeader& header);
// Checks magic, CRC, version, features, and every field's range.
Result<FileHeader> decode_header(Bytes bytes);  // REQUIRES: kHeaderBytes long

std::array<std::byte, kFooterBytes> encode_footer(const FileFooter& footer);
// Checks magic, CRC and that the places named lie where they must in a file of `file_bytes`.
Result<FileFooter> decode_footer(Bytes bytes, std::uint64_t file_bytes);  // REQUIRES: kFooterBytes long
Status unknown_version(std::uint64_t version);  // what to say of a file that is not of kFormatVersion

std::uint32_t header_crc(Bytes header);  // its last field
std::uint32_t footer_crc(Bytes footer);  // its last field

std::vector<std::byte> encode_extents(const std::vector<Extent>& extents);
// `table` has passed its CRC. Checks ranges, order, disjointness and that gaps are shorter than `alignment`, up to
// `table_offset`. Does not look at the padding's bytes: whoever reads them checks that they are zero.
Result<std::vector<Extent>> decode_extents(Bytes table, std::uint32_t alignment, std::uint64_t table_offset);

// End of the bytes that belong to extent `i`: its padding included (the next extent's offset, or `table_offset`).
std::uint64_t extent_end(const std::vector<Extent>& extents, std::size_t i, std::uint64_t table_offset);

bool all_zero(Bytes bytes);

std::string data_file_name(std::uint32_t process_index, const CheckpointId& id, std::uint32_t part = 0);
std::string index_file_name(const CheckpointId& id);
std::string intent_file_name(const CheckpointId& id);
std::string tombstone_file_name(const CheckpointId& id);  // a removed checkpoint's manifest
std::string notes_file_name(std::uint64_t number);
std::uint64_t notes_number(std::string_view name);  // of a name of notes, at most kNotesNumberMax; else 0
inline constexpr const char* kManifestName = "manifest.json";

}  // namespace ostraca
