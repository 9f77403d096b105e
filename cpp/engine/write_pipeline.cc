#include "engine/write_pipeline.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "base/limits.h"
#include "engine/write_coder.h"

namespace ostraca {
namespace {

// One block for each coding thread, one waiting to be placed, and enough in the writers' hands; the budget may allow
// fewer, but two are needed for anything to overlap.
std::size_t block_budget(std::size_t coding_bytes, unsigned threads, unsigned io_threads) {
  const std::size_t wanted = (2 * threads + io_threads + 1) * kBlockBytes;
  const std::size_t scratch = threads * kBlockBytes;
  const std::size_t allowed = coding_bytes > scratch ? coding_bytes - scratch : 0;
  return std::max(2 * kBlockBytes, std::min(wanted, allowed));
}

constexpr char kOutputBuffers[] = "output buffers (coding_bytes= and threads= lower what a save takes)";

constexpr std::uint64_t kReservedBeyond = 4 * kBlockBytes;  // for the tables, and what is still to be added

std::size_t round_up(std::size_t value, std::size_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

}  // namespace

WritePipeline::WritePipeline(const Options& options, std::function<Status()> complete)
    : options_(options),
      complete_(std::move(complete)),
      blocks_(kBlockBytes, block_budget(options.coding_bytes, options.threads, options.io_threads),
              BufferPool::FilledBy::kCpu) {
  const std::size_t staging_bytes =
      std::min(options.staging_bytes.value_or(0), SIZE_MAX - options.keep_bytes) + options.keep_bytes;
  if (staging_bytes >= kBlockBytes)
    staging_ = std::make_shared<BufferPool>(kBlockBytes, staging_bytes, BufferPool::FilledBy::kCpu);
  const std::uint64_t most = (blocks_.capacity() + options.threads) * kBlockBytes + staging_bytes;
  no_memory_ = out_of_memory(most).with_context(
      "the most that this save takes (threads=, coding_bytes=, staging_bytes= and keep_bytes= lower it)");
}

WritePipeline::~WritePipeline() {
  cancel(cancelled("the save was abandoned"));
  join();
}

void WritePipeline::open(WritableFile& file, const FileHeader& header) {
  const Lock lock(mutex_);
  file_ = &file;
  header_ = encode_header(header);
  work_changed_.notify_all();
  io_changed_.notify_all();
}

void WritePipeline::add(Batch batch) {
  Lock lock(mutex_);
  for (const Piece& piece : batch.pieces)
    for (const Fragment& f : piece.fragments)
      if (f.chunk == 0 && !f.source->array.immutable) ++unread_sources_;
  expected_bytes_ += round_up(batch.decoded_bytes, file_ ? file_->alignment() : kAlignmentMin);
  jobs_.emplace_back().batch = std::move(batch);
  if (jobs_.size() > 1) start(options_.threads);
  work_changed_.notify_one();
}

void WritePipeline::seal() {
  Lock lock(mutex_);
  if (sealed_) return;
  if (jobs_.empty()) jobs_.emplace_back();  // carries the header
  sealed_ = true;
  start(std::min<std::size_t>(options_.threads, jobs_.size()));
  work_changed_.notify_all();
  io_changed_.notify_all();
  result_changed_.notify_all();
}

void WritePipeline::start(std::size_t coders) try {
  if (coders_ || !status_.ok()) return;
  coders_ = std::make_unique<WorkerPool>(static_cast<unsigned>(coders), "code");
  writers_ = std::make_unique<WorkerPool>(jobs_.size() > 1 ? options_.io_threads : 1, "write");
  if (coders_->threads() == 0 || writers_->threads() == 0) return fail(Status(Code::kSystem, kNoThreads));
  for (unsigned i = 0; i < coders_->threads(); ++i) coders_->submit([this] { guard(&WritePipeline::code_loop); });
  for (unsigned i = 0; i < writers_->threads(); ++i) writers_->submit([this] { guard(&WritePipeline::io_loop); });
} catch (const std::bad_alloc&) {
  fail(std::move(no_memory_));  // a thread that runs already would wait for those that do not
}

// Runs a thread's loop. The engine throws nothing, but the standard library may run out of memory.
void WritePipeline::guard(void (WritePipeline::*loop)()) {
  try {
    (this->*loop)();
  } catch (const std::bad_alloc&) {
    const Lock lock(mutex_);
    fail(std::move(no_memory_));
  }
}

void WritePipeline::code_loop() {
  Coder coder;
  Lock lock(mutex_);
  while (status_.ok()) {
    if (stage_one(lock) || code_one(lock, coder)) continue;
    if (sealed_ && next_to_code_ == jobs_.size()) return;
    work_changed_.wait(lock);
  }
}

bool WritePipeline::stage_one(Lock& lock) {
  if (!options_.staging_bytes || !staging_) return false;
  next_to_stage_ = std::max(next_to_stage_, next_to_code_);
  while (next_to_stage_ < jobs_.size() && !jobs_[next_to_stage_].batch.reads_mutable_memory) ++next_to_stage_;
  if (next_to_stage_ == jobs_.size()) return false;
  PooledBuffer buffer = staging_->try_acquire();
  if (!buffer) return false;

  Job& job = jobs_[next_to_stage_++];
  job.state = Job::State::kStaging;
  lock.unlock();
  std::size_t offset = 0;
  for (const Piece& piece : job.batch.pieces) {
    for (const Fragment& f : piece.fragments) f.source->stage(f.chunk, buffer.data() + offset + f.offset);
    offset += piece.decoded_bytes;
  }
  lock.lock();
  job.staged = std::move(buffer);
  job.state = Job::State::kWaiting;
  note_read(job.batch, lock);
  work_changed_.notify_all();
  return true;
}

bool WritePipeline::code_one(Lock& lock, Coder& coder) {
  if (!file_ || next_to_code_ == jobs_.size()) return false;
  Job& job = jobs_[next_to_code_];
  if (job.state != Job::State::kWaiting) return false;  // being staged; whoever does it wakes us
  // A batch is taken together with its block: the earliest batch never waits for blocks that later ones hold.
  job.block = blocks_.try_acquire();
  if (!job.block) {
    if (next_to_code_ != next_to_place_ || writing_ > 0 || !to_write_.empty()) return false;  // one will come back
    if (last_.buffer) return submit_last_block(), false;  // memory is short: do without keeping one back
    Result<PooledBuffer> block = blocks_.acquire();       // nobody holds one: this says why there is none
    if (!block.ok()) return fail(block.status().with_context(kOutputBuffers)), true;
    job.block = block.take();
  }
  const bool first = next_to_code_++ == 0;
  job.state = Job::State::kCoding;
  const bool staged(job.staged);
  decide_to_keep(job);
  lock.unlock();
  Status status = code(job, first, staged, coder);
  lock.lock();
  if (!status.ok()) return fail(std::move(status)), true;
  if (!staged) note_read(job.batch, lock);
  if (!job.keeps) job.staged.reset();
  job.state = Job::State::kCoded;
  place_ready();
  work_changed_.notify_all();
  return true;
}

void WritePipeline::decide_to_keep(Job& job) {
  if ((kept_blocks_ + 1) * kBlockBytes > options_.keep_bytes) return;
  if (!job.staged) job.staged = staging_->try_acquire();
  job.keeps = static_cast<bool>(job.staged);
  kept_blocks_ += job.keeps;
}

void WritePipeline::note_read(const Batch& batch, Lock& lock) {
  std::vector<std::function<void()>> callbacks;
  for (const Piece& piece : batch.pieces)
    for (const Fragment& f : piece.fragments)
      if (--f.source->unread_chunks == 0) {
        // After a failure nothing is said to be copied: a caller that was told of it once must not hear otherwise
        // later.
        if (!f.source->array.immutable && status_.ok()) --unread_sources_;
        if (f.source->array.on_copied) callbacks.push_back(std::exchange(f.source->array.on_copied, {}));
      }
  result_changed_.notify_all();
  if (callbacks.empty()) return;
  lock.unlock();
  for (const auto& callback : callbacks) callback();
  callbacks.clear();  // what they hold is released outside the lock too
  lock.lock();
}

void WritePipeline::place_ready() {
  while (next_to_place_ < jobs_.size() && jobs_[next_to_place_].state == Job::State::kCoded) {
    place(jobs_[next_to_place_], next_to_place_ == 0);
    ++next_to_place_;
  }
  if (all_placed()) io_changed_.notify_all();
}

// Gives the block its offset and its pieces their extents. A piece whose content is in the file already, because an
// earlier batch brought it, is dropped here, and the block closed up. Only the last batch's block is kept back, so that
// where the tail goes depends on the batches alone.
void WritePipeline::place(Job& job, bool first) {
  bool brings_content = first;
  const std::byte* staged = job.staged.data();  // null: not kept
  if (staged && !kept_) kept_ = std::make_shared<KeptChunks>(staging_);
  for (std::size_t i = 0; i < job.coded.size(); ++i)
    brings_content |= !job.coded[i].in_base && !known_.contains({job.coded[i].hash, job.batch.pieces[i].decoded_bytes});
  submit_last_block();
  const std::uint64_t offset = last_.offset;
  std::size_t end = first ? kHeaderBytes : 0;
  if (first) std::memcpy(job.block.data(), header_.data(), header_.size());
  bool keeps = false;
  for (std::size_t i = 0; i < job.coded.size(); ++i) {
    const Piece& piece = job.batch.pieces[i];
    const CodedPiece& coded = job.coded[i];
    const std::byte* const kept = staged;
    if (staged) staged += piece.decoded_bytes;
    if (coded.in_base) {
      const std::uint32_t file = 1 + base_file_number(piece.base->file);
      for (const Fragment& f : piece.fragments) f.source->refs[f.chunk] = {file, piece.base->extent, f.offset};
      continue;
    }
    const auto [known, added] =
        known_.try_emplace({coded.hash, piece.decoded_bytes}, static_cast<std::uint32_t>(extents_.size()));
    if (added) {
      std::byte* block = job.block.data();
      if (coded.position != end) std::memmove(block + end, block + coded.position, coded.encoded.stored_bytes);
      extents_.push_back({.offset = offset + end,
                          .stored_bytes = static_cast<std::uint32_t>(coded.encoded.stored_bytes),
                          .decoded_bytes = piece.decoded_bytes,
                          .crc = coded.encoded.crc,
                          .codec = coded.encoded.codec,
                          .hash = coded.hash});
      if (coded.encoded.codec == Codec::kDelta) {
        Extent& delta = extents_.back();
        delta.base_hash = coded.base_hash;
        delta.base_file = piece.base->file;
        delta.base_extent = piece.base->extent;
        (void)base_file_number(piece.base->file);
      }
      end += coded.encoded.stored_bytes;
    }
    for (const Fragment& f : piece.fragments) f.source->refs[f.chunk] = {0, known->second, f.offset};
    if (kept) keeps |= kept_->chunks.try_emplace(known->second, kept, piece.decoded_bytes).second;
  }
  if (keeps) {
    kept_->blocks.push_back(std::move(job.staged));
  } else if (job.keeps) {  // all of it is kept already
    --kept_blocks_;
  }
  if (brings_content) {
    last_ = {std::move(job.block), offset, end, job.batch.decoded_bytes};
  } else {
    bytes_done_ += job.batch.decoded_bytes;
  }
  job = Job{.state = Job::State::kCoded};
  if (next_to_place_ + 1 < jobs_.size()) submit_last_block();
}

// The place of one of the base's files among those that are used.
std::uint32_t WritePipeline::base_file_number(std::uint32_t file) {
  const auto at = std::ranges::find(base_files_, file) - base_files_.begin();
  if (at == std::ssize(base_files_)) base_files_.push_back(file);
  return static_cast<std::uint32_t>(at);
}

std::vector<FileRecord> WritePipeline::base_files() const {
  std::vector<FileRecord> out;
  for (std::uint32_t file : base_files_) {
    out.push_back(options_.base->file(file));
    out.back().in_base = true;
  }
  return out;
}

// Pads the block kept back and hands it to the writers; last_.offset is then where the next one goes.
void WritePipeline::submit_last_block() {
  if (!last_.buffer) return;
  const std::size_t padded = round_up(last_.bytes, file_->alignment());
  std::memset(last_.buffer.data() + last_.bytes, 0, padded - last_.bytes);
  const std::uint64_t next = last_.offset + padded;
  last_.bytes = padded;
  to_write_.push_back(std::move(last_));
  last_ = {.offset = next};
  io_changed_.notify_one();
}

void WritePipeline::io_loop() {
  Lock lock(mutex_);
  while (status_.ok() && !done_) {
    if (!to_write_.empty()) {
      PlacedBlock block = std::move(to_write_.front());
      to_write_.pop_front();
      ++writing_;
      const bool grows = block.offset + block.bytes > reserved_bytes_;
      if (grows) reserved_bytes_ = std::max(expected_bytes_, block.offset) + kReservedBeyond;
      const std::uint64_t reserve = reserved_bytes_;
      lock.unlock();
      if (grows) file_->reserve(reserve);
      Status status = file_->write_at(block.offset, Bytes(block.buffer.data(), block.bytes));
      block.buffer.reset();
      lock.lock();
      --writing_;
      bytes_done_ += block.decoded_bytes;
      if (!status.ok()) fail(std::move(status));
      work_changed_.notify_all();
      io_changed_.notify_all();
    } else if (reserves_early() && reserved_bytes_ == 0) {
      const std::uint64_t reserve = reserved_bytes_ = expected_bytes_ + kReservedBeyond;
      lock.unlock();
      file_->reserve(reserve);
      lock.lock();
    } else if (all_placed() && !completing_) {
      completing_ = true;
      lock.unlock();
      Status status = complete_();
      lock.lock();
      if (!status.ok()) return fail(std::move(status));
      done_ = true;
      io_changed_.notify_all();
      result_changed_.notify_all();
    } else {
      io_changed_.wait(lock);
    }
  }
}

std::uint64_t WritePipeline::tail_offset(std::size_t size_max) const {
  if (last_.bytes + size_max <= last_.buffer.size()) return last_.offset + last_.bytes;
  return last_.offset + round_up(last_.bytes, file_->alignment());
}

Status WritePipeline::write_tail(std::uint64_t offset, Bytes tail) {
  const bool fits = offset == last_.offset + last_.bytes && last_.bytes + tail.size() <= last_.buffer.size();
  const std::size_t padded = fits ? last_.bytes + tail.size() : round_up(last_.bytes, file_->alignment());
  std::byte* end = last_.buffer.data() + last_.bytes;
  if (fits) {
    std::memcpy(end, tail.data(), tail.size());
  } else if (padded > 0) {
    std::memset(end, 0, padded - last_.bytes);
  }
  if (padded > 0) OSTRACA_RETURN_IF_ERROR(file_->write_at(last_.offset, Bytes(last_.buffer.data(), padded)));
  if (!fits) {
    OSTRACA_ASSIGN_OR_RETURN(AlignedBuffer aligned, AlignedBuffer::allocate(tail.size()));
    std::memcpy(aligned.data(), tail.data(), tail.size());
    OSTRACA_RETURN_IF_ERROR(file_->write_at(offset, aligned.bytes()));
  }
  Lock lock(mutex_);
  bytes_done_ += last_.decoded_bytes;
  io_changed_.wait(lock, [this] { return (to_write_.empty() && writing_ == 0) || !status_.ok(); });
  return status_;
}

void WritePipeline::fail(Status status) {
  if (status_.ok() && !done_) status_ = std::move(status);
  work_changed_.notify_all();
  io_changed_.notify_all();
  result_changed_.notify_all();
}

void WritePipeline::cancel(Status reason) {
  Lock lock(mutex_);
  fail(std::move(reason));
}

void WritePipeline::join() {
  const std::lock_guard joining(join_mutex_);
  std::unique_ptr<WorkerPool> coders, writers;
  {
    Lock lock(mutex_);
    coders = std::move(coders_);
    writers = std::move(writers_);
  }
  coders.reset();
  writers.reset();
  Lock lock(mutex_);
  for (Job& job : jobs_) job.staged.reset();
  if (!status_.ok()) kept_.reset();
  if (staging_) staging_->retire();  // what is kept may outlive this
  staging_.reset();
}

bool WritePipeline::wait_done(std::chrono::nanoseconds timeout) {
  Lock lock(mutex_);
  return result_changed_.wait_for(lock, timeout, [this] { return done_ || !status_.ok(); });
}

bool WritePipeline::copied() const {
  Lock lock(mutex_);
  return sealed_ && unread_sources_ == 0;
}

Result<bool> WritePipeline::wait_copied(std::optional<std::chrono::nanoseconds> timeout) {
  Lock lock(mutex_);
  const auto settled = [this] { return (sealed_ && unread_sources_ == 0) || !status_.ok(); };
  if (timeout) {
    result_changed_.wait_for(lock, *timeout, settled);
  } else {
    result_changed_.wait(lock, settled);
  }
  if (sealed_ && unread_sources_ == 0) return true;
  if (!status_.ok()) return status_;
  return false;
}

Status WritePipeline::status() const {
  Lock lock(mutex_);
  return status_;
}

std::shared_ptr<KeptChunks> WritePipeline::take_kept() {
  const Lock lock(mutex_);
  return std::move(kept_);
}

std::uint64_t WritePipeline::bytes_done() const {
  Lock lock(mutex_);
  return bytes_done_;
}

}  // namespace ostraca
