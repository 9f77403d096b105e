#include "engine/stored_file.h"

#include <algorithm>
#include <cerrno>

#include "base/limits.h"
#include "checksum/crc32c.h"
#include "codec/codec.h"

namespace ostraca {
namespace {

// A block of a zstd frame takes at least 4 bytes and decodes to at most 128 KiB.
constexpr std::uint64_t kZstdRatioMax = 32 * kKiB;

std::string in_file(const ReadableFile& file) { return "file '" + file.path() + "'"; }

std::string expected_found(const std::string& what, std::uint64_t expected, std::uint64_t found) {
  return what + ": expected " + std::to_string(expected) + ", found " + std::to_string(found);
}

// Notes a problem; false, so that a failed step can end its caller.
bool note(std::vector<Problem>& problems, std::uint64_t offset, Status status) {
  problems.push_back({offset, std::move(status)});
  return false;
}

bool examine_ends(ReadableFile& file, FileStructure& out, std::vector<Problem>& problems) {
  std::byte header_bytes[kHeaderBytes], footer_bytes[kFooterBytes];
  if (file.size() < kHeaderBytes + kFooterBytes)
    return note(
        problems, file.size(),
        corruption("the file has " + std::to_string(file.size()) + " bytes, fewer than a header and a footer need"));
  if (Status status = file.read_at(0, header_bytes); !status.ok()) return note(problems, 0, std::move(status));
  Result<FileHeader> header = decode_header(header_bytes);
  if (!header.ok()) note(problems, 0, header.status());
  // A file of a later version must not be taken for a damaged one: nothing else is looked at.
  const bool intact =
      crc32c(Bytes(header_bytes).first(kHeaderBytes - 4)) == load_le<std::uint32_t>(header_bytes + kHeaderBytes - 4);
  if (!header.ok() && header.status().code() == Code::kFormat && intact) return false;
  const std::uint64_t at = file.size() - kFooterBytes;
  if (Status status = file.read_at(at, footer_bytes); !status.ok()) return note(problems, at, std::move(status));
  Result<FileFooter> footer = decode_footer(footer_bytes, file.size());
  if (!footer.ok()) return note(problems, at, footer.status());
  out.footer = *footer;
  out.footer_crc = footer_crc(footer_bytes);
  if (!header.ok()) {
    out.header.alignment = kAlignmentMax;  // unknown; the gaps are still bounded
    out.header.features = kFeaturesSupported;
    return true;
  }
  out.header = *header;
  if (out.footer.header_crc != header_crc(header_bytes) || out.footer.id != out.header.id)
    note(problems, 0, corruption("header and footer are not of the same file"));
  return true;
}

bool examine_tables(ReadableFile& file, FileStructure& out, std::vector<Problem>& problems) {
  const FileFooter& footer = out.footer;
  std::vector<std::byte> tables(file.size() - kFooterBytes - footer.table_offset);
  if (Status status = file.read_at(footer.table_offset, tables); !status.ok())
    return note(problems, footer.table_offset, std::move(status));
  const Bytes table = Bytes(tables).first(footer.directory_offset - footer.table_offset);
  const Bytes directory = Bytes(tables).subspan(table.size(), footer.directory_stored_bytes);
  const Bytes padding = Bytes(tables).subspan(table.size() + directory.size());
  if (crc32c(directory) != footer.directory_crc) {
    note(problems, footer.directory_offset, corruption("the directory fails its checksum"));
  } else {
    out.directory.assign(directory.begin(), directory.end());
  }
  if (padding.size() >= out.header.alignment || !all_zero(padding))
    note(problems, footer.directory_offset + directory.size(),
         corruption("the padding before the footer is too long or not zero"));
  if (crc32c(table) != footer.table_crc)
    return note(problems, footer.table_offset, corruption("the extent table fails its checksum"));
  Result<std::vector<Extent>> extents = decode_extents(table, out.header.alignment, footer.table_offset);
  if (!extents.ok()) return note(problems, footer.table_offset, extents.status());
  out.extents = extents.take();
  const bool has_delta = std::ranges::any_of(out.extents, [](const Extent& e) { return e.codec == Codec::kDelta; });
  if (has_delta && (out.header.features & kFeatureIncremental) == 0)
    note(problems, footer.table_offset,
         format_error("a chunk is a delta, but the header does not require that feature"));
  const std::uint64_t first = out.extents.empty() ? footer.table_offset : out.extents.front().offset;
  std::vector<std::byte> lead(first - kHeaderBytes);
  Status status = file.read_at(kHeaderBytes, lead);
  if (status.ok() && !all_zero(lead)) status = corruption("the padding after the header is not zero");
  if (!status.ok()) note(problems, kHeaderBytes, std::move(status));
  return true;
}

template <class Kind>
Result<Kind> read_directory(const FileStructure& structure, const ReadableFile& file, Result<Kind> (*decode)(Bytes)) {
  if (structure.footer.directory_decoded_bytes / kZstdRatioMax > structure.footer.directory_stored_bytes)
    return format_error(in_file(file) + ", directory: " + std::to_string(structure.footer.directory_stored_bytes) +
                        " bytes cannot decode to " + std::to_string(structure.footer.directory_decoded_bytes));
  std::vector<std::byte> decoded(structure.footer.directory_decoded_bytes);
  if (Status status = zstd_decompress(structure.directory, decoded); !status.ok())
    return status.with_context(in_file(file) + ", directory");
  Result<Kind> directory = decode(decoded);
  if (!directory.ok()) return directory.status().with_context(in_file(file) + ", directory");
  if ((structure.header.features & kFeatureIncremental) == 0 &&
      std::ranges::any_of(directory->files, &FileRecord::in_base))
    return format_error(in_file(file) + ", directory: it names a base, but the header does not require that feature");
  return directory;
}

}  // namespace

bool examine_structure(ReadableFile& file, FileStructure& out, std::vector<Problem>& problems) {
  return examine_ends(file, out, problems) && examine_tables(file, out, problems);
}

Result<FileStructure> read_structure(ReadableFile& file) {
  FileStructure out;
  std::vector<Problem> problems;
  examine_structure(file, out, problems);
  if (problems.empty()) return out;
  return problems.front().status.with_context(in_file(file) + ", offset " + std::to_string(problems.front().offset));
}

Status check_identity(const FileStructure& structure, const ReadableFile& file, const FileRecord& expected,
                      std::uint64_t process_count) {
  Status status;
  if (file.size() != expected.bytes) {
    status = corruption(expected_found("size in bytes", expected.bytes, file.size()));
  } else if (structure.header.id != expected.id) {
    status = corruption("attempt id: expected " + expected.id.hex() + ", found " + structure.header.id.hex());
  } else if (structure.header.process_index != expected.process_index) {
    status = corruption(expected_found("process index", expected.process_index, structure.header.process_index));
  } else if (structure.header.part != expected.part) {
    status = corruption(expected_found("part", expected.part, structure.header.part));
  } else if (structure.header.process_count != process_count) {
    status = corruption(expected_found("process count", process_count, structure.header.process_count));
  } else if (structure.footer_crc != expected.footer_crc) {
    status = corruption(expected_found("checksum of the footer", expected.footer_crc, structure.footer_crc));
  }
  return status.ok() ? status : status.with_context(in_file(file));
}

Result<DataDirectory> read_data_directory(const FileStructure& structure, const ReadableFile& file) {
  return read_directory(structure, file, decode_data_directory);
}

Result<IndexDirectory> read_index_directory(const FileStructure& structure, const ReadableFile& file) {
  return read_directory(structure, file, decode_index_directory);
}

Result<std::string> read_manifest(Storage& storage) {
  Result<std::string> text = storage.read_small(kManifestName, kManifestBytesMax);
  if (text.ok()) return text;
  if (text.status().os_error() == ENOTDIR)
    return format_error("'" + storage.path() + "' is a file; a checkpoint is a directory");
  if (text.status().code() != Code::kNotFound) return text.status();
  const Result<std::vector<std::string>> names = storage.list();
  if (!names.ok()) return not_found("there is no checkpoint at '" + storage.path() + "': " + names.status().message());
  if (std::ranges::any_of(*names, [](const std::string& name) { return name.starts_with("tombstone-"); }))
    return not_found("'" + storage.path() +
                     "' is not a checkpoint any more: it was removed (its manifest is now a "
                     "tombstone, its other files wait until nobody can need them)");
  const bool unfinished = std::any_of(names->begin(), names->end(), [](const std::string& name) {
    return name.ends_with(".ostraca") || name.starts_with("intent-");
  });
  return not_found("'" + storage.path() + "' is not a checkpoint: it has no manifest.json" +
                   (unfinished ? " (a save that is running, or did not finish, left files there)" : ""));
}

Result<IndexDirectory> read_index(Storage& storage, const Manifest& manifest) {
  Result<std::unique_ptr<ReadableFile>> file = storage.open(manifest.index.name);
  if (!file.ok()) return file.status();
  FileRecord expected{.bytes = manifest.index.bytes, .footer_crc = manifest.index.footer_crc, .id = manifest.id};
  if ((*file)->size() != expected.bytes)
    return corruption(in_file(**file) + ": " + expected_found("size in bytes", expected.bytes, (*file)->size()));
  OSTRACA_ASSIGN_OR_RETURN(const FileStructure structure, read_structure(**file));
  OSTRACA_RETURN_IF_ERROR(check_identity(structure, **file, expected, manifest.process_count));
  if (structure.header.kind != FileKind::kIndex || structure.footer.table_offset != kHeaderBytes ||
      !structure.extents.empty())
    return format_error(in_file(**file) + ": not an index file: it has the kind, or the extents, of a data file");
  if (structure.header.features != manifest.features ||
      structure.header.compatible_features != manifest.compatible_features)
    return format_error(in_file(**file) + ": its features are not the manifest's");
  OSTRACA_ASSIGN_OR_RETURN(IndexDirectory directory, read_index_directory(structure, **file));
  const auto promised = [&](const FileRecord& record, const ManifestFile& listed) {
    return !record.in_base && record.name() == listed.name && record.bytes == listed.bytes &&
           record.footer_crc == listed.footer_crc;
  };
  const auto own = std::ranges::find(directory.files, true, &FileRecord::in_base);
  if (own != directory.files.end() && own->id != manifest.base_id)
    return corruption(in_file(**file) + ": it names files of another base than the manifest's");
  if (!std::equal(directory.files.begin(), own, manifest.files.begin(), manifest.files.end(), promised))
    return corruption(in_file(**file) + ": its list of files is not the manifest's");
  return directory;
}

Result<StoredCheckpoint> open_checkpoint(Storage& storage) {
  StoredCheckpoint out;
  OSTRACA_ASSIGN_OR_RETURN(out.manifest_text, read_manifest(storage));
  while (true) {
    Result<Manifest> manifest = decode_manifest(out.manifest_text);
    if (!manifest.ok()) return manifest.status().with_context("file '" + storage.path_of(kManifestName) + "'");
    out.manifest = manifest.take();
    Result<IndexDirectory> directory = read_index(storage, out.manifest);
    if (directory.ok()) {
      out.directory = directory.take();
      return out;
    }
    if (directory.status().code() != Code::kNotFound) return directory.status();
    OSTRACA_ASSIGN_OR_RETURN(std::string again, read_manifest(storage));
    if (again == out.manifest_text)  // nobody overwrote it: the file is gone
      return corruption("'" + storage.path() +
                        "': the index that the manifest names is missing: " + out.manifest.index.name);
    out.manifest_text = std::move(again);
  }
}

}  // namespace ostraca
