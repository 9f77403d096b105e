#include "engine/part_files.h"

#include <cstring>

#include "base/buffer.h"

namespace ostraca {

Status PartFiles::open() {
  OSTRACA_ASSIGN_OR_RETURN(const WritableFile* first, get(0));
  header_.alignment = static_cast<std::uint32_t>(first->alignment());
  return {};
}

FileHeader PartFiles::header(std::uint32_t part) const {
  FileHeader header = header_;
  header.part = part;
  if (part > 0) header.features |= kFeatureParts;
  return header;
}

PartFiles::Part& PartFiles::part(std::uint32_t number) {
  const std::lock_guard lock(mutex_);
  while (parts_.size() <= number) parts_.emplace_back();
  return parts_[number];
}

Result<WritableFile*> PartFiles::get(std::uint32_t number) {
  Part& part = this->part(number);
  const std::lock_guard lock(part.mutex);
  if (!part.file) OSTRACA_RETURN_IF_ERROR(make(part, number));
  return part.file.get();
}

// REQUIRES: the part's mutex held.
Status PartFiles::make(Part& part, std::uint32_t number) {
  const std::string name = data_file_name(header_.process_index, header_.id, number);
  OSTRACA_ASSIGN_OR_RETURN(part.file, storage_.create(name, io_));
  part.is_ours = true;
  if (file_bytes_ > 0) part.file->reserve(file_bytes_);
  if (number == 0) return {};
  if (part.file->alignment() != header_.alignment)
    return invalid_argument("file '" + storage_.path_of(name) + "': expected alignment " +
                            std::to_string(header_.alignment) + " as of the file before it, found " +
                            std::to_string(part.file->alignment()));
  OSTRACA_ASSIGN_OR_RETURN(AlignedBuffer block, AlignedBuffer::allocate(header_.alignment));
  const auto encoded = encode_header(header(number));
  std::memcpy(block.data(), encoded.data(), encoded.size());
  return part.file->write_at(0, block.bytes());
}

Status PartFiles::end(std::uint32_t number, const std::vector<Extent>& extents, std::uint64_t offset) {
  DataDirectory itself;
  itself.files.push_back({.process_index = header_.process_index, .id = header_.id, .part = number});
  OSTRACA_ASSIGN_OR_RETURN(const FileTail tail, FileTail::make(extents, itself));
  const std::vector<std::byte> bytes = tail.encode(header(number), offset);
  OSTRACA_ASSIGN_OR_RETURN(AlignedBuffer aligned, AlignedBuffer::allocate(bytes.size()));
  std::memcpy(aligned.data(), bytes.data(), bytes.size());
  OSTRACA_ASSIGN_OR_RETURN(WritableFile* const file, get(number));
  OSTRACA_RETURN_IF_ERROR(file->write_at(offset, aligned.bytes()));
  return close(number, offset + bytes.size(), bytes);
}

Status PartFiles::close(std::uint32_t number, std::uint64_t bytes, Bytes tail) {
  Part& part = this->part(number);
  const std::lock_guard lock(part.mutex);
  OSTRACA_RETURN_IF_ERROR(part.file->sync_and_close());
  part.record = {.bytes = bytes,
                 .footer_crc = footer_crc(tail.last(kFooterBytes)),
                 .process_index = header_.process_index,
                 .id = header_.id,
                 .part = number};
  part.file.reset();
  return {};
}

std::vector<FileRecord> PartFiles::records(std::uint32_t count) {
  std::vector<FileRecord> out;
  for (std::uint32_t i = 0; i < count; ++i) out.push_back(part(i).record);
  return out;
}

void PartFiles::remove() {
  const std::lock_guard lock(mutex_);
  for (std::uint32_t i = 0; i < parts_.size(); ++i) {
    parts_[i].file.reset();
    if (parts_[i].is_ours) (void)storage_.remove(data_file_name(header_.process_index, header_.id, i));
  }
}

}  // namespace ostraca
