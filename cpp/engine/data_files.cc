#include "engine/data_files.h"

#include "codec/codec.h"
#include "engine/stored_file.h"

namespace ostraca {
namespace {

constexpr std::size_t kOpenFilesMax = 64;  // beyond it files are opened on first use: descriptors are scarce

}  // namespace

DataFiles::DataFiles(Storage& storage, Storage* base, const IndexDirectory& directory)
    : storage_(storage), base_(base), directory_(directory) {
  for (const FileRecord& record : directory.files) {
    slots_.push_back(std::make_unique<Slot>());
    if (record.in_base) base_numbers_.emplace(record.base_number(), static_cast<std::uint32_t>(slots_.size() - 1));
    if (slots_.size() > kOpenFilesMax) continue;
    Result<std::unique_ptr<ReadableFile>> file = storage_of(record).open(record.name());
    missing_ |= !file.ok() && !record.in_base && file.status().code() == Code::kNotFound;
    if (file.ok()) slots_.back()->opened = file.take();  // a failure is reported by who needs the file
  }
}

Status DataFiles::check(std::uint32_t number, Slot& slot) {
  const FileRecord& record = directory_.files[number];
  const std::string name = record.name();
  if (!slot.opened) {
    Result<std::unique_ptr<ReadableFile>> file = storage_of(record).open(name);
    if (!file.ok() && file.status().code() == Code::kNotFound)
      return corruption("file '" + storage_of(record).path_of(name) + "' is missing, though " +
                        (record.in_base ? "this checkpoint is a delta against it: bring the base '" + base_->path() +
                                              "' back beside it, or restore another checkpoint"
                                        : "the manifest names it"));
    if (!file.ok()) return file.status();
    slot.opened = file.take();
  }
  if (slot.opened->size() != record.bytes)
    return corruption("file '" + slot.opened->path() + "': size in bytes: expected " + std::to_string(record.bytes) +
                      ", found " + std::to_string(slot.opened->size()));
  OSTRACA_ASSIGN_OR_RETURN(FileStructure structure, read_structure(*slot.opened));
  // How many processes saved the base, only its own index says.
  const std::uint64_t processes = record.in_base ? structure.header.process_count : directory_.processes();
  OSTRACA_RETURN_IF_ERROR(check_identity(structure, *slot.opened, record, processes));
  if (Status status = check_extents(number, structure.extents); !status.ok())
    return status.with_context("file '" + slot.opened->path() + "'");
  slot.checked = std::make_unique<DataFile>();
  slot.checked->file = std::move(slot.opened);
  slot.checked->extents = std::move(structure.extents);
  slot.checked->table_offset = structure.footer.table_offset;
  return {};
}

Status DataFiles::check_extents(std::uint32_t number, const std::vector<Extent>& extents) {
  {
    const std::lock_guard lock(mutex_);
    if (!references_) references_.emplace(directory_);
  }
  if (references_->fit(number, extents)) return {};
  std::vector<const std::vector<Extent>*> tables(directory_.files.size(), nullptr);
  tables[number] = &extents;
  return check_references(directory_, tables);
}

std::optional<std::uint32_t> DataFiles::base_file(std::uint32_t base_number) const {
  const auto found = base_numbers_.find(base_number);
  return found == base_numbers_.end() ? std::nullopt : std::optional(found->second);
}

Result<DataFiles::BaseExtent> DataFiles::base_of(const Extent& delta) {
  const std::optional<std::uint32_t> number = base_file(delta.base_file);
  if (!number)
    return format_error("a delta against file " + std::to_string(delta.base_file) +
                        " of the base, which the index does not list");
  const BaseExtent place{*number, delta.base_extent};
  OSTRACA_ASSIGN_OR_RETURN(const DataFile* file, get(place.file));
  const auto bad = [&](const std::string& what) {
    return corruption("the base's file '" + file->file->path() + "', extent " + std::to_string(place.extent) + ": " +
                      what);
  };
  if (place.extent >= file->extents.size()) return bad("there is no such extent");
  const Extent& base = file->extents[place.extent];
  if (base.codec == Codec::kDelta) return bad("it is a delta itself");
  if (base.decoded_bytes != delta.decoded_bytes || base.hash != delta.base_hash)
    return bad("it does not hold what the delta was made against");
  return place;
}

Result<const DataFile*> DataFiles::get(std::uint32_t number) {
  Slot& slot = *slots_[number];
  const std::lock_guard lock(slot.mutex);
  if (!slot.checked) OSTRACA_RETURN_IF_ERROR(check(number, slot));
  return slot.checked.get();
}

}  // namespace ostraca
