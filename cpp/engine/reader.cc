// Reader: an open checkpoint, and loads from it.

#include "ostraca/reader.h"

#include <algorithm>
#include <atomic>
#include <list>
#include <mutex>
#include <utility>

#include "base/checked.h"
#include "base/cpu.h"
#include "container/key_path.h"
#include "engine/data_files.h"
#include "engine/lifetime.h"
#include "engine/on_storage.h"
#include "engine/read_pipeline.h"
#include "engine/read_plan.h"
#include "engine/stored_file.h"
#include "engine/stores.h"

namespace ostraca {
namespace {

constexpr std::size_t kPackCacheBytes = 16 * kMiB;

// Decoded packs of which a part was not wanted yet, most recently used first: reading small arrays one by one, or group
// by group, decodes each pack once. Thread-safe.
class PackCache {
 public:
  using Key = std::pair<std::uint32_t, std::uint32_t>;  // file, extent
  using Pack = ReadPipeline::Sink::Kept;

  using Found = std::shared_ptr<const std::vector<std::byte>>;

  Found find(Key key) {
    const std::lock_guard lock(mutex_);
    const auto it = std::ranges::find(packs_, key, &Entry::key);
    if (it == packs_.end()) return nullptr;
    packs_.splice(packs_.begin(), packs_, it);
    return it->pack;
  }
  // Who found a pack lets go of it here: the next to use its memory has to see that it was read.
  void let_go(Found pack) {
    const std::lock_guard lock(mutex_);
    pack.reset();
  }
  bool empty() {
    const std::lock_guard lock(mutex_);
    return packs_.empty();
  }
  // Memory for a pack: that of one which was forgotten, as new memory costs more than decoding into it.
  Pack make(std::size_t bytes) {
    Pack pack;
    {
      const std::lock_guard lock(mutex_);
      if (spare_.use_count() == 1) pack = std::move(spare_);
    }
    if (!pack) pack = std::make_shared<std::vector<std::byte>>();
    pack->resize(bytes);
    return pack;
  }
  void insert(Key key, Pack pack) {
    const std::lock_guard lock(mutex_);
    if (std::ranges::find(packs_, key, &Entry::key) != packs_.end()) return;  // somebody else was faster
    bytes_ += pack->size();
    packs_.push_front({key, std::move(pack)});
    while (bytes_ > kPackCacheBytes) {
      bytes_ -= packs_.back().pack->size();
      spare_ = std::move(packs_.back().pack);
      packs_.pop_back();
    }
  }

 private:
  struct Entry {
    Key key;
    Pack pack;
  };
  std::mutex mutex_;
  std::list<Entry> packs_;  // few: a search is shorter than a hash
  Pack spare_;
  std::size_t bytes_ = 0;
};

std::string hex(std::span<const std::byte> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (std::byte b : bytes) {
    text += kDigits[std::to_integer<unsigned>(b) >> 4];
    text += kDigits[std::to_integer<unsigned>(b) & 15];
  }
  return text;
}

// "array 'a'", "arrays 'a', 'b' and 3 more": whom the targets feed.
std::string array_names(const IndexDirectory& directory, std::span<const ReadRequest> requests,
                        std::span<const Target> targets) {
  std::vector<std::string> names;
  for (const Target& target : targets) {
    const LeafRecord& leaf = directory.leaves[requests[target.request].leaf];
    const Result<std::string> name = display_name(directory.path(leaf));
    if (name.ok() && std::ranges::find(names, *name) == names.end()) names.push_back(*name);
  }
  return (names.size() == 1 ? "array " : "arrays ") + listed_names(names);
}

// Whether an extent is a pack with arrays that nobody of these targets wants: they may be asked for next.
bool leaves_part_of_pack(const IndexDirectory& directory, std::span<const ReadRequest> requests, const ExtentRead& read,
                         std::uint64_t decoded_bytes) {
  if (decoded_bytes > kPackBytesMax) return false;
  std::uint64_t wanted = 0;
  const Target* last = nullptr;
  for (const Target& target : read.targets) {
    if (last && last->offset == target.offset) continue;
    wanted += chunk_bytes(directory, directory.leaves[requests[target.request].leaf], directory.shards[target.shard],
                          target.chunk);
    last = &target;
  }
  return wanted < decoded_bytes;
}

// Feeds a load's requests.
class RequestSink final : public ReadPipeline::Sink {
 public:
  RequestSink(const IndexDirectory& directory, std::span<const ReadRequest> requests,
              std::span<const DataFile* const> files, PackCache& cache)
      : directory_(directory), requests_(requests), files_(files), cache_(cache), modified_(requests.size()) {}

  std::byte* direct(const ExtentRead& read, std::uint32_t decoded_bytes) override {
    return direct_destination(directory_, requests_, read, decoded_bytes);
  }
  void modified(const ExtentRead& read) override { modified_[read.targets.front().request] = true; }
  Kept keep(const ExtentRead& read, std::uint32_t decoded_bytes) override {
    return leaves_part_of_pack(directory_, requests_, read, decoded_bytes) ? cache_.make(decoded_bytes) : nullptr;
  }
  void consume(const ExtentRead& read, Bytes decoded, Kept kept) override {
    feed(read, decoded);
    if (kept) cache_.insert({read.file, read.extent}, std::move(kept));
  }
  // Whether the cache had what is to be read.
  bool fed_from_cache(const ExtentRead& read) {
    PackCache::Found pack = cache_.find({read.file, read.extent});
    if (!pack) return false;
    feed(read, *pack);
    cache_.let_go(std::move(pack));
    return true;
  }
  Status damaged(const ExtentRead& read, Status status) override {
    if (status.code() == Code::kCancelled) return status;
    const DataFile& file = *files_[read.file];
    return status.with_context(array_names(directory_, requests_, read.targets) + ": chunk at offset " +
                               std::to_string(file.extents[read.extent].offset) + " of file '" + file.file->path() +
                               "'");
  }
  std::vector<bool> all_modified() const { return {modified_.begin(), modified_.end()}; }

 private:
  void feed(const ExtentRead& read, Bytes decoded) {
    for (const Target& target : read.targets) {
      modified_[target.request] = true;
      scatter(directory_, requests_[target.request], target, decoded.data() + target.offset);
    }
  }

  const IndexDirectory& directory_;
  const std::span<const ReadRequest> requests_;
  const std::span<const DataFile* const> files_;
  PackCache& cache_;
  std::vector<std::atomic<bool>> modified_;
};

class ReaderImpl final : public Reader {
 public:
  ReaderImpl(std::shared_ptr<Storage> storage, std::unique_ptr<Lease> lease, StoredCheckpoint stored,
             const ReaderOptions& options)
      : storage_(std::move(storage)),
        lease_(std::move(lease)),
        stored_(std::move(stored)),
        io_(options.io),
        threads_(std::min(options.threads ? options.threads : usable_cores(), kThreadsMax)),
        base_(*storage_, stored_.manifest),
        files_(*storage_, base_.storage(), stored_.directory),
        buffers_(kBlockBytes, options.coding_bytes ? options.coding_bytes : kCodingBytesDefault,
                 BufferPool::FilledBy::kDevice) {}

  bool misses_files() const { return files_.missing(); }
  const std::string& manifest() const override { return stored_.manifest_text; }
  std::uint64_t leaf_count() const override { return stored_.directory.leaves.size(); }
  LeafInfo leaf(std::uint64_t i) const override;
  Result<std::vector<ChunkInfo>> chunks(std::uint64_t leaf) override;
  Result<std::uint64_t> stored_bytes(std::uint64_t leaf) override;
  Status read_into(std::span<const ReadRequest> requests, bool deep, const Poll& poll,
                   std::vector<bool>* modified) override;
  ReadStatistics statistics() const override {
    const std::lock_guard lock(mutex_);
    return statistics_;
  }

 private:
  // Calls visit(reference, decoded bytes, shard, chunk number) for every chunk of a leaf.
  template <class Visit>
  Status for_each_chunk(std::uint64_t leaf, Visit visit);
  Result<std::vector<ReadRequest>> normalize(std::span<const ReadRequest> requests) const;
  Status open_files_of(ExtentRead& read, std::vector<const DataFile*>& files);
  Result<std::vector<const DataFile*>> open_files(std::span<const ReadRequest> requests, std::span<ExtentRead> reads);
  Status run(std::span<const ReadRequest> requests, bool deep, const Poll& poll, std::vector<bool>* modified);

  const std::shared_ptr<Storage> storage_;
  const std::unique_ptr<Lease> lease_;  // whoever prunes leaves the checkpoint alone while it is held
  const StoredCheckpoint stored_;
  const IoMode io_;
  const unsigned threads_;
  const OpenBase base_;
  DataFiles files_;
  BufferPool buffers_;
  PackCache packs_;
  mutable std::mutex mutex_;
  ReadStatistics statistics_;  // guarded by mutex_
};

LeafInfo ReaderImpl::leaf(std::uint64_t i) const {
  const IndexDirectory& d = stored_.directory;
  const LeafRecord& record = d.leaves[i];
  LeafInfo info{d.path(record), record.kind, record.dtype, d.detail(record), record.big_endian, d.shape(record)};
  if (kind_has_data(record.kind)) (void)checked_volume(info.shape, *item_bytes(record.dtype, info.detail), &info.bytes);
  return info;
}

template <class Visit>
Status ReaderImpl::for_each_chunk(std::uint64_t leaf, Visit visit) {
  const IndexDirectory& d = stored_.directory;
  const LeafRecord& record = d.leaves[leaf];
  for (const ShardRecord& shard : d.shards_of(record)) {
    const Grid grid(d.shard_shape(record, shard), d.chunk_shape(record, shard));
    for (std::uint64_t i = 0; i < grid.count(); ++i) {
      const ChunkRef& ref = d.refs[shard.first_ref + i];
      OSTRACA_ASSIGN_OR_RETURN(const DataFile* file, files_.get(ref.file));
      visit(ref, file->extents[ref.extent], shard, i);
    }
  }
  return {};
}

Result<std::vector<ChunkInfo>> ReaderImpl::chunks(std::uint64_t leaf) {
  const IndexDirectory& d = stored_.directory;
  const LeafRecord& record = d.leaves[leaf];
  std::vector<ChunkInfo> out;
  OSTRACA_RETURN_IF_ERROR(
      for_each_chunk(leaf, [&](const ChunkRef& ref, const Extent& e, const ShardRecord& shard, auto i) {
        const FileRecord& file = d.files[ref.file];
        ChunkInfo info{
            file.name(), e.offset, e.stored_bytes, e.decoded_bytes, e.codec, hex(e.hash), ref.offset, file.in_base, 0,
            {},          {}};
        if (e.codec == Codec::kDelta) {
          const Result<DataFiles::BaseExtent> base = files_.base_of(e);
          if (base.ok()) info.base_stored_bytes = (*files_.get(base->file))->extents[base->extent].stored_bytes;
        }
        Grid(d.shard_shape(record, shard), d.chunk_shape(record, shard)).box(i, info.origin, info.shape);
        for (std::size_t k = 0; k < info.origin.size(); ++k) info.origin[k] += d.shard_offset(record, shard)[k];
        out.push_back(std::move(info));
      }));
  return out;
}

Result<std::uint64_t> ReaderImpl::stored_bytes(std::uint64_t leaf) {
  const IndexDirectory& d = stored_.directory;
  double bytes = 0;
  OSTRACA_RETURN_IF_ERROR(for_each_chunk(leaf, [&](const ChunkRef&, const Extent& e, const ShardRecord& shard, auto i) {
    bytes += static_cast<double>(e.stored_bytes) * static_cast<double>(chunk_bytes(d, d.leaves[leaf], shard, i)) /
             e.decoded_bytes;
  }));
  return static_cast<std::uint64_t>(bytes + 0.5);
}

Result<std::vector<ReadRequest>> ReaderImpl::normalize(std::span<const ReadRequest> requests) const {
  std::vector<ReadRequest> out(requests.begin(), requests.end());
  for (ReadRequest& r : out) {
    if (r.leaf >= leaf_count()) return invalid_argument("there is no leaf number " + std::to_string(r.leaf));
    const LeafInfo info = leaf(r.leaf);
    const std::size_t rank = info.shape.size();
    if (!kind_has_data(info.kind)) return invalid_argument("leaf number " + std::to_string(r.leaf) + " holds no data");
    if (r.start.empty()) r.start.assign(rank, 0);
    if (r.strides.empty()) r.strides = c_strides(r.shape, *item_bytes(info.dtype, info.detail));
    if (r.start.size() != rank || r.shape.size() != rank || r.strides.size() != rank)
      return mismatch("a request's rank differs from its leaf's, " + std::to_string(rank));
    for (std::size_t d = 0; d < rank; ++d)
      if (!inside(r.start[d], r.shape[d], info.shape[d]))
        return mismatch("a request reaches past its leaf: start " + std::to_string(r.start[d]) + " + shape " +
                        std::to_string(r.shape[d]) + " > " + std::to_string(info.shape[d]) + " in dimension " +
                        std::to_string(d));
  }
  return out;
}

Status ReaderImpl::read_into(std::span<const ReadRequest> requests, bool deep, const Poll& poll,
                             std::vector<bool>* modified) {
  if (modified) modified->assign(requests.size(), false);
  OSTRACA_ASSIGN_OR_RETURN(const std::vector<ReadRequest> normal, normalize(requests));
  return run(normal, deep, poll, modified);
}

// Opens what a read needs, and finds what it is the difference to.
Status ReaderImpl::open_files_of(ExtentRead& read, std::vector<const DataFile*>& files) {
  if (!files[read.file]) {
    OSTRACA_ASSIGN_OR_RETURN(files[read.file], files_.get(read.file));
  }
  const Extent& extent = files[read.file]->extents[read.extent];
  if (extent.codec != Codec::kDelta) return {};
  OSTRACA_ASSIGN_OR_RETURN(const DataFiles::BaseExtent base, files_.base_of(extent));
  read.base_file = base.file;
  read.base_extent = base.extent;
  OSTRACA_ASSIGN_OR_RETURN(files[base.file], files_.get(base.file));
  return {};
}

// The files that the reads need, by number. An error names all arrays that cannot be had.
Result<std::vector<const DataFile*>> ReaderImpl::open_files(std::span<const ReadRequest> requests,
                                                            std::span<ExtentRead> reads) {
  std::vector<const DataFile*> files(stored_.directory.files.size(), nullptr);
  Status failure;
  std::vector<Target> affected;
  for (ExtentRead& read : reads) {
    Status status = open_files_of(read, files);
    if (status.ok()) continue;
    if (failure.ok()) failure = std::move(status);
    affected.insert(affected.end(), read.targets.begin(), read.targets.end());
  }
  if (!failure.ok()) return failure.with_context(array_names(stored_.directory, requests, affected));
  return files;
}

Status ReaderImpl::run(std::span<const ReadRequest> requests, bool deep, const Poll& poll,
                       std::vector<bool>* modified) {
  const IndexDirectory& directory = stored_.directory;
  const std::vector<Target> targets = plan_targets(directory, requests);
  std::vector<ExtentRead> reads = plan_extents(targets);
  OSTRACA_ASSIGN_OR_RETURN(const std::vector<const DataFile*> files, open_files(requests, reads));
  RequestSink sink(directory, requests, files, packs_);
  if (!deep && !packs_.empty())
    std::erase_if(reads, [&sink](const ExtentRead& read) { return sink.fed_from_cache(read); });
  if (reads.empty()) {  // array after array out of one pack: all that follows would cost more than the copy
    if (modified) *modified = sink.all_modified();
    return {};
  }
  const std::vector<Fetch> fetches = plan_fetches(
      reads, [&](std::uint32_t f) -> const std::vector<Extent>& { return files[f]->extents; },
      [&](std::uint32_t f) { return files[f]->table_offset; }, kFetchBytes);
  ReadPipeline pipeline(fetches, files, buffers_, sink,
                        {.threads = threads_, .io_threads = storage_->traits().io_threads, .io = io_, .deep = deep});
  const Status status = pipeline.run(poll);
  if (modified) *modified = sink.all_modified();
  const ReadStatistics s = pipeline.statistics();
  const std::lock_guard lock(mutex_);
  statistics_.chunks_read += s.chunks_read;
  statistics_.bytes_read += s.bytes_read;
  statistics_.chunks_decoded += s.chunks_decoded;
  statistics_.bytes_decoded += s.bytes_decoded;
  return status;
}

}  // namespace

Result<std::unique_ptr<Reader>> open_reader(std::unique_ptr<Storage> storage, ReaderOptions options) {
  const std::shared_ptr<Storage> shared = std::move(storage);
  while (true) {
    Result<std::unique_ptr<Lease>> lease = shared->lease(kManifestName);
    if (!lease.ok()) {
      OSTRACA_RETURN_IF_ERROR(read_manifest(*shared).status());  // it says what is there instead
      if (lease.status().code() != Code::kNotFound) return lease.status();
      continue;
    }
    OSTRACA_ASSIGN_OR_RETURN(StoredCheckpoint stored, open_checkpoint(*shared));
    if (!(*lease)->current()) continue;  // what was read is not what was leased
    auto reader = std::make_unique<ReaderImpl>(shared, lease.take(), std::move(stored), options);
    if (!reader->misses_files()) return std::unique_ptr<Reader>(std::move(reader));
    const Result<std::string> now = read_manifest(*shared);  // another, when an overwrite took the files away
    if (!now.ok() || *now == reader->manifest()) return std::unique_ptr<Reader>(std::move(reader));
  }
}

Result<std::unique_ptr<Reader>> Reader::open(const std::string& path, ReaderOptions options) {
  return open_reader(open_storage(path), options);
}

}  // namespace ostraca
