// How a checkpoint comes into being. Steps 1 and 2 are each Writer's; this file does the others:
//   1. every process writes its data file;
//   2. and makes it durable, and its name, before it reports;
//   3. the committer opens every reported file and checks id, size, footer and tables;
//   4. it writes the index and makes it, and its name, durable;
//   5. it publishes the manifest, and makes its name durable (engine/publish.cc);
//   6. only then are the intent and the files of an overwritten checkpoint removed.
// An error before step 5 removes what step 4 wrote. After it nothing is removed: kCommitUncertain.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <new>
#include <set>

#include "base/limits.h"
#include "base/worker_pool.h"
#include "checksum/crc32c.h"
#include "codec/codec.h"
#include "engine/data_files.h"
#include "engine/lifetime.h"
#include "engine/merge.h"
#include "engine/on_storage.h"
#include "engine/publish.h"
#include "engine/stored_file.h"

namespace ostraca {
namespace {

constexpr int kIndexLevel = 1;

std::uint64_t features(const FileReport& report) { return report.base_directory.empty() ? 0 : kFeatureIncremental; }

Result<Part> read_part(Storage& storage, const FileReport& report) {
  Result<std::unique_ptr<ReadableFile>> file = storage.open(report.file_name());
  if (!file.ok() && file.status().code() == Code::kNotFound && report.process_count == 1)
    return not_found("'" + storage.path_of(report.file_name()) +
                     "', which this save wrote, is not there any more: it was removed, or its directory was moved. "
                     "Save again");
  if (!file.ok() && file.status().code() == Code::kNotFound)
    return Status(Code::kCoordination,
                  "process " + std::to_string(report.process_index) + " wrote '" + report.file_name() +
                      "', which process 0 does not see in '" + storage.path() +
                      "': the directory is not shared between them. Save to a file system that all processes share");
  if (!file.ok()) return file.status();
  Part part{.record = {report.file_bytes, report.footer_crc, report.process_index, report.attempt}};
  OSTRACA_ASSIGN_OR_RETURN(FileStructure structure, read_structure(**file));
  OSTRACA_RETURN_IF_ERROR(check_identity(structure, **file, part.record, report.process_count));
  if (structure.header.features != features(report))
    return format_error("file '" + (*file)->path() + "' and its report differ in whether there is a base");
  OSTRACA_ASSIGN_OR_RETURN(part.directory, read_data_directory(structure, **file));
  for (const ShardRecord& shard : part.directory.shards)
    if (shard.process != report.process_index)
      return format_error("file '" + (*file)->path() + "' holds a shard of process " + std::to_string(shard.process));
  part.extents = std::move(structure.extents);
  return part;
}

// Of all processes' files, many at a time. Of several failures the one of the first process is returned.
Result<std::vector<Part>> read_parts(Storage& storage, const std::vector<FileReport>& reports,
                                     std::atomic<std::uint64_t>* files_checked) {
  std::vector<Part> parts(reports.size());
  std::mutex mutex;  // guards failure and failed_at
  Status failure;
  std::size_t failed_at = reports.size();
  std::atomic<std::size_t> next = 0;
  const auto read = [&](std::size_t i) {
    Result<Part> part = [&]() -> Result<Part> {
      try {
        return read_part(storage, reports[i]);
      } catch (const std::bad_alloc&) {
        return Status(Code::kOutOfMemory, "the memory for the tables of " + reports[i].file_name() + " cannot be had");
      }
    }();
    if (part.ok()) {
      parts[i] = part.take();
      if (files_checked != nullptr) ++*files_checked;
      return;
    }
    const std::lock_guard lock(mutex);
    if (i < failed_at) failure = part.status(), failed_at = i;
    next = reports.size();
  };
  const auto work = [&] {
    for (std::size_t i = next++; i < reports.size(); i = next++) read(i);
  };
  const auto threads = static_cast<unsigned>(std::min<std::size_t>(reports.size(), storage.traits().small_reads));
  if (threads <= 1) {
    work();
  } else {
    WorkerPool pool(threads, "commit");
    for (unsigned i = 0; i < threads; ++i) pool.submit(work);
    pool.wait_idle();
  }
  if (!failure.ok()) return failure;
  return parts;
}

struct Index {
  std::vector<std::byte> bytes;
  std::uint32_t footer_crc = 0;
};

Result<Index> encode_index(Bytes decoded, const FileReport& report) {
  if (decoded.size() > kDirectoryBytesMax) return invalid_argument("the checkpoint has too many leaves for one index");
  std::vector<std::byte> frame(zstd_bound(decoded.size()));
  OSTRACA_ASSIGN_OR_RETURN(const std::size_t frame_bytes, zstd_compress(decoded, kIndexLevel, frame));
  frame.resize(frame_bytes);
  const auto header = encode_header({.kind = FileKind::kIndex,
                                     .features = features(report),
                                     .id = report.attempt,
                                     .process_count = report.process_count});
  const auto footer = encode_footer({.table_offset = kHeaderBytes,
                                     .directory_offset = kHeaderBytes,
                                     .directory_stored_bytes = frame_bytes,
                                     .directory_decoded_bytes = decoded.size(),
                                     .table_crc = crc32c({}),
                                     .directory_crc = crc32c(frame),
                                     .id = report.attempt,
                                     .file_bytes = kHeaderBytes + frame_bytes + kFooterBytes,
                                     .header_crc = header_crc(header)});
  Index index{{header.begin(), header.end()}, footer_crc(footer)};
  index.bytes.insert(index.bytes.end(), frame.begin(), frame.end());
  index.bytes.insert(index.bytes.end(), footer.begin(), footer.end());
  return index;
}

// Stored bytes of the base's extents that are used, each once. Checks on the way that all of them are there.
Result<std::uint64_t> referenced_bytes(Storage& storage, const std::vector<Part>& parts,
                                       const IndexDirectory& directory, const std::string& base_directory) {
  if (base_directory.empty()) return std::uint64_t{0};
  const std::unique_ptr<Storage> base = beside(storage, base_directory);
  DataFiles files(storage, base.get(), directory);
  std::set<std::pair<std::uint32_t, std::uint32_t>> used;
  for (const ChunkRef& ref : directory.refs)
    if (directory.files[ref.file].in_base) used.emplace(ref.file, ref.extent);
  for (const Part& part : parts)
    for (const Extent& extent : part.extents)
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

Manifest describe(const std::vector<Part>& parts, const std::vector<FileReport>& reports,
                  const IndexDirectory& directory, const Index& index, const CommitOptions& options) {
  Manifest manifest;
  manifest.features = features(reports.front());
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
  for (const Part& part : parts) {
    manifest.files.push_back(
        {data_file_name(part.record.process_index, part.record.id), part.record.bytes, part.record.footer_crc});
    manifest.stored_bytes += part.record.bytes;
    manifest.chunks += part.extents.size();
  }
  for (const FileReport& report : reports) manifest.logical_bytes += report.logical_bytes;
  manifest.arrays = static_cast<std::uint64_t>(
      std::ranges::count_if(directory.leaves, [](const LeafRecord& leaf) { return kind_has_data(leaf.kind); }));
  manifest.seconds = options.seconds;
  manifest.stall_seconds = options.stall_seconds;
  manifest.metadata = options.metadata;
  return manifest;
}

Status check_reports(std::vector<FileReport>& reports) {
  if (reports.empty()) return invalid_argument("there is nothing to commit: no reports");
  std::ranges::sort(reports, {}, &FileReport::process_index);
  for (std::size_t i = 0; i < reports.size(); ++i) {
    if (reports[i].attempt != reports.front().attempt)
      return Status(Code::kCoordination,
                    "processes 0 and " + std::to_string(reports[i].process_index) + " report different attempts");
    if (reports[i].base_directory != reports.front().base_directory || reports[i].base_id != reports.front().base_id)
      return Status(Code::kCoordination,
                    "processes 0 and " + std::to_string(reports[i].process_index) + " report different bases");
    if (reports[i].process_count != reports.size())
      return Status(Code::kCoordination, "process " + std::to_string(reports[i].process_index) + " counts " +
                                             std::to_string(reports[i].process_count) + " processes, but " +
                                             std::to_string(reports.size()) + " reported");
    if (reports[i].process_index != i)
      return Status(Code::kCoordination, "there is no report, or more than one, from process " + std::to_string(i));
  }
  return {};
}

}  // namespace

Result<std::string> commit_on(Storage& storage, const std::vector<FileReport>& unordered,
                              const CommitOptions& options) {
  std::vector<FileReport> reports = unordered;
  OSTRACA_RETURN_IF_ERROR(check_reports(reports));
  const CheckpointId id = reports.front().attempt;
  OSTRACA_ASSIGN_OR_RETURN(const std::vector<Part> parts, read_parts(storage, reports, options.files_checked));
  OSTRACA_ASSIGN_OR_RETURN(const IndexDirectory directory, merge(parts));
  const std::vector<std::byte> decoded = encode_directory(directory);
  OSTRACA_ASSIGN_OR_RETURN(const Index index, encode_index(decoded, reports.front()));
  // What will be published is checked by the eyes that will read it.
  const Result<IndexDirectory> read_back = decode_index_directory(decoded);
  if (!read_back.ok()) return read_back.status().with_context("the reported shards do not make a checkpoint");
  std::vector<const std::vector<Extent>*> extents(directory.files.size());  // the base's: in referenced_bytes
  for (std::size_t i = 0; i < parts.size(); ++i) extents[i] = &parts[i].extents;
  OSTRACA_RETURN_IF_ERROR(check_references(directory, extents));
  Manifest manifest = describe(parts, reports, directory, index, options);
  OSTRACA_ASSIGN_OR_RETURN(manifest.referenced_bytes,
                           referenced_bytes(storage, parts, directory, manifest.base_directory));
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
  return commit_on(*make_posix_storage(path), reports, options);
}

}  // namespace ostraca
