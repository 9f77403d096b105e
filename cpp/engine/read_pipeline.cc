#include "engine/read_pipeline.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <optional>
#include <string>

#include "checksum/content_hash.h"
#include "checksum/crc32c.h"

namespace ostraca {
namespace {

constexpr char kOfThread[] = "a decoding thread's memory (threads= lowers it)";
constexpr char kLower[] = "coding_bytes= and threads= lower it";

constexpr auto kPollInterval = std::chrono::milliseconds(20);

Status check_crc(const Extent& extent, Bytes stored) {
  const std::uint32_t found = crc32c(stored);
  if (found == extent.crc) return {};
  char text[96];
  std::snprintf(text, sizeof text, "checksum mismatch: expected %08x, found %08x", extent.crc, found);
  return corruption(text);
}

Status check_hash(const Extent& extent, Bytes decoded) {
  if (content_hash(decoded) == extent.hash) return {};
  return corruption("the decoded content differs from what was saved (content hash)");
}

}  // namespace

// What one decoding thread works with.
struct ReadPipeline::Decoder {
  ChunkDecoder decoder;
  AlignedBuffer scratch;
  AlignedBuffer base;  // what a delta is the difference to, decoded
};

ReadPipeline::ReadPipeline(std::span<const Fetch> fetches, std::span<const DataFile* const> files, BufferPool& buffers,
                           Sink& sink, Options options)
    : fetches_(fetches),
      files_(files),
      buffers_(buffers),
      sink_(sink),
      options_(options),
      no_memory_(out_of_memory(buffers.capacity() * buffers.buffer_bytes() + options.threads * 2 * kChunkBytesMax)
                     .with_context("the most that this load takes beside its arrays (" + std::string(kLower) + ")")) {}

Status ReadPipeline::run(const Poll& poll) {
  std::uint64_t total = 0;
  for (const Fetch& fetch : fetches_) total += fetch.own.bytes + fetch.base.bytes;
  if (fetches_.size() <= 1) {  // a lazy slice: not worth a thread
    decode_loop();
  } else {
    const auto threads = static_cast<unsigned>(std::min<std::size_t>(options_.threads, fetches_.size()));
    WorkerPool decoders(threads, "decode"), readers(options_.io_threads, "read");
    if (decoders.threads() == 0 || readers.threads() == 0) return Status(Code::kSystem, kNoThreads);
    start(decoders, &ReadPipeline::decode_loop);
    start(readers, &ReadPipeline::io_loop);
    Lock lock(mutex_);
    const auto settled = [this] { return finished_ == fetches_.size() || !status_.ok(); };
    while (!result_changed_.wait_for(lock, kPollInterval, settled)) {
      lock.unlock();
      const bool go_on = !poll || poll(bytes_read_, total);
      lock.lock();
      if (!go_on) fail(cancelled("the caller cancelled"));
    }
  }
  if (poll && status_.ok() && !poll(total, total)) return cancelled("the caller cancelled");
  return status_;
}

void ReadPipeline::start(WorkerPool& pool, void (ReadPipeline::*loop)()) {
  try {
    for (unsigned i = 0; i < pool.threads(); ++i) pool.submit([this, loop] { guard(loop); });
  } catch (const std::bad_alloc&) {  // threads that run already would wait for those that do not
    const Lock lock(mutex_);
    fail(std::move(no_memory_));
  }
}

// Runs a thread's loop. The engine throws nothing, but the standard library may run out of memory.
void ReadPipeline::guard(void (ReadPipeline::*loop)()) {
  try {
    (this->*loop)();
  } catch (const std::bad_alloc&) {
    const Lock lock(mutex_);
    fail(std::move(no_memory_));
  }
}

void ReadPipeline::decode_loop() {
  Decoder decoder;
  Lock lock(mutex_);
  while (status_.ok() && finished_ < fetches_.size()) {
    // The device first: it must not run out of requests while there is something to decode.
    if (to_read_.empty() && take_next(lock, decoder)) continue;
    if (take_ready(lock, decoder) || take_next(lock, decoder)) continue;
    work_changed_.wait(lock);
  }
}

bool ReadPipeline::take_ready(Lock& lock, Decoder& decoder) {
  if (ready_.empty()) return false;
  {
    Fetched fetched = std::move(ready_.front());
    ready_.pop_front();
    lock.unlock();
    Status status = process(fetched, decoder);
    fetched.buffer.reset();
    lock.lock();
    --in_flight_;
    finish_one(std::move(status));
  }
  return true;
}

bool ReadPipeline::take_next(Lock& lock, Decoder& decoder) {
  if (next_ == fetches_.size()) return false;
  // Twice what the I/O threads work on keeps them busy; more would only touch more memory.
  if (in_flight_ >= 2 * options_.io_threads + options_.threads) return false;
  Fetched fetched;
  fetched.buffer = buffers_.try_acquire();
  if (!fetched.buffer) {
    if (in_flight_ > 0) return false;  // one will come back
    lock.unlock();                     // another load of the same reader may hold them all
    Result<PooledBuffer> buffer = buffers_.acquire();
    lock.lock();
    if (!buffer.ok()) return fail(buffer.status().with_context("fetch buffers (" + std::string(kLower) + ")")), true;
    if (next_ == fetches_.size()) return true;
    fetched.buffer = buffer.take();
  }
  fetched.fetch = &fetches_[next_++];
  ++in_flight_;
  lock.unlock();
  Status status;
  bool done = read_in_place(*fetched.fetch, &status);
  if (!done && read_cached(fetched)) {
    status = process(fetched, decoder);
    done = true;
  } else if (!done && fetches_.size() == 1) {
    read_device(fetched);
    status = process(fetched, decoder);
    done = true;
  }
  if (done) fetched.buffer.reset();
  lock.lock();
  if (done) {
    --in_flight_;
    finish_one(std::move(status));
  } else {
    to_read_.push_back(std::move(fetched));
    io_changed_.notify_one();
  }
  return true;
}

void ReadPipeline::io_loop() {
  Lock lock(mutex_);
  while (status_.ok() && finished_ < fetches_.size()) {
    if (to_read_.empty()) {
      io_changed_.wait(lock);
      continue;
    }
    Fetched fetched = std::move(to_read_.front());
    to_read_.pop_front();
    lock.unlock();
    read_device(fetched);
    lock.lock();
    ready_.push_back(std::move(fetched));
    work_changed_.notify_one();
  }
}

// A raw chunk that memory wants as it is, and that the page cache holds, needs no buffer at all.
bool ReadPipeline::read_in_place(const Fetch& fetch, Status* status) {
  if (options_.io == IoMode::kDirect || !options_.decode || fetch.reads.size() != 1) return false;
  const ExtentRead& read = fetch.reads.front();
  const Extent& e = extent(read);
  if (e.codec != Codec::kRaw) return false;
  std::byte* out = sink_.direct(read, e.decoded_bytes);
  if (!out) return false;
  ReadableFile& file = *files_[fetch.own.file]->file;
  std::vector<std::byte> padding(fetch.own.bytes - e.stored_bytes);
  const std::size_t cached = file.read_cached(e.offset, MutableBytes(out, e.stored_bytes));
  if (cached > 0) sink_.modified(read);
  if (cached < e.stored_bytes || file.read_cached(e.offset + cached, padding) < padding.size()) return false;
  bytes_read_ += fetch.own.bytes;
  ++chunks_read_;
  ++chunks_decoded_;
  bytes_decoded_ += e.decoded_bytes;
  const Bytes stored(out, e.stored_bytes);
  *status = check_crc(e, stored);
  if (status->ok() && options_.deep) *status = check_hash(e, stored);
  if (status->ok()) *status = check_padding(read, padding);
  if (!status->ok()) *status = sink_.damaged(read, *status);
  return true;
}

bool ReadPipeline::read_cached(Fetched& fetched) {
  if (options_.io == IoMode::kDirect) return false;
  const Fetch& fetch = *fetched.fetch;
  fetched.data = fetched.buffer.data();
  const MutableBytes own = fetched.buffer.bytes().first(fetch.own.bytes);
  if (files_[fetch.own.file]->file->read_cached(fetch.own.offset, own) < own.size()) return false;
  if (fetch.base.bytes == 0) return true;
  Result<MutableBytes> room = room_for_base(fetched, fetch.own.bytes);
  if (!room.ok()) return false;
  fetched.base = room->data();
  const MutableBytes base = room->first(fetch.base.bytes);
  return files_[fetch.base.file]->file->read_cached(fetch.base.offset, base) == base.size();
}

void ReadPipeline::read_device(Fetched& fetched) {
  const Fetch& fetch = *fetched.fetch;
  const auto read = [&](const FileRange& range, MutableBytes out, const std::byte*& data) {
    Result<const std::byte*> place = read_range(range, out);
    if (place.ok()) data = *place;
    return place.status();
  };
  fetched.status = read(fetch.own, fetched.buffer.bytes(), fetched.data);
  if (!fetched.status.ok() || fetch.base.bytes == 0) return;
  Result<MutableBytes> room = room_for_base(fetched, fetch.own.bytes + 2 * kAlignmentMax);
  fetched.status = room.ok() ? read(fetch.base, *room, fetched.base) : room.status();
}

// Returns where the range's first byte is in `out`, which must have room for what alignment adds.
Result<const std::byte*> ReadPipeline::read_range(const FileRange& range, MutableBytes out) {
  ReadableFile& file = *files_[range.file]->file;
  if (options_.io == IoMode::kBuffered) {
    OSTRACA_RETURN_IF_ERROR(file.read_at(range.offset, out.first(range.bytes)));
    return out.data();
  }
  const std::uint64_t alignment = file.direct_alignment();
  const std::uint64_t start = range.offset / alignment * alignment;
  const std::uint64_t end = (range.end() + alignment - 1) / alignment * alignment;
  OSTRACA_RETURN_IF_ERROR(file.read_direct(start, out.first(end - start)));
  return out.data() + (range.offset - start);
}

// Aligned memory for the base's range: behind the `used` bytes of the buffer, or some more.
Result<MutableBytes> ReadPipeline::room_for_base(Fetched& fetched, std::uint64_t used) {
  const std::uint64_t start = (used + kAlignmentMax - 1) / kAlignmentMax * kAlignmentMax;
  const std::uint64_t needed = fetched.fetch->base.bytes + 2 * kAlignmentMax;
  if (start + needed <= fetched.buffer.size()) return fetched.buffer.bytes().subspan(start);
  if (fetched.more.size() < needed) {
    OSTRACA_ASSIGN_OR_RETURN(fetched.more, AlignedBuffer::allocate(needed, kOfThread));
  }
  return fetched.more.bytes();
}

Status ReadPipeline::process(const Fetched& fetched, Decoder& decoder) {
  const Fetch& fetch = *fetched.fetch;
  bytes_read_ += fetch.own.bytes + fetch.base.bytes;
  for (std::size_t i = 0; i < fetch.reads.size(); ++i) {
    const ExtentRead& read = fetch.reads[i];
    const Extent& e = extent(read);
    const std::uint64_t place = e.offset - fetch.own.offset;
    const std::uint64_t end =
        i + 1 < fetch.reads.size() ? extent(fetch.reads[i + 1]).offset - fetch.own.offset : fetch.own.bytes;
    Status status = fetched.status;
    if (status.ok()) {
      Bytes base;
      if (read.base_file != kNoBase) {
        const Extent& b = files_[read.base_file]->extents[read.base_extent];
        base = Bytes(fetched.base + (b.offset - fetch.base.offset), b.stored_bytes);
      }
      status = process_extent(read, Bytes(fetched.data + place, e.stored_bytes), base, decoder);
    }
    if (status.ok())
      status = check_padding(read, Bytes(fetched.data + place + e.stored_bytes, end - place - e.stored_bytes));
    if (!status.ok()) OSTRACA_RETURN_IF_ERROR(sink_.damaged(read, std::move(status)));
  }
  return {};
}

Status ReadPipeline::process_extent(const ExtentRead& read, Bytes stored, Bytes base, Decoder& decoder) {
  const Extent& e = extent(read);
  ++chunks_read_;
  OSTRACA_RETURN_IF_ERROR(check_crc(e, stored));
  if (!options_.decode) return {};
  const auto codec = e.codec;
  if (codec == Codec::kDelta) {
    OSTRACA_ASSIGN_OR_RETURN(base, decode_base(read, base, decoder));
  }
  std::byte* const direct = sink_.direct(read, e.decoded_bytes);
  Sink::Kept kept = direct ? nullptr : sink_.keep(read, e.decoded_bytes);
  std::byte* const place = kept ? kept->data() : direct;
  Bytes decoded = stored;
  if (codec != Codec::kRaw || place) {
    if (!place && decoder.scratch.size() == 0) {
      OSTRACA_ASSIGN_OR_RETURN(decoder.scratch, AlignedBuffer::allocate(kChunkBytesMax, kOfThread));
    }
    const MutableBytes out(place ? place : decoder.scratch.data(), e.decoded_bytes);
    if (direct) sink_.modified(read);
    OSTRACA_RETURN_IF_ERROR(codec == Codec::kDelta ? decoder.decoder.decode_delta(stored, base, out)
                                                   : decoder.decoder.decode(codec, stored, out));
    decoded = out;
  }
  ++chunks_decoded_;
  bytes_decoded_ += e.decoded_bytes;
  if (options_.deep) OSTRACA_RETURN_IF_ERROR(check_hash(e, decoded));
  if (!direct) sink_.consume(read, decoded, std::move(kept));
  return {};
}

// The content of the extent's base, of which `stored` was read; in the decoder's memory where it had to be decoded.
Result<Bytes> ReadPipeline::decode_base(const ExtentRead& read, Bytes stored, Decoder& decoder) {
  if (read.base_file == kNoBase) return corruption("its base cannot be read");
  const DataFile& file = *files_[read.base_file];
  const Extent& e = file.extents[read.base_extent];
  Bytes decoded = stored;
  Status status = check_crc(e, stored);
  if (status.ok() && e.codec != Codec::kRaw) {
    if (decoder.base.size() == 0) {
      OSTRACA_ASSIGN_OR_RETURN(decoder.base, AlignedBuffer::allocate(kChunkBytesMax, kOfThread));
    }
    const MutableBytes out(decoder.base.data(), e.decoded_bytes);
    status = decoder.decoder.decode(e.codec, stored, out);
    decoded = out;
  }
  if (!status.ok())
    return status.with_context("its base's chunk at offset " + std::to_string(e.offset) + " of file '" +
                               file.file->path() + "'");
  ++chunks_read_;
  return decoded;
}

Status ReadPipeline::check_padding(const ExtentRead& read, Bytes padding) const {
  if (all_zero(padding)) return {};
  const Extent& e = extent(read);
  return corruption("the padding after it, at offset " + std::to_string(e.offset + e.stored_bytes) + ", is not zero");
}

void ReadPipeline::finish_one(Status status) {
  ++finished_;
  if (!status.ok()) return fail(std::move(status));
  work_changed_.notify_one();  // a buffer is free
  if (finished_ < fetches_.size()) return;
  work_changed_.notify_all();
  io_changed_.notify_all();
  result_changed_.notify_all();
}

void ReadPipeline::fail(Status status) {
  if (status_.ok()) status_ = std::move(status);
  work_changed_.notify_all();
  io_changed_.notify_all();
  result_changed_.notify_all();
}

}  // namespace ostraca
