// How a checkpoint comes into being. Steps 1 and 2 are each Writer's; this file does the others:
//   1. every process writes its data files;
//   2. and makes them durable, and their names, before it reports the last of them, which names the others;
//   3. the committer opens every file and checks id, size, footer and tables;
//   4. it writes the index and makes it, and its name, durable;
//   5. it publishes the manifest, and makes its name durable (engine/publish.cc);
//   6. only then are the intent and the files of an overwritten checkpoint removed.
// An error before step 5 removes what step 4 wrote. After it nothing is removed: kCommitUncertain.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <set>

#include "base/for_each.h"
#include "codec/codec.h"
#include "engine/commit_plan.h"
#include "engine/data_files.h"
#include "engine/file_tail.h"
#include "engine/lifetime.h"
#include "engine/merge.h"
#include "engine/on_storage.h"
#include "engine/publish.h"
#include "engine/stored_file.h"
#include "engine/stores.h"

namespace ostraca {
namespace {

Status not_there(Storage& storage, const FileRecord& record, std::uint32_t process_count) {
  if (process_count == 1)
    return not_found("'" + storage.path_of(record.name()) +
                     "', which this save wrote, is not there any more: it was removed, or its directory was moved. "
                     "Save again");
  return Status(Code::kCoordination,
                "process " + std::to_string(record.process_index) + " wrote '" + record.name() +
                    "', which process 0 does not see in '" + storage.path() +
                    "': the directory is not shared between them. Save to a file system that all processes share");
}

struct ReportedFile {
  std::vector<Extent> extents;
  DataDirectory directory;
  std::uint64_t compatible_features = 0;
};

// Opens a reported file and checks that it is the one that `record` says.
Result<ReportedFile> read_file(Storage& storage, const FileReport& report, const FileRecord& record) {
  Result<std::unique_ptr<ReadableFile>> file = storage.open(record.name());
  if (file.status().code() == Code::kNotFound) return not_there(storage, record, report.process_count);
  if (!file.ok()) return file.status();
  OSTRACA_ASSIGN_OR_RETURN(FileStructure structure, read_structure(**file));
  OSTRACA_RETURN_IF_ERROR(check_identity(structure, **file, record, report.process_count));
  if (structure.header.features != features_of(report, record.part))
    return format_error("file '" + (*file)->path() +
                        "' and its report differ in what it requires: a base, or files before it");
  OSTRACA_ASSIGN_OR_RETURN(DataDirectory directory, read_data_directory(structure, **file));
  if (record.part < report.part && !names_itself_alone(directory, record))
    return format_error("file '" + (*file)->path() +
                        "' is not the last of its process: expected a directory that names it alone");
  return ReportedFile{std::move(structure.extents), std::move(directory), structure.header.compatible_features};
}

// What all processes wrote, read many files at a time: their last files first, which name the others.
Result<std::vector<Share>> read_shares(Storage& storage, const std::vector<FileReport>& reports,
                                       std::atomic<std::uint64_t>* files_checked, std::uint64_t* compatible_features) {
  std::vector<Share> shares(reports.size());
  std::atomic<std::uint64_t> compatible = 0;
  const auto read = [&](const FileReport& report, const FileRecord& record) -> Result<ReportedFile> {
    Result<ReportedFile> file = read_file(storage, report, record);
    if (!file.ok()) return file;
    compatible |= file->compatible_features;
    if (files_checked != nullptr) ++*files_checked;
    return file;
  };
  const unsigned threads = storage.traits().small_reads;
  OSTRACA_RETURN_IF_ERROR(for_each_parallel(reports.size(), threads, "commit", [&](std::size_t i) -> Status {
    OSTRACA_ASSIGN_OR_RETURN(ReportedFile file, read(reports[i], last_file(reports[i])));
    OSTRACA_ASSIGN_OR_RETURN(shares[i], share_of(reports[i], std::move(file.directory)));
    shares[i].extents.back() = std::move(file.extents);
    return {};
  }));
  OSTRACA_RETURN_IF_ERROR(check_file_count(shares));
  struct Earlier {
    std::size_t process;
    std::size_t part;
  };
  std::vector<Earlier> earlier;
  for (std::size_t i = 0; i < shares.size(); ++i)
    for (std::size_t part = 0; part + 1 < shares[i].files.size(); ++part) earlier.push_back({i, part});
  OSTRACA_RETURN_IF_ERROR(for_each_parallel(earlier.size(), threads, "commit", [&](std::size_t i) -> Status {
    Share& share = shares[earlier[i].process];
    OSTRACA_ASSIGN_OR_RETURN(ReportedFile file, read(reports[earlier[i].process], share.files[earlier[i].part]));
    share.extents[earlier[i].part] = std::move(file.extents);
    return {};
  }));
  *compatible_features = compatible;
  return shares;
}

struct Index {
  std::vector<std::byte> bytes;
  std::uint32_t footer_crc = 0;
};

Result<Index> encode_index(const Directory& directory, const FileHeader& header) {
  OSTRACA_ASSIGN_OR_RETURN(const FileTail tail, FileTail::make({}, directory));
  const auto head = encode_header(header);
  const std::vector<std::byte> rest = tail.encode(header, kHeaderBytes);
  Index index{{head.begin(), head.end()}, footer_crc(Bytes(rest).last(kFooterBytes))};
  index.bytes.insert(index.bytes.end(), rest.begin(), rest.end());
  return index;
}

// Stored bytes of the base's extents that are used, each once. Checks on the way that all of them are there.
Result<std::uint64_t> referenced_bytes(Storage& storage, const std::vector<Share>& shares,
                                       const IndexDirectory& directory, const std::string& base_directory) {
  if (base_directory.empty()) return std::uint64_t{0};
  const std::unique_ptr<Storage> base = beside(storage, base_directory);
  DataFiles files(storage, base.get(), directory);
  std::set<std::pair<std::uint32_t, std::uint32_t>> used;
  for (const ChunkRef& ref : directory.refs)
    if (directory.files[ref.file].in_base) used.emplace(ref.file, ref.extent);
  for (const Share& share : shares)
    for (const std::vector<Extent>& extents : share.extents)
      for (const Extent& extent : extents)
        if (extent.codec == Codec::kDelta) {
          OSTRACA_ASSIGN_OR_RETURN(const DataFiles::BaseExtent place, files.base_of(extent));
          used.emplace(place.file, place.extent);
        }
  std::uint64_t bytes = 0;
  for (const auto& [file, extent] : used) {
    OSTRACA_ASSIGN_OR_RETURN(const DataFile* data, files.get(file));
    bytes += data->extents[extent].stored_bytes;
  }
  return bytes;
}

Manifest describe(const std::vector<Share>& shares, const std::vector<FileReport>& reports,
                  const IndexDirectory& directory, const FileHeader& index_header, const Index& index,
                  const CommitOptions& options) {
  Manifest manifest;
  manifest.features = index_header.features;
  manifest.compatible_features = index_header.compatible_features;
  manifest.id = reports.front().attempt;
  manifest.base_directory = reports.front().base_directory;
  manifest.base_id = reports.front().base_id;
  manifest.step = options.step;
  manifest.parent = options.parent;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const std::int64_t now_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  set_created(&manifest, options.created_ns != 0 ? options.created_ns : std::max(now_ns, options.created_after_ns + 1));
  manifest.writer = std::string("ostraca ") + OSTRACA_VERSION;
  manifest.process_count = reports.front().process_count;
  manifest.index = {index_file_name(manifest.id), index.bytes.size(), index.footer_crc};
  manifest.stored_bytes = index.bytes.size();
  for (const Share& share : shares)
    for (std::size_t i = 0; i < share.files.size(); ++i) {
      const FileRecord& file = share.files[i];
      manifest.files.push_back({file.name(), file.bytes, file.footer_crc, file.process_index, file.part});
      manifest.stored_bytes += file.bytes;
      manifest.chunks += share.extents[i].size();
    }
  for (const FileReport& report : reports) manifest.logical_bytes += report.logical_bytes;
  manifest.arrays = static_cast<std::uint64_t>(
      std::ranges::count_if(directory.leaves, [](const LeafRecord& leaf) { return kind_has_data(leaf.kind); }));
  manifest.seconds = options.seconds;
  manifest.stall_seconds = options.stall_seconds;
  manifest.metadata = options.metadata;
  return manifest;
}

// The header of the index: it requires what all data files together do.
FileHeader index_header(const std::vector<FileReport>& reports, std::uint64_t compatible_features) {
  FileHeader header{.kind = FileKind::kIndex,
                    .compatible_features = compatible_features,
                    .id = reports.front().attempt,
                    .process_count = reports.front().process_count};
  for (const FileReport& report : reports) header.features |= features_of(report, report.part);
  return header;
}

}  // namespace

Result<std::string> commit_on(Storage& storage, const std::vector<FileReport>& unordered,
                              const CommitOptions& options) {
  OSTRACA_ASSIGN_OR_RETURN(const std::vector<FileReport> reports, in_order(unordered));
  const CheckpointId id = reports.front().attempt;
  std::uint64_t compatible_features = 0;
  OSTRACA_ASSIGN_OR_RETURN(const std::vector<Share> shares,
                           read_shares(storage, reports, options.files_checked, &compatible_features));
  OSTRACA_ASSIGN_OR_RETURN(const IndexDirectory directory, merge(shares));
  const FileHeader header = index_header(reports, compatible_features);
  OSTRACA_ASSIGN_OR_RETURN(const Index index, encode_index(directory, header));
  // What will be published is checked by the eyes that will read it.
  const Result<IndexDirectory> read_back = decode_index_directory(encode_directory(directory));
  if (!read_back.ok()) return read_back.status().with_context("the reported shards do not make a checkpoint");
  std::vector<const std::vector<Extent>*> extents;
  for (const Share& share : shares)
    for (const std::vector<Extent>& of_file : share.extents) extents.push_back(&of_file);
  extents.resize(directory.files.size());  // the base's: in referenced_bytes
  OSTRACA_RETURN_IF_ERROR(check_references(directory, extents));
  Manifest manifest = describe(shares, reports, directory, header, index, options);
  OSTRACA_ASSIGN_OR_RETURN(manifest.referenced_bytes,
                           referenced_bytes(storage, shares, directory, manifest.base_directory));
  OSTRACA_ASSIGN_OR_RETURN(std::string text, encode_manifest(manifest));

  const std::string index_name = index_file_name(id);
  Status status = storage.write_small(index_name, index.bytes);
  if (status.code() == Code::kExists)  // the index is the other commit's: hands off
    return exists("attempt " + id.hex() + " was committed to '" + storage.path() + "' before, or is being committed");
  if (status.ok()) status = storage.sync_directory();
  std::optional<Manifest> replaced;
  if (status.ok()) status = publish(storage, manifest, text, options, &replaced);
  if (status.ok()) {
    remove_superseded(storage, manifest.id, replaced);
    return text;
  }
  if (status.code() != Code::kCommitUncertain) (void)storage.remove(index_name);
  return status;
}

Result<std::string> commit(const std::string& path, const std::vector<FileReport>& reports,
                           const CommitOptions& options) {
  return commit_on(*open_storage(path), reports, options);
}

}  // namespace ostraca
