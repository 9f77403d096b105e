// Opening what is stored: a file's structure, a checkpoint's manifest and index. Everything is checked on the way.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "container/directory.h"
#include "container/file_format.h"
#include "container/manifest.h"
#include "storage/storage.h"

namespace ostraca {

// A data or index file without its chunks.
struct FileStructure {
  FileHeader header;
  FileFooter footer;
  std::uint32_t footer_crc = 0;
  std::vector<Extent> extents;
  std::vector<std::byte> directory;  // the stored frame; its CRC has been checked
};

// Reads and checks header, footer, table, directory frame and the padding around them; not the chunks. Errors name
// the file.
Result<FileStructure> read_structure(ReadableFile& file);

// The same for those who want to know everything that is wrong. True if `extents` can be used all the same; an empty
// `directory` could not be read.
struct Problem {
  std::uint64_t offset;  // in the file
  Status status;
};
bool examine_structure(ReadableFile& file, FileStructure& out, std::vector<Problem>& problems);

// The structure is the one that the manifest or a report promised.
Status check_identity(const FileStructure& structure, const ReadableFile& file, const FileRecord& expected,
                      std::uint64_t process_count);
// Errors name the file.
Result<DataDirectory> read_data_directory(const FileStructure& structure, const ReadableFile& file);
Result<IndexDirectory> read_index_directory(const FileStructure& structure, const ReadableFile& file);

// A committed checkpoint's manifest and index.
struct StoredCheckpoint {
  std::string manifest_text;
  Manifest manifest;
  IndexDirectory directory;
};

// kNotFound when there is no manifest, saying what is there instead.
Result<std::string> read_manifest(Storage& storage);
Result<IndexDirectory> read_index(Storage& storage, const Manifest& manifest);
// Both; looks again when an overwrite replaces them meanwhile.
Result<StoredCheckpoint> open_checkpoint(Storage& storage);

}  // namespace ostraca
