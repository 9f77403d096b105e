#include "base/bytes.h"
#include "base/limits.h"
#include "checksum/crc32c.h"
#include "container/file_format.h"
#include "ostraca/writer.h"

namespace ostraca {
namespace {

// magic (8) | process index, process count, footer CRC (u32) | file bytes, logical bytes (u64) | id (16) | base's id
// (16) | part (u32) | base's name | crc32c (u32)
constexpr std::string_view kMagic = "ostrare2";
constexpr std::size_t kNameAt = 8 + 12 + 16 + 16 + 16 + 4;
constexpr std::size_t kCrcBytes = 4;
static_assert(kNameAt + kNameBytesMax + kCrcBytes <= kReportBytesMax);

}  // namespace

std::string FileReport::file_name() const { return data_file_name(process_index, attempt, part); }

std::string FileReport::to_bytes() const {
  std::string out(kNameAt, '\0');
  auto* p = reinterpret_cast<std::byte*>(out.data());
  std::memcpy(p, kMagic.data(), kMagic.size());
  store_le(p + 8, process_index);
  store_le(p + 12, process_count);
  store_le(p + 16, footer_crc);
  store_le(p + 20, file_bytes);
  store_le(p + 28, logical_bytes);
  std::memcpy(p + 36, attempt.bytes.data(), attempt.bytes.size());
  std::memcpy(p + 52, base_id.bytes.data(), base_id.bytes.size());
  store_le(p + 68, part);
  out += base_directory;
  std::byte crc[kCrcBytes];
  store_le(crc, crc32c(as_bytes(out)));
  return out.append(reinterpret_cast<const char*>(crc), kCrcBytes);
}

Result<FileReport> FileReport::from_bytes(std::string_view text) {
  const auto* p = reinterpret_cast<const std::byte*>(text.data());
  if (text.size() < kNameAt + kCrcBytes || text.size() > kNameAt + kNameBytesMax + kCrcBytes ||
      !text.starts_with(kMagic) ||
      load_le<std::uint32_t>(p + text.size() - kCrcBytes) != crc32c(Bytes(p, text.size() - kCrcBytes)))
    return format_error("these " + std::to_string(text.size()) + " bytes are not a file report, or are damaged");
  FileReport report{.process_index = load_le<std::uint32_t>(p + 8),
                    .process_count = load_le<std::uint32_t>(p + 12),
                    .part = load_le<std::uint32_t>(p + 68),
                    .file_bytes = load_le<std::uint64_t>(p + 20),
                    .footer_crc = load_le<std::uint32_t>(p + 16),
                    .logical_bytes = load_le<std::uint64_t>(p + 28),
                    .base_directory = std::string(text.substr(kNameAt, text.size() - kNameAt - kCrcBytes))};
  std::memcpy(report.attempt.bytes.data(), p + 36, report.attempt.bytes.size());
  std::memcpy(report.base_id.bytes.data(), p + 52, report.base_id.bytes.size());
  return report;
}

}  // namespace ostraca
