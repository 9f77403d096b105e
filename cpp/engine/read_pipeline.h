// Fetches in, memory filled: fetch, check, decode, scatter.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/limits.h"
#include "base/worker_pool.h"
#include "codec/codec.h"
#include "engine/data_files.h"
#include "engine/read_plan.h"
#include "ostraca/reader.h"

namespace ostraca {

// Fetches use buffers of the size that saves use, so that the two share what the process keeps.
inline constexpr std::size_t kFetchBytes = kBlockBytes - 2 * kAlignmentMax;  // then widened to the device's alignment
static_assert(kFetchBytes >= kChunkBytesMax + kAlignmentMax, "a chunk and its padding are fetched at once");

// Runs one load. Decoding threads take fetches in order, each with a buffer: what the page cache holds they read
// themselves, the rest they leave to I/O threads, which read past the cache, and decode it when it is there.
// For one call of run(). The callbacks into `sink` come from several threads.
class ReadPipeline {
 public:
  // What the pipeline feeds. Called from several threads at once.
  class Sink {
   public:
    virtual ~Sink() = default;
    // Memory that wants exactly the decoded extent; null if it has to go through consume().
    virtual std::byte* direct(const ExtentRead& read, std::uint32_t decoded_bytes) = 0;
    // The memory of direct() is written now, or was.
    virtual void modified(const ExtentRead&) {}
    // Memory of the extent's size that consume() wants to keep; null if any will do.
    using Kept = std::shared_ptr<std::vector<std::byte>>;
    virtual Kept keep(const ExtentRead&, std::uint32_t /*decoded_bytes*/) { return nullptr; }
    // The decoded extent, when it did not go to direct(); it is in `kept` if there is one.
    virtual void consume(const ExtentRead& read, Bytes decoded, Kept kept) = 0;
    // An extent could not be read, or is not what it should be. The status returned ends the run unless it is ok.
    virtual Status damaged(const ExtentRead& read, Status status) = 0;
  };
  struct Options {
    unsigned threads = 1;
    unsigned io_threads = 1;  // that wait for the device
    IoMode io = IoMode::kAuto;
    bool decode = true;  // false: only checksums and padding
    bool deep = false;   // content hashes too
  };

  ReadPipeline(std::span<const Fetch> fetches, std::span<const DataFile* const> files, BufferPool& buffers, Sink& sink,
               Options options);

  Status run(const Poll& poll);
  ReadStatistics statistics() const { return {chunks_read_, bytes_read_, chunks_decoded_, bytes_decoded_}; }

 private:
  struct Fetched {
    const Fetch* fetch = nullptr;
    PooledBuffer buffer;
    AlignedBuffer more;               // for the base's range, where the buffer has no room for it
    const std::byte* data = nullptr;  // of the fetch's first byte, in the buffer
    const std::byte* base = nullptr;  // of its base range's first byte
    Status status;
  };
  using Lock = std::unique_lock<std::mutex>;
  struct Decoder;

  void decode_loop();
  void io_loop();
  void start(WorkerPool& pool, void (ReadPipeline::*loop)());
  void guard(void (ReadPipeline::*loop)());
  bool take_ready(Lock& lock, Decoder& decoder);
  bool take_next(Lock& lock, Decoder& decoder);
  bool read_cached(Fetched& fetched);
  void read_device(Fetched& fetched);
  Result<const std::byte*> read_range(const FileRange& range, MutableBytes out);
  Result<MutableBytes> room_for_base(Fetched& fetched, std::uint64_t used);
  bool read_in_place(const Fetch& fetch, Status* status);
  Status process(const Fetched& fetched, Decoder& decoder);
  Status process_extent(const ExtentRead& read, Bytes stored, Bytes base, Decoder& decoder);
  Result<Bytes> decode_base(const ExtentRead& read, Bytes stored, Decoder& decoder);
  Status check_padding(const ExtentRead& read, Bytes padding) const;
  void finish_one(Status status);
  void fail(Status status);
  const Extent& extent(const ExtentRead& read) const { return files_[read.file]->extents[read.extent]; }

  const std::span<const Fetch> fetches_;
  const std::span<const DataFile* const> files_;
  BufferPool& buffers_;
  Sink& sink_;
  const Options options_;
  std::atomic<std::uint64_t> chunks_read_ = 0, bytes_read_ = 0, chunks_decoded_ = 0, bytes_decoded_ = 0;

  std::mutex mutex_;  // guards what follows
  std::condition_variable work_changed_, io_changed_, result_changed_;
  std::size_t next_ = 0, finished_ = 0;
  unsigned in_flight_ = 0;  // fetches that hold a buffer
  std::deque<Fetched> to_read_, ready_;
  Status status_;
  Status no_memory_;  // for fail(): made beforehand, as making it takes memory
};

}  // namespace ostraca
