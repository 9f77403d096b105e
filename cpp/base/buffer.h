// Page-aligned memory for direct I/O, and a bounded pool of it.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "ostraca/status.h"

namespace ostraca {

// Owns zeroed anonymous memory: aligned to 4 KiB, and from 2 MiB on to 2 MiB and advised to use huge pages (first
// touch of small pages is slower than the disk). Not thread-safe; the memory is.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;  // no memory
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;
  ~AlignedBuffer() { reset(); }

  // Fails with kOutOfMemory, saying the purpose if there is one, with the option that takes less. A size of 0 is an
  // empty buffer.
  static Result<AlignedBuffer> allocate(std::size_t size_bytes, const char* purpose = nullptr);

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  MutableBytes bytes() const { return {data_, size_}; }
  void reset();

 private:
  AlignedBuffer(std::byte* data, std::size_t size) : data_(data), size_(size) {}

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

class BufferPool;

// A buffer on loan; goes back to its pool when destroyed. False when it holds none. Not thread-safe.
class PooledBuffer {
 public:
  PooledBuffer() = default;
  PooledBuffer(PooledBuffer&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), buffer_(std::move(other.buffer_)) {}
  PooledBuffer& operator=(PooledBuffer&& other) noexcept;
  ~PooledBuffer() { reset(); }

  explicit operator bool() const { return pool_ != nullptr; }
  std::byte* data() const { return buffer_.data(); }
  std::size_t size() const { return buffer_.size(); }
  MutableBytes bytes() const { return buffer_.bytes(); }
  void reset();  // gives it back now

 private:
  friend class BufferPool;
  PooledBuffer(BufferPool* pool, AlignedBuffer buffer) : pool_(pool), buffer_(std::move(buffer)) {}

  BufferPool* pool_ = nullptr;
  AlignedBuffer buffer_;
};

// Buffers of one size within a budget: allocated when first needed, then reused, most recently used first (its
// contents are whatever they were). Thread-safe. REQUIRES: outlives every buffer it lent.
class BufferPool {
 public:
  enum class FilledBy { kCpu, kDevice };  // kDevice: also by direct reads

  // As many buffers as the budget holds, but at least one.
  BufferPool(std::size_t buffer_bytes, std::size_t budget_bytes, FilledBy filled_by);
  ~BufferPool();  // keeps its buffers for the process's next pools, where the kernel can reclaim them

  std::size_t buffer_bytes() const { return buffer_bytes_; }
  std::size_t capacity() const { return capacity_; }  // buffers

  // Waits until a buffer is free. Fails with kOutOfMemory when there is no memory and
  // nobody who could give a buffer back.
  Result<PooledBuffer> acquire();
  // Does not wait: none when no buffer is free or memory is short.
  PooledBuffer try_acquire();
  // For a pool that stays only for what it lent: buffers that are free, now or later, go to the process's next pools.
  void retire();

 private:
  friend class PooledBuffer;
  bool take(PooledBuffer* out, Status* failure);  // REQUIRES: mutex_ held
  void give_back(AlignedBuffer buffer);

  const std::size_t buffer_bytes_;
  const std::size_t capacity_;
  const FilledBy filled_by_;
  std::mutex mutex_;  // guards the rest
  std::condition_variable changed_;
  std::vector<AlignedBuffer> free_;
  std::size_t lent_ = 0;
  bool retired_ = false;
};

}  // namespace ostraca
