#include "base/buffer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <set>
#include <thread>

#include "base/limits.h"

namespace ostraca {
namespace {

std::size_t misalignment(const void* p, std::size_t alignment) {
  return reinterpret_cast<std::uintptr_t>(p) % alignment;
}

TEST(AlignedBuffer, IsAlignedZeroedAndWritableToItsEnd) {
  for (std::size_t size : {std::size_t{1}, 4 * kKiB, 4 * kKiB + 1, 2 * kMiB - 1, 2 * kMiB, 2 * kMiB + 1, 8 * kMiB}) {
    auto buffer = AlignedBuffer::allocate(size);
    ASSERT_TRUE(buffer.ok()) << buffer.status().message();
    EXPECT_EQ(buffer->size(), size);
    EXPECT_EQ(misalignment(buffer->data(), size >= 2 * kMiB ? 2 * kMiB : 4 * kKiB), 0u) << size;
    EXPECT_EQ(buffer->bytes().front(), std::byte{0});
    EXPECT_EQ(buffer->bytes().back(), std::byte{0});
    buffer->bytes().front() = buffer->bytes().back() = std::byte{1};
  }
}

TEST(AlignedBuffer, ZeroBytesAreNoMemory) {
  auto buffer = AlignedBuffer::allocate(0);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(buffer->data(), nullptr);
}

TEST(AlignedBuffer, ReportsWhatCannotBeAllocated) {
  for (std::size_t size : {std::numeric_limits<std::size_t>::max(), std::size_t{1} << 60}) {
    auto buffer = AlignedBuffer::allocate(size);
    ASSERT_FALSE(buffer.ok());
    EXPECT_EQ(buffer.status().code(), Code::kOutOfMemory);
    EXPECT_EQ(buffer.status().message(), std::to_string(size) + " bytes of memory cannot be had");
  }
}

TEST(AlignedBuffer, Moves) {
  AlignedBuffer a = AlignedBuffer::allocate(10).take();
  std::byte* const data = a.data();
  AlignedBuffer b = std::move(a);
  EXPECT_EQ(b.data(), data);
  a = AlignedBuffer::allocate(20).take();
  a = std::move(b);
  EXPECT_EQ(a.data(), data);
  EXPECT_EQ(a.size(), 10u);
}

TEST(BufferPool, LendsUpToItsBudgetAndReuses) {
  BufferPool pool(4 * kKiB, 10 * kKiB, BufferPool::FilledBy::kDevice);
  EXPECT_EQ(pool.capacity(), 2u);
  PooledBuffer a = pool.try_acquire();
  PooledBuffer b = pool.acquire().take();
  ASSERT_TRUE(a && b);
  EXPECT_FALSE(pool.try_acquire());
  std::byte* const data = a.data();
  a.reset();
  EXPECT_FALSE(a);
  PooledBuffer c = pool.try_acquire();
  ASSERT_TRUE(c);
  EXPECT_EQ(c.data(), data);
}

TEST(BufferPool, HasOneBufferHoweverSmallTheBudget) {
  BufferPool pool(4 * kKiB, 0, BufferPool::FilledBy::kDevice);
  EXPECT_EQ(pool.capacity(), 1u);
  EXPECT_TRUE(pool.try_acquire());
}

TEST(BufferPool, ARetiredOneLeavesItsBuffersToOthers) {
  BufferPool old(12 * kKiB, 24 * kKiB, BufferPool::FilledBy::kCpu);
  PooledBuffer a = old.try_acquire(), b = old.try_acquire();
  const std::set<std::byte*> buffers{a.data(), b.data()};
  a.reset();
  old.retire();
  b.reset();
  BufferPool next(12 * kKiB, 24 * kKiB, BufferPool::FilledBy::kCpu);
  const PooledBuffer c = next.try_acquire(), d = next.try_acquire();
  EXPECT_EQ(buffers, (std::set<std::byte*>{c.data(), d.data()}));
}

TEST(BufferPool, ReportsWhenThereIsNoMemoryAndNobodyToWaitFor) {
  BufferPool pool(std::size_t{1} << 60, 0, BufferPool::FilledBy::kDevice);
  auto buffer = pool.acquire();
  ASSERT_FALSE(buffer.ok());
  EXPECT_EQ(buffer.status().code(), Code::kOutOfMemory);
}

TEST(BufferPool, ManyThreadsShareFewBuffers) {
  BufferPool pool(4 * kKiB, 3 * 4 * kKiB, BufferPool::FilledBy::kDevice);
  std::atomic<int> out{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        PooledBuffer buffer = pool.acquire().take();
        EXPECT_LE(++out, 3);
        buffer.bytes()[0] = std::byte{1};
        --out;
      }
    });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace ostraca
