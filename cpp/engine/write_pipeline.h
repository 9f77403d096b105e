// Batches in, data files out: stage, code, order, write, complete.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/buffer.h"
#include "base/worker_pool.h"
#include "checksum/content_hash.h"
#include "codec/codec.h"
#include "container/file_format.h"
#include "engine/file_layout.h"
#include "engine/kept_chunks.h"
#include "engine/keyframe.h"
#include "engine/part_files.h"
#include "engine/write_plan.h"
#include "storage/storage.h"

namespace ostraca {

// Coding threads take batches in order, each with a block to code it into. Whatever order they finish in, blocks get
// their places in the order of the batches, so that the files depend on the data alone. I/O threads write blocks
// as they are placed, and end each file but the last; the first that finds everything placed runs `complete`, beside
// the last writes.
//
// Coding begins when there is a file. With a staging budget, a coding thread copies mutable memory as long as the
// budget lasts before it codes anything; beyond it, coding a batch is what reads its memory.
//
// Thread-safe, but that add and seal are for one thread. Owns its threads; the destructor cancels and joins them.
class WritePipeline {
 public:
  struct Options {
    CodecPolicy codec = CodecPolicy::kAuto;
    unsigned threads = 1;
    unsigned io_threads = 1;  // that wait for the device
    std::size_t coding_bytes = 0;
    std::optional<std::size_t> staging_bytes;
    std::size_t keep_bytes = 0;  // beside staging_bytes: memory for decoded chunks that stay, see take_kept()
    FileLayout::Limits files;
    std::shared_ptr<Keyframe> base;  // set: pieces may be references to it or deltas against it
  };

  // `complete` runs once, in an I/O thread, when all blocks have their places: it calls write_tail.
  WritePipeline(const Options& options, std::function<Status()> complete);
  ~WritePipeline();

  // Where to write, once; it is open, and outlives the threads. Before, batches are staged and none is coded.
  void open(PartFiles& files);

  // From here on the memory under the batch's sources may be read. REQUIRES: before seal().
  void add(Batch batch);
  void seal();
  void cancel(Status reason);

  // Waits until done or failed, at most `timeout`; true if so. After a failure the threads may still be busy: join().
  bool wait_done(std::chrono::nanoseconds timeout);
  bool copied() const;
  // Waits until copied or failed, at most `timeout` (unset: for ever).
  Result<bool> wait_copied(std::optional<std::chrono::nanoseconds> timeout);
  // Waits for the threads to end, and frees the staging memory. Thread-safe.
  void join();
  Status status() const;
  std::uint64_t bytes_done() const;
  // What was kept, once. Null: nothing. REQUIRES: done.
  std::shared_ptr<KeptChunks> take_kept();

  // For `complete` only. Waits until all files but the last have ended, and returns how many these are.
  Result<std::uint32_t> wait_earlier_parts();
  // Where a tail of at most `size_max` bytes is to begin in the last file.
  std::uint64_t tail_offset(std::size_t size_max) const;
  // Writes the last block and the tail, and waits for all other writes. REQUIRES: `offset` is from tail_offset; the
  // tail ends on the file's alignment.
  Status write_tail(std::uint64_t offset, Bytes tail);
  const std::vector<Extent>& extents() const { return layout_.extents(layout_.parts() - 1); }  // of the last file
  // The base's files that are referred to. References to them are numbered in this order.
  std::vector<FileRecord> base_files() const;

 private:
  struct CodedPiece {
    ContentHash hash;
    Encoded encoded;
    std::size_t position = 0;  // in the block
    bool duplicate = false;    // already in the file when it was coded: nothing in the block
    bool in_base = false;      // what the base has at this place: nothing in the block either
    ContentHash base_hash{};   // of a delta
  };
  struct Job {
    enum class State : std::uint8_t { kWaiting, kStaging, kCoding, kCoded };
    Batch batch;
    State state = State::kWaiting;
    PooledBuffer staged;
    bool keeps = false;  // what is staged; if nothing was, what is coded
    PooledBuffer block;
    std::vector<CodedPiece> coded;
  };
  struct PlacedBlock {
    PooledBuffer buffer;
    std::uint32_t part = 0;
    std::uint64_t offset = 0;
    std::size_t bytes = 0;
    std::uint64_t decoded_bytes = 0;
  };
  using Lock = std::unique_lock<std::mutex>;
  struct Coder;

  void start(std::size_t jobs);  // REQUIRES: mutex_ held
  void code_loop();
  bool stage_one(Lock& lock);
  bool code_one(Lock& lock, Coder& coder);
  Status code(Job& job, bool first, bool staged, Coder& coder);
  Status code_piece(const Piece& piece, Bytes decoded, MutableBytes out, CodedPiece& coded, Coder& coder);
  Result<bool> code_delta(const Piece& piece, Bytes decoded, const Extent& base, MutableBytes out, CodedPiece& coded,
                          Coder& coder);
  bool delta_may_help(const Piece& piece);
  void note_delta_worth(const Piece& piece, DeltaWorth worth);
  void note_read(const Batch& batch, Lock& lock);
  void place_ready();
  void place(Job& job, bool first);
  std::vector<Extent> contents_of(const Job& job);
  void decide_to_keep(Job& job);
  std::uint32_t base_file_number(std::uint32_t file);
  void submit_last_block();
  void io_loop();
  void write_one(Lock& lock);
  void end_one(Lock& lock);
  void note_written(std::uint32_t part);
  void guard(void (WritePipeline::*loop)());
  void fail(Status status);
  bool all_placed() const { return sealed_ && next_to_place_ == jobs_.size(); }
  // While the first blocks are coded. Not where a caller waits for the stage, or where perhaps nothing will be written.
  bool reserves_early() const {
    return files_ && sealed_ && jobs_.size() > 1 && !options_.staging_bytes && !options_.base &&
           options_.files.file_bytes == 0;
  }

  const Options options_;
  const std::function<Status()> complete_;
  BufferPool blocks_;
  std::shared_ptr<BufferPool> staging_;  // null: nothing is staged or kept

  mutable std::mutex mutex_;                // guards what follows, and the sources' refs and unread_chunks
  std::condition_variable work_changed_;    // for coding threads
  std::condition_variable io_changed_;      // for I/O threads
  std::condition_variable result_changed_;  // for callers
  PartFiles* files_ = nullptr;              // set once
  std::deque<Job> jobs_;
  std::size_t next_to_stage_ = 0, next_to_code_ = 0, next_to_place_ = 0;
  bool sealed_ = false, completing_ = false, done_ = false;
  Status status_;
  Status no_memory_;                  // for fail(): made beforehand, as making it takes memory
  std::uint64_t unread_sources_ = 0;  // of mutable memory
  std::uint64_t bytes_done_ = 0;
  std::uint64_t expected_bytes_ = kHeaderBytes, reserved_bytes_ = 0;  // of the file, where there is only one
  FileLayout layout_;
  std::vector<unsigned> unwritten_;        // blocks of each file that are placed
  std::deque<std::uint32_t> to_end_;       // files before the last, of which all blocks are written
  std::uint32_t ended_ = 0;                // files before the last
  std::shared_ptr<KeptChunks> kept_;       // null: nothing yet
  std::size_t kept_blocks_ = 0;            // with those of jobs that are not placed yet
  std::vector<std::uint32_t> base_files_;  // those used, as numbered in the base
  PlacedBlock last_;                       // kept back if no batch follows: the tail may still fit into it
  std::deque<PlacedBlock> to_write_;
  unsigned writing_ = 0;
  std::unique_ptr<WorkerPool> coders_, writers_;
  std::mutex join_mutex_;  // held while the threads are waited for; taken before mutex_
};

}  // namespace ostraca
