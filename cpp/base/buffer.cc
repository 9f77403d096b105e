#include "base/buffer.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <map>

#include "base/checked.h"
#include "base/cpu.h"
#include "base/limits.h"

namespace ostraca {
namespace {

constexpr std::size_t kHugePageBytes = 2 * kMiB;

// Bytes that mmap reserves for a buffer of `size`.
std::size_t mapped_bytes(std::size_t size) {
  const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return (size + page - 1) / page * page;
}

Status no_memory(std::size_t size_bytes, const char* purpose) {
  const Status status = out_of_memory(size_bytes);
  return purpose ? status.with_context(purpose) : status;
}

}  // namespace

Result<AlignedBuffer> AlignedBuffer::allocate(std::size_t size_bytes, const char* purpose) {
  if (size_bytes == 0) return AlignedBuffer();
  std::uint64_t limit = 0;
  if (!checked_add(size_bytes, 2 * kHugePageBytes, &limit)) return no_memory(size_bytes, purpose);
  const bool huge = size_bytes >= kHugePageBytes;
  const std::size_t kept = mapped_bytes(size_bytes);
  // mmap aligns to small pages: take a huge page more and cut off what is before and behind.
  const std::size_t taken = huge ? kept + kHugePageBytes : kept;
  void* const map = ::mmap(nullptr, taken, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return no_memory(size_bytes, purpose);
  std::byte* data = static_cast<std::byte*>(map);
  if (huge) {
    const std::size_t past = reinterpret_cast<std::uintptr_t>(data) % kHugePageBytes;
    const std::size_t before = past == 0 ? 0 : kHugePageBytes - past;
    if (before != 0) ::munmap(data, before);
    data += before;
    if (before != kHugePageBytes) ::munmap(data + kept, kHugePageBytes - before);
    ::madvise(data, kept, MADV_HUGEPAGE);  // advice: small pages work too
  }
  return AlignedBuffer(data, size_bytes);
}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  if (this != &other) {
    reset();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

void AlignedBuffer::reset() {
  if (data_ != nullptr) ::munmap(data_, mapped_bytes(size_));
  data_ = nullptr;
  size_ = 0;
}

namespace {

// Buffers of pools that are gone, for pools to come: the first touch of memory costs more than what is done in it. They
// wait as MADV_FREE, so the kernel takes back what it needs, without swapping; and only up to a share of the memory
// that is available. Thread-safe.
class BufferCache {
 public:
  // Never destroyed: threads may outlive static destructors. A forked child starts with a new one, since another thread
  // may have held the mutex.
  static BufferCache& instance() {
    static const bool forks_handled = [] {
      current_ = new BufferCache;
      return ::pthread_atfork(nullptr, nullptr, [] { current_ = new BufferCache; }) == 0;
    }();
    (void)forks_handled;
    return *current_;
  }

  bool take(std::size_t size, AlignedBuffer* buffer) {
    const std::lock_guard lock(mutex_);
    std::vector<AlignedBuffer>& buffers = buffers_[size];
    if (buffers.empty()) return false;
    *buffer = std::move(buffers.back());
    buffers.pop_back();
    bytes_ -= size;
    return true;
  }

  void put(std::vector<AlignedBuffer> buffers) {
    if (buffers.empty()) return;
    const std::uint64_t limit = available_memory_bytes() / kAvailableShare;
    for (AlignedBuffer& buffer : buffers) {
      if (buffer.size() == 0 || ::madvise(buffer.data(), buffer.size(), MADV_FREE) != 0) continue;
      const std::lock_guard lock(mutex_);
      if (bytes_ + buffer.size() > limit) continue;
      bytes_ += buffer.size();
      buffers_[buffer.size()].push_back(std::move(buffer));
    }
  }

 private:
  static constexpr std::uint64_t kAvailableShare = 4;

  static inline BufferCache* current_ = nullptr;
  std::mutex mutex_;
  std::map<std::size_t, std::vector<AlignedBuffer>> buffers_;  // by size
  std::uint64_t bytes_ = 0;
};

// Kernels before 5.18 may drop a page that is MADV_FREE while a direct read fills it, unless it was written to.
void write_to_pages(AlignedBuffer& buffer) {
  for (std::size_t i = 0; i < buffer.size(); i += kAlignmentMin)
    *static_cast<volatile std::byte*>(buffer.data() + i) = {};
}

}  // namespace

PooledBuffer& PooledBuffer::operator=(PooledBuffer&& other) noexcept {
  if (this != &other) {
    reset();
    pool_ = std::exchange(other.pool_, nullptr);
    buffer_ = std::move(other.buffer_);
  }
  return *this;
}

void PooledBuffer::reset() {
  if (pool_ != nullptr) std::exchange(pool_, nullptr)->give_back(std::move(buffer_));
}

BufferPool::BufferPool(std::size_t buffer_bytes, std::size_t budget_bytes, FilledBy filled_by)
    : buffer_bytes_(buffer_bytes),
      capacity_(std::max<std::size_t>(1, budget_bytes / std::max<std::size_t>(1, buffer_bytes))),
      filled_by_(filled_by) {}

BufferPool::~BufferPool() {
  assert(lent_ == 0);
  BufferCache::instance().put(std::move(free_));
}

bool BufferPool::take(PooledBuffer* out, Status* failure) {
  AlignedBuffer buffer;
  if (!free_.empty()) {
    buffer = std::move(free_.back());
    free_.pop_back();
  } else if (lent_ == capacity_) {
    return false;
  } else if (BufferCache::instance().take(buffer_bytes_, &buffer)) {
    if (filled_by_ == FilledBy::kDevice) write_to_pages(buffer);
  } else {
    auto fresh = AlignedBuffer::allocate(buffer_bytes_);
    if (!fresh.ok()) return *failure = fresh.status(), false;
    buffer = fresh.take();
  }
  ++lent_;
  *out = PooledBuffer(this, std::move(buffer));
  return true;
}

Result<PooledBuffer> BufferPool::acquire() {
  std::unique_lock lock(mutex_);
  for (;;) {
    PooledBuffer buffer;
    Status failure;
    if (take(&buffer, &failure)) return buffer;
    // Short of memory but with buffers out, the pool makes do with those.
    if (!failure.ok() && lent_ == 0) return failure;
    changed_.wait(lock);
  }
}

PooledBuffer BufferPool::try_acquire() {
  std::lock_guard lock(mutex_);
  PooledBuffer buffer;
  Status failure;
  (void)take(&buffer, &failure);
  return buffer;
}

void BufferPool::give_back(AlignedBuffer buffer) {
  // Under the lock to the end: whoever sees the last buffer back may destroy the pool.
  std::lock_guard lock(mutex_);
  free_.push_back(std::move(buffer));
  --lent_;
  if (retired_) BufferCache::instance().put(std::exchange(free_, {}));
  changed_.notify_one();
}

void BufferPool::retire() {
  std::lock_guard lock(mutex_);
  retired_ = true;
  BufferCache::instance().put(std::exchange(free_, {}));
}

}  // namespace ostraca
