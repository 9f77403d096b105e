// Writer: plans sources, feeds the pipeline, and ends the file with its tables.

#include "ostraca/writer.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <deque>
#include <limits>
#include <memory_resource>
#include <mutex>
#include <utility>

#include "base/checked.h"
#include "base/cpu.h"
#include "base/hash_index.h"
#include "base/host.h"
#include "container/manifest.h"
#include "engine/file_tail.h"
#include "engine/keyframe.h"
#include "engine/leaf_table.h"
#include "engine/lifetime.h"
#include "engine/on_storage.h"
#include "engine/part_files.h"
#include "engine/stores.h"
#include "engine/write_pipeline.h"
#include "engine/write_plan.h"

namespace ostraca {
namespace {

constexpr auto kPollInterval = std::chrono::milliseconds(20);
constexpr auto kNever = std::numeric_limits<std::chrono::steady_clock::rep>::max();

class WriterImpl final : public Writer {
 public:
  WriterImpl(std::unique_ptr<Storage> storage, WriterOptions options, const CheckpointId& id)
      : storage_(std::move(storage)),
        options_(std::move(options)),
        id_(id),
        base_(std::static_pointer_cast<Keyframe>(options_.base)) {}
  ~WriterImpl() override {
    if (!finished_) abort();
  }

  Status prepare();
  Status open() override;
  const CheckpointId& attempt() const override { return id_; }
  Status add(ArraySource source) override;
  void seal() override;
  bool copied() const override { return pipeline_->copied(); }
  Result<bool> wait_copied(std::optional<std::chrono::nanoseconds> timeout) override {
    return aborted_ ? Result<bool>(cancelled("the save was aborted")) : pipeline_->wait_copied(timeout);
  }
  Result<FileReport> finish(const Poll& poll) override;
  void renew() override;
  Result<std::shared_ptr<BaseSnapshot>> snapshot() override;
  void cancel() override { pipeline_->cancel(cancelled("the save was cancelled")); }
  void abort() override;
  std::uint64_t bytes_done() const override { return pipeline_->bytes_done() + tied_bytes_; }
  std::uint64_t bytes_total() const override { return logical_bytes_; }

 private:
  Status check_base();
  static std::optional<BasePlace> base_place(const Piece& piece);
  Status set_chunk_shape(ArraySource& source, std::uint32_t item) const;
  void push(Piece piece);
  std::uint64_t file_bytes() const { return options_.file_bytes.value_or(storage_->traits().file_bytes); }
  Status publish_intent();
  Status complete();
  bool is_committed();

  const std::unique_ptr<Storage> storage_;
  const WriterOptions options_;
  const CheckpointId id_;
  const std::shared_ptr<Keyframe> base_;        // null: none
  std::string base_name_;                       // its directory's
  std::unique_ptr<PartFiles> files_;            // null: not open
  std::pmr::monotonic_buffer_resource memory_;  // of the sources: freed at once
  std::pmr::deque<PlannedSource> sources_{&memory_};
  HashIndex pinned_;  // the sources that stay valid until the end, by their memory, for ties
  LeafTable leaves_;
  BatchBuilder batches_;
  Packer packer_;
  std::atomic<std::uint64_t> logical_bytes_ = 0, tied_bytes_ = 0;  // atomic: progress is asked for by other threads
  bool sealed_ = false;
  bool made_intent_ = false;
  std::atomic<std::chrono::steady_clock::rep> renew_at_ = kNever;  // by the steady clock
  std::atomic<bool> finished_ = false, aborted_ = false;
  std::mutex abort_mutex_;
  FileReport report_;
  std::unique_ptr<WritePipeline> pipeline_;  // set by prepare(), for good. Last: its threads use all of the above
};

// REQUIRES: nobody else has the writer yet.
Status WriterImpl::prepare() {
  if (base_ && options_.keep_bytes > 0) return invalid_argument("an incremental save cannot be kept as a base");
  WritePipeline::Options pipeline{
      .codec = options_.codec,
      .threads = std::min(options_.threads ? options_.threads : usable_cores(), kThreadsMax),
      .io_threads = storage_->traits().io_threads,
      .coding_bytes = options_.coding_bytes ? options_.coding_bytes : kCodingBytesDefault,
      .staging_bytes = options_.staging_bytes,
      .keep_bytes = options_.keep_bytes,
      .files = {.file_bytes = file_bytes(),
                .parts_max = std::clamp(kFileCountMax / options_.process_count, 1u, kPartCountMax)},
      .base = base_};
  pipeline_ = std::make_unique<WritePipeline>(pipeline, [this] { return complete(); });
  return options_.opens_later ? Status() : open();
}

Status WriterImpl::open() {
  const std::lock_guard lock(abort_mutex_);  // abort() then sees all that was made
  if (aborted_ || files_) return invalid_argument("a writer is opened once, and not after abort()");
  OSTRACA_RETURN_IF_ERROR(pipeline_->status());
  if (!options_.overwrite) {
    Result<std::string> manifest = storage_->read_small(kManifestName, kManifestBytesMax);
    if (manifest.ok())
      return exists("'" + storage_->path() + "' already holds a checkpoint: choose another path, or overwrite=True");
    if (manifest.status().code() == Code::kSystem && manifest.status().os_error() != ENOTDIR) return manifest.status();
    if (manifest.status().code() == Code::kFormat)
      return exists("'" + storage_->path_of(kManifestName) +
                    "' exists and is not a manifest this release could have written");
  } else if (options_.process_index == 0) {
    OSTRACA_ASSIGN_OR_RETURN(const InPlace found, manifest_in_place(*storage_));
    if (found.manifest) OSTRACA_RETURN_IF_ERROR(check_no_claim(*storage_, *found.manifest));
  }
  if (base_) OSTRACA_RETURN_IF_ERROR(check_base());
  OSTRACA_RETURN_IF_ERROR(storage_->create_directory());
  if (options_.process_index == 0) {
    OSTRACA_RETURN_IF_ERROR(publish_intent());
    if (options_.process_count > 1 && !storage_->traits().is_shared)
      return Status::system(
          EOPNOTSUPP,
          "save by several processes (the file system has neither hard links nor RENAME_NOREPLACE, as "
          "mounts of buckets have not; one process can save here, and all can give the bucket's URL)",
          storage_->path());
    // Again: whoever prunes looks for intents after it has removed a manifest, so that one of the two sees the other.
    if (base_) OSTRACA_RETURN_IF_ERROR(check_live_base(*storage_, base_name_, base_->id()));
  }
  const FileHeader header{.kind = FileKind::kData,
                          .features = base_ ? kFeatureIncremental : 0,
                          .id = id_,
                          .process_index = options_.process_index,
                          .process_count = options_.process_count};
  files_ = std::make_unique<PartFiles>(*storage_, options_.io, header, file_bytes());
  OSTRACA_RETURN_IF_ERROR(files_->open());
  pipeline_->open(*files_);
  return {};
}

// Published as the manifest will be: what cannot serve for that is found out before there is data.
Status WriterImpl::publish_intent() {
  const Intent intent{.id = id_,
                      .base_directory = base_name_,
                      .base_id = base_ ? base_->id() : CheckpointId{},
                      .process_count = options_.process_count,
                      .created = utc_now(),
                      .host = host_name(),
                      .pid = ::getpid(),
                      .boot_id = boot_id(),
                      .start_ticks = own_start_ticks()};
  OSTRACA_ASSIGN_OR_RETURN(const std::string text, encode_intent(intent));
  const Status published = storage_->publish(
      {.name = intent_file_name(id_), .contents = as_bytes(text), .expected = Expected::absent(), .token = id_.hex()});
  made_intent_ = published.ok() || published.code() == Code::kCommitUncertain;
  if (published.code() == Code::kCommitUncertain)
    return Status::system(EIO, "begin a save (" + published.message() + ")", storage_->path());
  if (published.ok()) renew_at_ = (std::chrono::steady_clock::now() + options_.renew_every).time_since_epoch().count();
  return published;
}

// Whoever finds that it is due does it; the others see the next time.
void WriterImpl::renew() {
  const auto now = std::chrono::steady_clock::now();
  auto due = renew_at_.load();
  if (now.time_since_epoch().count() < due) return;
  if (renew_at_.compare_exchange_strong(due, (now + options_.renew_every).time_since_epoch().count()))
    (void)storage_->touch(intent_file_name(id_));
}

// The base must be beside the checkpoint, under a name of its own.
Status WriterImpl::check_base() {
  OSTRACA_ASSIGN_OR_RETURN(base_name_, base_->name());
  const Result<std::string> own = storage_->name();
  const Result<std::string> there = storage_->read_small(kManifestName, kManifestBytesMax);
  const Result<Manifest> manifest = there.ok() ? decode_manifest(*there) : Result<Manifest>(there.status());
  if ((own.ok() && *own == base_name_) || (manifest.ok() && manifest->id == base_->id()))
    return invalid_argument("'" + storage_->path() + "' cannot be saved against itself: name another base");
  return check_live_base(*storage_, base_name_, base_->id());
}

// Where the base has the same chunk, or a pack of the same arrays.
std::optional<BasePlace> WriterImpl::base_place(const Piece& piece) {
  std::optional<BasePlace> place;
  for (const Fragment& f : piece.fragments) {
    if (f.source->base.empty() || !f.source->base[f.chunk]) return std::nullopt;
    const ChunkRef& ref = *f.source->base[f.chunk];
    if (!place) place = BasePlace{ref.file, ref.extent};
    if (ref.file != place->file || ref.extent != place->extent || ref.offset != f.offset) return std::nullopt;
  }
  return place;
}

// REQUIRES: the source holds data.
Status WriterImpl::set_chunk_shape(ArraySource& source, std::uint32_t item) const {
  Dims& chunk = source.chunk_shape;
  if (chunk.empty() && options_.chunk_shape.size() == source.shape.size()) chunk = options_.chunk_shape;
  if (chunk.empty()) {
    chunk = default_chunk_shape(source.shape, item, kChunkBytesMax);
    return {};
  }
  if (chunk.size() != source.shape.size()) return invalid_argument("the chunk shape and the array differ in rank");
  for (std::size_t d = 0; d < chunk.size(); ++d) chunk[d] = std::clamp<std::uint64_t>(chunk[d], 1, source.shape[d]);
  std::uint64_t bytes = 0;
  if (!checked_volume(chunk, item, &bytes) || bytes > kChunkBytesMax)
    return invalid_argument("chunks of the given chunk_shape hold " + std::to_string(bytes) + " bytes, more than " +
                            std::to_string(kChunkBytesMax));
  return {};
}

Status WriterImpl::add(ArraySource source) {
  if (aborted_ || sealed_) return invalid_argument("nothing can be added to a writer that is sealed or aborted");
  OSTRACA_RETURN_IF_ERROR(pipeline_->status());
  renew();
  OSTRACA_ASSIGN_OR_RETURN(std::string name, display_name(source.path));
  std::uint32_t item = 0;
  if (Status status = normalize(source, &item); !status.ok()) return status.with_context("leaf '" + name + "'");
  OSTRACA_ASSIGN_OR_RETURN(const std::size_t leaf, leaves_.add(source, std::move(name)));

  std::uint64_t bytes = 0;
  (void)checked_volume(source.shape, item, &bytes);  // cannot overflow: normalize() checked the global shape
  if (!kind_has_data(source.kind) || bytes == 0) {
    if (source.on_copied) source.on_copied();
    return {};
  }
  if (Status status = set_chunk_shape(source, item); !status.ok())
    return status.with_context("leaf '" + std::string(leaves_.name(leaf)) + "'");
  logical_bytes_ += bytes;

  const bool pinned = !source.on_copied;
  const std::uint64_t hash = memory_hash(source);
  if (pinned)
    if (const auto tied = pinned_.find(hash, [&](auto i) { return same_memory(sources_[i].array, source); })) {
      leaves_.add_shard(leaf, source, sources_[*tied]);
      tied_bytes_ += bytes;
      return {};
    }
  PlannedSource* planned = &sources_.emplace_back(std::move(source), item);
  if (base_) {
    planned->base = base_->find(planned->array, planned->grid);
    planned->delta_worth.resize((planned->grid.count() + kDeltaGroup - 1) / kDeltaGroup);
  }
  leaves_.add_shard(leaf, planned->array, *planned);
  if (pinned) pinned_.insert(hash, static_cast<std::uint32_t>(sources_.size() - 1));
  if (bytes <= kPackMemberBytesMax && planned->grid.count() == 1) {
    packer_.add(planned, leaves_.name(leaf));
    return {};
  }
  const DTypeInfo& info = dtype_info(planned->array.dtype);
  for (std::uint64_t i = 0; i < planned->grid.count(); ++i)
    push({{info.scalar_bytes, info.is_float}, planned->chunk_bytes(i), {{planned, i, 0}}});
  // Who wants the memory back may have nothing more to add until then.
  if (!pinned && bytes >= kBlockBytes)
    if (Batch rest = batches_.take(); !rest.pieces.empty()) pipeline_->add(std::move(rest));
  return {};
}

void WriterImpl::push(Piece piece) {
  if (base_) piece.base = base_place(piece);
  if (Batch full = batches_.add(std::move(piece)); !full.pieces.empty()) pipeline_->add(std::move(full));
}

void WriterImpl::seal() {
  if (sealed_) return;
  sealed_ = true;
  for (Piece& piece : packer_.take()) push(std::move(piece));
  if (Batch rest = batches_.take(); !rest.pieces.empty()) pipeline_->add(std::move(rest));
  pipeline_->seal();
}

// Runs in an I/O thread of the pipeline when everything else is placed.
Status WriterImpl::complete() {
  OSTRACA_ASSIGN_OR_RETURN(const std::uint32_t part, pipeline_->wait_earlier_parts());
  std::vector<FileRecord> files = files_->records(part);
  files.push_back({.process_index = options_.process_index, .id = id_, .part = part});
  OSTRACA_ASSIGN_OR_RETURN(const FileTail tail, FileTail::make(pipeline_->extents(),
                                                               leaves_.take_directory(files, pipeline_->base_files())));
  const std::uint64_t start = pipeline_->tail_offset(tail.bytes() + files_->alignment());
  const std::vector<std::byte> bytes = tail.encode(files_->header(part), start);
  OSTRACA_RETURN_IF_ERROR(pipeline_->write_tail(start, bytes));
  OSTRACA_RETURN_IF_ERROR(files_->close(part, start + bytes.size(), bytes));
  OSTRACA_RETURN_IF_ERROR(storage_->sync_directory());
  report_ = {.process_index = options_.process_index,
             .process_count = options_.process_count,
             .attempt = id_,
             .part = part,
             .file_bytes = start + bytes.size(),
             .footer_crc = footer_crc(Bytes(bytes).last(kFooterBytes)),
             .logical_bytes = logical_bytes_,
             .base_directory = base_name_,
             .base_id = base_ ? base_->id() : CheckpointId{}};
  return {};
}

Result<FileReport> WriterImpl::finish(const Poll& poll) {
  if (aborted_) return cancelled("the save was aborted");
  if (!files_) return invalid_argument("a writer that opens later was not opened");
  seal();
  while (!pipeline_->wait_done(kPollInterval)) {
    renew();
    if (poll && !poll(bytes_done(), bytes_total())) cancel();
  }
  pipeline_->join();
  OSTRACA_RETURN_IF_ERROR(pipeline_->status());
  if (poll) (void)poll(bytes_done(), bytes_total());
  finished_ = true;
  return report_;
}

Result<std::shared_ptr<BaseSnapshot>> WriterImpl::snapshot() {
  if (!finished_ || aborted_) return invalid_argument("a save that is not finished is no base");
  if (base_) return invalid_argument("an incremental save is no base: its base is");
  OSTRACA_ASSIGN_OR_RETURN(const std::string own, storage_->name());
  OSTRACA_ASSIGN_OR_RETURN(auto keyframe, Keyframe::open(beside(*storage_, own), options_.keep_bytes));
  if (keyframe->id() != id_)
    return not_found("the checkpoint at '" + storage_->path() + "' is not, or no longer, the one that was saved");
  keyframe->adopt(options_.process_index, pipeline_->take_kept());
  return std::shared_ptr<BaseSnapshot>(std::move(keyframe));
}

// Whether the checkpoint in place is this attempt's, or may be: then its files are no longer the writer's to remove.
bool WriterImpl::is_committed() {
  if (!finished_) return false;
  const Result<std::string> text = storage_->read_small(kManifestName, kManifestBytesMax);
  if (!text.ok()) return text.status().code() != Code::kNotFound;
  const Result<Manifest> manifest = decode_manifest(*text);
  return manifest.ok() && manifest->id == id_;
}

// Other threads may still be inside finish() and wait_copied(): the pipeline stays, without its threads.
void WriterImpl::abort() {
  const std::lock_guard lock(abort_mutex_);
  if (aborted_.exchange(true)) return;
  if (pipeline_) {
    pipeline_->cancel(cancelled("the save was aborted"));
    pipeline_->join();
    (void)pipeline_->take_kept();
  }
  if (is_committed()) return;
  if (files_) files_->remove();
  renew_at_ = kNever;
  if (made_intent_) (void)storage_->remove(intent_file_name(id_));
  storage_->remove_created_directories();
  finished_ = true;
}

}  // namespace

Result<std::unique_ptr<Writer>> Writer::create(const std::string& path, WriterOptions options) {
  return create_writer(open_storage(path), std::move(options));
}

Result<std::unique_ptr<Writer>> create_writer(std::unique_ptr<Storage> storage, WriterOptions options) {
  if (options.process_count == 0 || options.process_count > kProcessCountMax ||
      options.process_index >= options.process_count)
    return invalid_argument("process index " + std::to_string(options.process_index) + " of " +
                            std::to_string(options.process_count) + " processes");
  if (!options.attempt && options.process_count > 1)
    return invalid_argument("a save by several processes needs one attempt id that all of them share");
  const CheckpointId id = options.attempt ? *options.attempt : CheckpointId::random();
  auto writer = std::make_unique<WriterImpl>(std::move(storage), std::move(options), id);
  OSTRACA_RETURN_IF_ERROR(writer->prepare());  // on failure the destructor aborts
  return std::unique_ptr<Writer>(std::move(writer));
}

}  // namespace ostraca
