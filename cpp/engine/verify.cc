// verify(): every byte of a checkpoint, all damage.

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>

#include "base/cpu.h"
#include "container/key_path.h"
#include "engine/data_files.h"
#include "engine/extent_names.h"
#include "engine/lifetime.h"
#include "engine/merge.h"
#include "engine/on_storage.h"
#include "engine/read_pipeline.h"
#include "engine/stored_file.h"
#include "engine/stores.h"

namespace ostraca {
namespace {

Status missing_means_damage(const Status& status) {
  if (status.code() != Code::kNotFound) return status;
  return corruption("the file is missing, though the manifest names it");
}

class Verifier {
 public:
  Verifier(Storage& storage, bool deep, unsigned threads, const Poll& poll)
      : storage_(storage),
        deep_(deep),
        threads_(threads ? threads : usable_cores()),
        poll_(poll),
        buffers_(kBlockBytes, kCodingBytesDefault, BufferPool::FilledBy::kDevice) {}

  Result<VerifyReport> run();
  // Whether the manifest that run() read was replaced meanwhile: what it then missed is no damage.
  bool overwritten() const {
    const Result<std::string> now = read_manifest(storage_);
    return now.ok() && *now != text_;
  }

 private:
  struct Wanted {
    std::string name;
    std::optional<FileRecord> record;  // unknown when the manifest cannot be read
    std::uint32_t number = 0;          // in the index
    std::uint32_t process_count = 0;
  };

  struct Own {
    FileRecord record;
    DataDirectory directory;
  };

  // Notes what was found at a place: an error of the system says nothing of the bytes there.
  void add(std::string file, std::uint64_t offset, std::string array, const Status& found,
           const std::string& more = "") {
    std::string reason = found.message() + more;
    const std::string prefix = "file '" + storage_.path_of(file) + "'";  // said already
    if (reason.starts_with(prefix)) reason.erase(0, std::min(reason.size(), prefix.size() + 2));
    const std::lock_guard lock(mutex_);
    auto& places = found.code() == Code::kSystem ? report_.unreadable : report_.damaged;
    places.push_back({std::move(file), offset, std::move(array), std::move(reason)});
  }
  std::vector<Wanted> wanted_files(const Manifest* manifest) const;
  void check_index(const Manifest& manifest);
  Status check_file(const Wanted& wanted);
  bool gather_shares(std::vector<Share>& shares) const;
  void check_agreement(const Manifest& manifest);
  Status check_chunks(const std::string& name, std::uint32_t number, const DataFile& file,
                      std::vector<ExtentRead> reads, ExtentNames& names);
  void open_base(const Manifest& manifest);
  void note_deltas(const std::string& name, const DataFile& file, ExtentNames& names);
  Status check_base();

  class ChunkSink;

  Storage& storage_;
  const bool deep_;
  const unsigned threads_;
  const Poll& poll_;
  BufferPool buffers_;
  std::string text_;  // of the manifest
  std::optional<IndexDirectory> index_;
  std::vector<ExtentNames> names_;                   // who uses the extents of each file of index_
  std::optional<OpenBase> base_;                     // set where there is a base
  std::optional<DataFiles> base_files_;              // those of index_, of which only the base's are used
  std::map<std::uint32_t, ExtentNames> base_names_;  // who uses the base's extents, by file
  std::vector<Own> own_;                             // the data files whose own directory can be read
  std::uint64_t bytes_total_ = 0;
  std::mutex mutex_;  // guards report_ while a pipeline runs
  VerifyReport report_;
};

class Verifier::ChunkSink final : public ReadPipeline::Sink {
 public:
  ChunkSink(Verifier& verifier, const std::string& name, const DataFile& file, ExtentNames& names)
      : verifier_(verifier), name_(name), file_(file), names_(names) {}

  std::byte* direct(const ExtentRead&, std::uint32_t) override { return nullptr; }
  void consume(const ExtentRead&, Bytes, Kept) override {}
  Status damaged(const ExtentRead& read, Status status) override {
    if (status.code() == Code::kOutOfMemory) return status;  // that says nothing of the file
    const std::lock_guard lock(mutex_);
    const std::vector<std::string>& names = names_.of(read.extent);
    const std::string more = names.size() > 1 ? " (a chunk of " + listed_names(names) + ")" : "";
    verifier_.add(name_, file_.extents[read.extent].offset, names.size() == 1 ? names.front() : "", status, more);
    return {};
  }

 private:
  Verifier& verifier_;
  const std::string& name_;
  const DataFile& file_;
  ExtentNames& names_;
  std::mutex mutex_;  // guards names_
};

Result<VerifyReport> Verifier::run() {
  OSTRACA_ASSIGN_OR_RETURN(text_, read_manifest(storage_));
  Result<Manifest> manifest = decode_manifest(text_);
  if (manifest.ok()) {
    check_index(*manifest);
  } else {
    if (manifest.status().code() == Code::kFormat)
      return manifest.status().with_context("file '" + storage_.path_of(kManifestName) + "'");
    add(kManifestName, 0, "", manifest.status());
  }
  report_.bytes = text_.size();
  const std::vector<Wanted> wanted = wanted_files(manifest.ok() ? &*manifest : nullptr);
  for (const Wanted& file : wanted)
    if (file.record) bytes_total_ += file.record->bytes;
  if (index_ && manifest.ok()) open_base(*manifest);
  for (const Wanted& file : wanted) OSTRACA_RETURN_IF_ERROR(check_file(file));
  if (base_) OSTRACA_RETURN_IF_ERROR(check_base());
  if (manifest.ok()) {
    report_.bytes += manifest->index.bytes;
    check_agreement(*manifest);
  }
  if (poll_) (void)poll_(bytes_total_, bytes_total_);
  for (auto* places : {&report_.damaged, &report_.unreadable})
    std::ranges::stable_sort(*places, {}, [](const Damage& d) { return std::pair(d.file, d.offset); });
  return std::move(report_);
}

void Verifier::check_index(const Manifest& manifest) {
  Result<IndexDirectory> index = read_index(storage_, manifest);
  if (index.ok()) {
    index_ = index.take();
    names_ = names_by_file(*index_);
  } else {
    add(manifest.index.name, 0, "", missing_means_damage(index.status()));
  }
}

// What each process says of its files in the last of them. False: that is not what they are.
bool Verifier::gather_shares(std::vector<Share>& shares) const {
  for (std::size_t i = 0; i < own_.size(); ++i) {
    if (own_[i].record.part == 0) shares.emplace_back();
    shares.back().files.push_back(own_[i].record);
    const bool is_last = i + 1 == own_.size() || own_[i + 1].record.part == 0;
    if (!is_last && !names_itself_alone(own_[i].directory, own_[i].record)) return false;
    if (is_last) shares.back().directory = own_[i].directory;
  }
  return std::ranges::all_of(shares, [](const Share& share) {
    std::vector<FileRecord> named(share.directory.files.begin(),
                                  share.directory.files.begin() + share.directory.own_files());
    named.back().bytes = share.files.back().bytes;  // which it cannot say of itself
    named.back().footer_crc = share.files.back().footer_crc;
    return named == share.files;
  });
}

// The index is what merging the data files' directories gives; nothing else says so.
void Verifier::check_agreement(const Manifest& manifest) {
  if (!index_ || own_.size() != manifest.files.size()) return;
  std::vector<Share> shares;
  const bool agree = gather_shares(shares);
  const Result<IndexDirectory> merged = agree ? merge(shares) : Result<IndexDirectory>(IndexDirectory());
  if (!merged.ok()) {
    add(manifest.index.name, 0, "", merged.status());
  } else if (!agree || encode_directory(*merged) != encode_directory(*index_)) {
    add(manifest.index.name, 0, "", corruption("the index does not hold what the data files' own directories say"));
  }
}

std::vector<Verifier::Wanted> Verifier::wanted_files(const Manifest* manifest) const {
  std::vector<Wanted> wanted;
  if (!manifest) {  // whatever looks like a data or index file is checked on its own
    const Result<std::vector<std::string>> names = storage_.list();
    for (const std::string& name : names.ok() ? *names : std::vector<std::string>{})
      if ((name.starts_with("p") || name.starts_with("index-")) && name.ends_with(".ostraca"))
        wanted.push_back({name, std::nullopt, 0});
    return wanted;
  }
  for (std::uint32_t i = 0; i < manifest->files.size(); ++i) {
    const ManifestFile& file = manifest->files[i];
    const FileRecord record{.bytes = file.bytes,
                            .footer_crc = file.footer_crc,
                            .process_index = file.process_index,
                            .id = manifest->id,
                            .part = file.part};
    wanted.push_back({file.name, record, i, manifest->process_count});
  }
  return wanted;
}

Status Verifier::check_file(const Wanted& wanted) {
  ExtentNames names = index_ ? std::move(names_[wanted.number]) : ExtentNames();
  const auto whole_file = [&](std::uint64_t offset, const Status& found) {
    add(wanted.name, offset, "", found,
        names.all().empty() ? "" : " (it holds chunks of " + listed_names(names.all()) + ")");
  };
  Result<std::unique_ptr<ReadableFile>> opened = storage_.open(wanted.name);
  if (!opened.ok()) {
    whole_file(0, missing_means_damage(opened.status()));
    return {};
  }
  DataFile file{.file = opened.take()};
  report_.bytes += file.file->size();
  FileStructure structure;
  std::vector<Problem> problems;
  const bool usable = examine_structure(*file.file, structure, problems);
  for (const Problem& problem : problems) whole_file(problem.offset, problem.status);
  bool is_another = false;
  if (problems.empty() && wanted.record) {
    const Status status = check_identity(structure, *file.file, *wanted.record, wanted.process_count);
    is_another = !status.ok();
    if (is_another) whole_file(0, status);
  }
  if (!usable) {
    if (wanted.record && wanted.record->bytes != file.file->size())
      whole_file(file.file->size(), corruption("size in bytes: expected " + std::to_string(wanted.record->bytes) +
                                               ", found " + std::to_string(file.file->size())));
    return {};
  }
  if (!structure.directory.empty() && !wanted.record && structure.header.kind == FileKind::kIndex) {
    const Result<IndexDirectory> own = read_index_directory(structure, *file.file);
    if (!own.ok()) whole_file(structure.footer.directory_offset, own.status());
  } else if (!structure.directory.empty()) {
    Result<DataDirectory> own = read_data_directory(structure, *file.file);
    if (!own.ok()) {
      whole_file(structure.footer.directory_offset, own.status());
    } else if (index_ && !is_another) {
      own_.push_back({*wanted.record, own.take()});
    } else if (!index_ && own->own_files() > 0) {
      names = std::move(names_by_file(*own)[own->own_files() - std::size_t{1}]);
    }
  }
  if (index_) {
    std::vector<const std::vector<Extent>*> tables(index_->files.size(), nullptr);
    tables[wanted.number] = &structure.extents;
    if (Status status = check_references(*index_, tables); !status.ok()) whole_file(0, status);
  }
  file.extents = std::move(structure.extents);
  file.table_offset = structure.footer.table_offset;
  if (base_) note_deltas(wanted.name, file, names);
  std::vector<ExtentRead> reads;
  for (std::uint32_t i = 0; i < file.extents.size(); ++i) reads.push_back({wanted.number, i, {}});
  return check_chunks(wanted.name, wanted.number, file, std::move(reads), names);
}

// Checks the extents of `reads`, which are of one file: number `number` of the manifest and the index.
Status Verifier::check_chunks(const std::string& name, std::uint32_t number, const DataFile& file,
                              std::vector<ExtentRead> reads, ExtentNames& names) {
  std::vector<const DataFile*> files(std::max<std::size_t>(index_ ? index_->files.size() : 0, number + 1), nullptr);
  files[number] = &file;
  ChunkSink sink(*this, name, file, names);
  const auto is_delta = [&](const ExtentRead& read) { return file.extents[read.extent].codec == Codec::kDelta; };
  // Without an index, of which the report says what ails it, a delta's base is not known: checksums have to do.
  const bool deep = deep_ && (base_ || std::ranges::none_of(reads, is_delta));
  if (deep && base_) {
    const auto lost = std::erase_if(reads, [&](ExtentRead& read) {
      if (!is_delta(read)) return false;
      const Extent& extent = file.extents[read.extent];
      const Result<DataFiles::BaseExtent> base = base_files_->base_of(extent);
      if (!base.ok()) return (void)sink.damaged(read, base.status()), true;
      read.base_file = base->file;
      read.base_extent = base->extent;
      files[base->file] = *base_files_->get(base->file);
      return false;
    });
    report_.chunks += lost;
  }
  const std::vector<Fetch> fetches = plan_fetches(
      reads, [&](std::uint32_t f) -> const std::vector<Extent>& { return files[f]->extents; },
      [&](std::uint32_t f) { return files[f]->table_offset; }, kFetchBytes);
  ReadPipeline pipeline(
      fetches, files, buffers_, sink,
      {.threads = threads_, .io_threads = storage_.traits().io_threads, .decode = deep, .deep = deep});
  const std::uint64_t before = report_.bytes - std::min(report_.bytes, file.file->size());
  const Status status = pipeline.run([&](std::uint64_t done, std::uint64_t) {
    return !poll_ || poll_(std::min(before + done, bytes_total_), bytes_total_);
  });
  report_.chunks += reads.size();
  return status;
}

void Verifier::open_base(const Manifest& manifest) {
  if (manifest.base_directory.empty()) return;
  base_.emplace(storage_, manifest);
  if (!base_->status().ok())
    add("../" + base_->name() + "/" + kManifestName, 0, "",
        base_->status().with_context("the base's manifest, or the tombstone that takes its place, cannot be used"));
  base_files_.emplace(storage_, base_->storage(), *index_);
  for (std::uint32_t file = 0; file < index_->files.size(); ++file)
    if (index_->files[file].in_base) base_names_[file] = std::move(names_[file]);
}

// Notes which of the base's extents a file's deltas need, and for whom.
void Verifier::note_deltas(const std::string& name, const DataFile& file, ExtentNames& names) {
  for (std::uint32_t i = 0; i < file.extents.size(); ++i) {
    const Extent& extent = file.extents[i];
    if (extent.codec != Codec::kDelta) continue;
    const std::optional<std::uint32_t> file = base_files_->base_file(extent.base_file);
    if (!file) {
      add(name, extent.offset, listed_names(names.of(i)),
          corruption("a delta against file " + std::to_string(extent.base_file) +
                     " of the base, which the index does not list"));
      continue;
    }
    base_names_[*file].add(extent.base_extent, names.of(i));
  }
}

// The base, as far as it is used.
Status Verifier::check_base() {
  for (auto& [number, names] : base_names_) {
    const FileRecord& record = index_->files[number];
    const std::string name = "../" + base_->name() + "/" + record.name();
    const Result<const DataFile*> file = base_files_->get(number);
    if (!file.ok()) {
      add(name, 0, "", file.status(), " (arrays that need it: " + listed_names(names.all()) + ")");
      continue;
    }
    std::vector<ExtentRead> reads;
    for (std::uint32_t extent : names.extents()) {
      if (extent < (*file)->extents.size()) {
        reads.push_back({number, extent, {}});
        report_.bytes += (*file)->extents[extent].stored_bytes;
      } else {
        add(name, (*file)->table_offset, "",
            corruption("there is no extent " + std::to_string(extent) + ", which a delta is against"));
      }
    }
    OSTRACA_RETURN_IF_ERROR(check_chunks(name, number, **file, std::move(reads), names));
  }
  return {};
}

}  // namespace

Result<VerifyReport> verify_on(Storage& storage, bool deep, unsigned threads, const Poll& poll) {
  const Result<std::unique_ptr<Lease>> lease = storage.lease(kManifestName);  // without one it reads all the same
  while (true) {
    Verifier verifier(storage, deep, threads, poll);
    Result<VerifyReport> report = verifier.run();
    if (!report.ok() || report->ok() || !verifier.overwritten()) return report;
  }
}

Result<VerifyReport> verify(const std::string& path, bool deep, unsigned threads, const Poll& poll) {
  return verify_on(*open_storage(path), deep, threads, poll);
}

}  // namespace ostraca
