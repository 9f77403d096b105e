#include "engine/data_files.h"

#include <algorithm>

#include "engine/stored_file.h"

namespace ostraca {
namespace {

constexpr std::size_t kOpenFilesMax = 64;  // beyond it files are opened on first use: descriptors are scarce

}  // namespace

DataFiles::DataFiles(Storage& storage, const Directory& directory) : storage_(storage), directory_(directory) {
  for (const FileRecord& record : directory.files) {
    slots_.push_back(std::make_unique<Slot>());
    if (slots_.size() > kOpenFilesMax) continue;
    Result<std::unique_ptr<ReadableFile>> file = storage.open(data_file_name(record.process_index, record.id));
    missing_ |= !file.ok() && file.status().code() == Code::kNotFound;
    if (file.ok()) slots_.back()->opened = file.take();  // a failure is reported by who needs the file
  }
}

Status DataFiles::check(std::uint32_t number, Slot& slot) {
  const FileRecord& record = directory_.files[number];
  const std::string name = data_file_name(record.process_index, record.id);
  if (!slot.opened) {
    Result<std::unique_ptr<ReadableFile>> file = storage_.open(name);
    if (!file.ok() && file.status().code() == Code::kNotFound)
      return corruption("file '" + storage_.path_of(name) + "' is missing, though the manifest names it");
    if (!file.ok()) return file.status();
    slot.opened = file.take();
  }
  if (slot.opened->size() != record.bytes)
    return corruption("file '" + slot.opened->path() + "': size in bytes: expected " + std::to_string(record.bytes) +
                      ", found " + std::to_string(slot.opened->size()));
  OSTRACA_ASSIGN_OR_RETURN(FileStructure structure, read_structure(*slot.opened));
  OSTRACA_RETURN_IF_ERROR(check_identity(structure, *slot.opened, record, directory_.files.size()));
  std::vector<const std::vector<Extent>*> tables(directory_.files.size(), nullptr);
  tables[number] = &structure.extents;
  if (Status status = check_references(directory_, tables); !status.ok())
    return status.with_context("file '" + slot.opened->path() + "'");
  slot.checked = std::make_unique<DataFile>();
  slot.checked->file = std::move(slot.opened);
  slot.checked->extents = std::move(structure.extents);
  slot.checked->table_offset = structure.footer.table_offset;
  return {};
}

Result<const DataFile*> DataFiles::get(std::uint32_t number) {
  Slot& slot = *slots_[number];
  const std::lock_guard lock(slot.mutex);
  if (!slot.checked) OSTRACA_RETURN_IF_ERROR(check(number, slot));
  return slot.checked.get();
}

}  // namespace ostraca
