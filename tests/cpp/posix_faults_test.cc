// What a file system may refuse or get wrong, produced through PosixCalls; and the tests' own FaultStorage.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <semaphore>
#include <thread>

#include "../faults/fault_storage.h"
#include "base/buffer.h"
#include "base/limits.h"
#include "scratch_directory.h"
#include "storage/posix/calls.h"
#include "storage_helpers.h"

namespace ostraca {
namespace {

using testing::publication;

using testing::Fault;
using testing::FaultPlan;
using testing::FaultStorage;
using testing::pattern;
using testing::ScratchDirectory;

constexpr std::size_t kBlock = 64 * kKiB;

// The kernel, but for what a test switches on.
struct FaultyCalls final : PosixCalls {
  std::size_t alignment = kAlignmentMin;
  int refuse_set_direct = 0;   // errno
  int refuse_open_direct = 0;  // errno
  int write_error = 0;         // errno of writes from number `write_error_at` on
  int write_error_at = 1;
  bool only_direct_fails = false;  // write_error and read_error spare the buffered mode
  std::size_t write_at_most = ~std::size_t{0};
  std::size_t read_at_most = ~std::size_t{0};
  int read_error = 0;
  int interrupt_every = 0;  // every n-th call fails with EINTR
  int cached_error = 0;
  int sync_error = 0;
  int link_error = 0;
  int rename_error = 0;
  int no_replace_error = 0;
  int allocate_error = 0;
  std::uint64_t free = std::uint64_t{1} << 40;  // bytes
  bool link_works = false;                      // the call does its work and then reports link_error or rename_error
  mutable std::atomic<bool> direct{false};
  mutable std::atomic<int> allocations{0}, writes{0}, direct_writes{0}, syncs{0}, calls{0};

  bool interrupted() const {
    if (interrupt_every == 0 || ++calls % interrupt_every != 0) return false;
    errno = EINTR;
    return true;
  }
  static int fail(int error) { return errno = error, -1; }

  std::size_t direct_alignment(int) const override { return alignment; }
  int set_direct(int fd, bool on) const override {
    if (on && refuse_set_direct != 0) return fail(refuse_set_direct);
    direct = on;
    return PosixCalls::set_direct(fd, on);
  }
  int open_direct(int directory, const char* name) const override {
    return refuse_open_direct != 0 ? fail(refuse_open_direct) : PosixCalls::open_direct(directory, name);
  }
  std::uint64_t free_bytes(int) const override { return free; }
  int allocate(int fd, off_t bytes) const override {
    ++allocations;
    return allocate_error != 0 ? fail(allocate_error) : PosixCalls::allocate(fd, bytes);
  }
  ssize_t pwrite(int fd, const void* data, std::size_t size, off_t offset) const override {
    if (interrupted()) return -1;
    const bool is_direct = direct;
    if (is_direct) ++direct_writes;
    if (++writes >= write_error_at && write_error != 0 && (is_direct || !only_direct_fails)) return fail(write_error);
    // Odd addresses and sizes are no problem of a buffered descriptor, which a short direct write continues from.
    return PosixCalls::pwrite(fd, data, std::min(size, write_at_most), offset);
  }
  ssize_t pread(int fd, void* data, std::size_t size, off_t offset) const override {
    if (interrupted()) return -1;
    const bool is_direct = (::fcntl(fd, F_GETFL) & O_DIRECT) != 0;
    if (read_error != 0 && (is_direct || !only_direct_fails)) return fail(read_error);
    const ssize_t n = PosixCalls::pread(fd, data, size, offset);
    return n < 0 ? n : static_cast<ssize_t>(std::min<std::size_t>(static_cast<std::size_t>(n), read_at_most));
  }
  ssize_t pread_cached(int fd, void* data, std::size_t size, off_t offset) const override {
    if (cached_error != 0) return fail(cached_error);
    return PosixCalls::pread_cached(fd, data, std::min(size, read_at_most), offset);
  }
  int fdatasync(int fd) const override {
    ++syncs;
    return interrupted() ? -1 : sync_error != 0 ? fail(sync_error) : PosixCalls::fdatasync(fd);
  }
  int fsync(int fd) const override {
    ++syncs;
    return interrupted() ? -1 : sync_error != 0 ? fail(sync_error) : PosixCalls::fsync(fd);
  }
  int link(int directory, const char* from, const char* to) const override {
    if (link_error == 0 || link_works) {
      const int result = PosixCalls::link(directory, from, to);
      if (link_error == 0) return result;
    }
    return fail(link_error);
  }
  int rename(int directory, const char* from, const char* to) const override {
    if (rename_error == 0 || link_works) {
      const int result = PosixCalls::rename(directory, from, to);
      if (rename_error == 0) return result;
    }
    return fail(rename_error);
  }
  int rename_no_replace(int directory, const char* from, const char* to) const override {
    if (rename_error != 0 || no_replace_error != 0) return fail(rename_error != 0 ? rename_error : no_replace_error);
    return PosixCalls::rename_no_replace(directory, from, to);
  }
};

class PosixFaultsTest : public ::testing::Test {
 protected:
  PosixFaultsTest() : storage_(make_posix_storage(scratch_.path(), calls_)) {}

  // Writes kBlocks blocks from four threads, and reads the file back by other means.
  Status write_file(IoMode mode = IoMode::kDirect) {
    auto file = storage_->create("file", mode);
    if (!file.ok()) return file.status();
    (*file)->reserve(3 * kBlocks * kBlock);
    std::mutex mutex;
    Status first;
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        AlignedBuffer buffer = AlignedBuffer::allocate(kBlock).take();
        for (std::size_t i = t; i < kBlocks; i += 4) {
          pattern(i * kBlock, buffer.bytes());
          Status status = (*file)->write_at(i * kBlock, buffer.bytes());
          std::lock_guard lock(mutex);
          if (!status.ok() && first.ok()) first = status;
        }
      });
    for (std::thread& thread : threads) thread.join();
    const Status closed = (*file)->sync_and_close();
    if (!first.ok()) {
      EXPECT_FALSE(closed.ok()) << "a file with a failed write must not close well";
    }
    return first.ok() ? closed : first;
  }
  void expect_whole_file() {
    auto text = make_posix_storage(scratch_.path())->read_small("file", kBlocks * kBlock);
    ASSERT_TRUE(text.ok()) << text.status().message();
    std::string expected(kBlocks * kBlock, '\0');
    pattern(0, std::as_writable_bytes(std::span(expected.data(), expected.size())));
    EXPECT_TRUE(*text == expected);
  }
  void make_file() {
    std::string text(kBlocks * kBlock - 100, '\0');
    pattern(0, std::as_writable_bytes(std::span(text.data(), text.size())));
    ASSERT_TRUE(make_posix_storage(scratch_.path())->write_small("file", as_bytes(text)).ok());
  }
  void expect_direct_read() {
    auto file = storage_->open("file");
    ASSERT_TRUE(file.ok());
    AlignedBuffer found = AlignedBuffer::allocate(kBlocks * kBlock).take();
    AlignedBuffer expected = AlignedBuffer::allocate(kBlocks * kBlock).take();
    pattern(0, expected.bytes());
    const Status status = (*file)->read_direct(0, found.bytes());
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(std::memcmp(found.data(), expected.data(), kBlocks * kBlock - 100), 0);
  }

  static constexpr std::size_t kBlocks = 24;
  ScratchDirectory scratch_{"/tmp"};
  FaultyCalls calls_;
  std::unique_ptr<Storage> storage_;
};

TEST_F(PosixFaultsTest, DirectWritesAreDirect) {
  ASSERT_TRUE(write_file().ok());
  EXPECT_EQ(calls_.direct_writes, static_cast<int>(kBlocks));
  expect_whole_file();
}

TEST_F(PosixFaultsTest, WhatIsReservedAndNotUsedIsGivenBack) {
  ASSERT_TRUE(write_file().ok());
  EXPECT_EQ(calls_.allocations, 1);
  expect_whole_file();  // and no longer

  calls_.allocate_error = EOPNOTSUPP;
  ASSERT_TRUE(storage_->remove("file").ok());
  ASSERT_TRUE(write_file().ok());
  expect_whole_file();

  calls_.free = 5 * kBlocks * kBlock;  // it would be more than half of what is left
  ASSERT_TRUE(storage_->remove("file").ok());
  ASSERT_TRUE(write_file().ok());
  EXPECT_EQ(calls_.allocations, 2);
  expect_whole_file();
}

TEST_F(PosixFaultsTest, RefusalToOpenDirectFallsBack) {
  calls_.refuse_set_direct = EINVAL;
  ASSERT_TRUE(write_file().ok());
  EXPECT_EQ(calls_.direct_writes, 0);
  expect_whole_file();
}

TEST_F(PosixFaultsTest, RefusalAtAnyDirectWriteFallsBackAndLosesNothing) {
  for (int at : {1, 2, 7, 23}) {
    ASSERT_TRUE(storage_->remove("file").ok());
    calls_.writes = calls_.direct_writes = 0;
    calls_.write_error = EINVAL;
    calls_.write_error_at = at;
    calls_.only_direct_fails = true;
    const Status status = write_file();
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_LT(calls_.direct_writes, at + 4);  // at most those that were on their way
    expect_whole_file();
  }
}

TEST_F(PosixFaultsTest, EinvalOfABufferedWriteIsAnError) {
  calls_.write_error = EINVAL;
  EXPECT_EQ(write_file().os_error(), EINVAL);
}

TEST_F(PosixFaultsTest, AlignmentsWeCannotMeetMeanBuffered) {
  for (std::size_t alignment : {std::size_t{0}, 2 * kAlignmentMax}) {
    ASSERT_TRUE(storage_->remove("file").ok());
    calls_.alignment = alignment;
    EXPECT_EQ((*storage_->create("probe" + std::to_string(alignment), IoMode::kDirect))->alignment(), kAlignmentMin);
    ASSERT_TRUE(write_file().ok());
    EXPECT_EQ(calls_.direct_writes, 0);
    expect_whole_file();
  }
  calls_.alignment = kAlignmentMax;
  EXPECT_EQ((*storage_->create("wide", IoMode::kDirect))->alignment(), kAlignmentMax);
  calls_.alignment = 512;
  EXPECT_EQ((*storage_->create("narrow", IoMode::kDirect))->alignment(), kAlignmentMin);
}

TEST_F(PosixFaultsTest, AutoKeepsToTheCacheOnTmpfs) {
  ScratchDirectory memory("/dev/shm");
  auto storage = make_posix_storage(memory.path(), calls_);
  AlignedBuffer buffer = AlignedBuffer::allocate(kBlock).take();
  ASSERT_TRUE((*storage->create("file", IoMode::kAuto))->write_at(0, buffer.bytes()).ok());
  EXPECT_EQ(calls_.direct_writes, 0);
}

TEST_F(PosixFaultsTest, ShortAndInterruptedWritesContinue) {
  // Whole blocks; half blocks, of which the aligned part counts; less than a block, which direct mode gives up on.
  for (std::size_t at_most : {12 * kKiB, 6 * kKiB, std::size_t{512} * 3}) {
    for (IoMode mode : {IoMode::kDirect, IoMode::kBuffered}) {
      ASSERT_TRUE(storage_->remove("file").ok());
      calls_.write_at_most = at_most;
      calls_.interrupt_every = 3;
      const Status status = write_file(mode);
      ASSERT_TRUE(status.ok()) << status.message();
      expect_whole_file();
    }
  }
}

TEST_F(PosixFaultsTest, FullDiskIsAnErrorWithErrnoAndPathAndIsNotRetried) {
  for (int error : {ENOSPC, EDQUOT, EIO}) {
    auto file = storage_->create("file" + std::to_string(error), IoMode::kDirect).take();
    AlignedBuffer buffer = AlignedBuffer::allocate(kBlock).take();
    calls_.write_error = error;
    calls_.writes = 0;
    const Status status = file->write_at(0, buffer.bytes());
    EXPECT_EQ(status.os_error(), error);
    EXPECT_EQ(status.path(), scratch_.path() + "/file" + std::to_string(error));
    EXPECT_EQ(calls_.writes, 1);
    calls_.syncs = 0;
    EXPECT_EQ(file->sync_and_close().os_error(), error);
    EXPECT_EQ(calls_.syncs, 0);
  }
}

TEST_F(PosixFaultsTest, AFailedSyncIsFinal) {
  calls_.sync_error = EIO;
  auto file = storage_->create("file", IoMode::kDirect).take();
  EXPECT_EQ(file->sync_and_close().os_error(), EIO);
  EXPECT_EQ(calls_.syncs, 1);
  EXPECT_EQ(file->sync_and_close().code(), Code::kInvalidArgument);
  EXPECT_EQ(calls_.syncs, 1);
  EXPECT_EQ(storage_->sync_directory().os_error(), EIO);
}

TEST_F(PosixFaultsTest, AFailedSmallFileIsRemoved) {
  calls_.write_error = ENOSPC;
  EXPECT_EQ(storage_->write_small("small", as_bytes("text")).os_error(), ENOSPC);
  calls_.write_error = 0;
  calls_.sync_error = EIO;
  EXPECT_EQ(storage_->write_small("small", as_bytes("text")).os_error(), EIO);
  EXPECT_TRUE(storage_->list()->empty());
}

TEST_F(PosixFaultsTest, DirectReadsFallBack) {
  make_file();
  expect_direct_read();
  calls_.refuse_open_direct = EINVAL;
  expect_direct_read();
  calls_.refuse_open_direct = 0;
  calls_.read_error = EINVAL;
  calls_.only_direct_fails = true;
  expect_direct_read();
  calls_.read_error = EIO;
  auto file = storage_->open("file").take();
  AlignedBuffer buffer = AlignedBuffer::allocate(kBlock).take();
  EXPECT_EQ(file->read_direct(0, buffer.bytes()).os_error(), EIO);
}

TEST_F(PosixFaultsTest, ShortAndInterruptedReadsContinue) {
  make_file();
  for (std::size_t at_most : {12 * kKiB, 6 * kKiB, 3 * kKiB}) {
    calls_.read_at_most = at_most;
    calls_.interrupt_every = 3;
    expect_direct_read();
    auto text = storage_->read_small("file", kBlocks * kBlock);
    ASSERT_TRUE(text.ok()) << text.status().message();
  }
}

TEST_F(PosixFaultsTest, DirectReadKeepsToTheFileThatWasOpened) {
  make_file();
  auto file = storage_->open("file").take();
  std::filesystem::remove(scratch_.path() + "/file");
  ASSERT_TRUE(storage_->write_small("file", as_bytes(std::string(kBlocks * kBlock, '!'))).ok());
  AlignedBuffer found = AlignedBuffer::allocate(kBlock).take();
  AlignedBuffer expected = AlignedBuffer::allocate(kBlock).take();
  pattern(0, expected.bytes());
  ASSERT_TRUE(file->read_direct(0, found.bytes()).ok());
  EXPECT_EQ(std::memcmp(found.data(), expected.data(), kBlock), 0);
}

TEST_F(PosixFaultsTest, CachedReadsAreRefusedWhereTheKernelLacksThem) {
  make_file();
  AlignedBuffer buffer = AlignedBuffer::allocate(kBlock).take();
  for (int error : {EAGAIN, EOPNOTSUPP, ENOSYS}) {
    calls_.cached_error = error;
    auto file = storage_->open("file").take();
    EXPECT_EQ(file->read_cached(0, buffer.bytes()), 0u);
    calls_.cached_error = 0;
    EXPECT_EQ(file->read_cached(0, buffer.bytes()), error == EAGAIN ? buffer.size() : 0);  // the others are for good
  }
}

TEST_F(PosixFaultsTest, AFileIsAsLongAsWhatWasWrittenThoughItIsReservedWhileItCloses) {
  struct SlowAllocation final : PosixCalls {
    int allocate(int fd, off_t bytes) const override {
      const int result = PosixCalls::allocate(fd, bytes);
      done.release();
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      return result;
    }
    mutable std::binary_semaphore done{0};
  } calls;
  const auto storage = make_posix_storage(scratch_.path(), calls);
  auto file = storage->create("file", IoMode::kDirect).take();
  const AlignedBuffer buffer = AlignedBuffer::allocate(kBlock).take();
  ASSERT_TRUE(file->write_at(0, Bytes(buffer.data(), kBlock)).ok());
  std::thread reserving([&] { file->reserve(16 * kBlock); });
  (void)calls.done.try_acquire_for(std::chrono::seconds(2));  // without direct I/O nothing is reserved
  ASSERT_TRUE(file->sync_and_close().ok());
  reserving.join();
  EXPECT_EQ(storage->open("file").take()->size(), kBlock);
}

TEST_F(PosixFaultsTest, PublishWithoutHardLinksRenames) {
  for (int error : {EPERM, EOPNOTSUPP, EMLINK, ENOSYS, EXDEV, EACCES}) {
    calls_.link_error = error;
    const std::string to = "manifest" + std::to_string(error);
    ASSERT_TRUE(storage_->publish(publication(to, "text")).ok());
    EXPECT_EQ(*storage_->read_small(to, 10), "text");
    EXPECT_EQ(storage_->publish(publication(to, "other")).code(), Code::kExists);
    EXPECT_EQ(*storage_->read_small(to, 10), "text");
    ASSERT_TRUE(storage_->publish(publication(to, "new", Expected::any(), to + "-old")).ok());
    EXPECT_EQ(*storage_->read_small(to, 10), "new");
    EXPECT_EQ(*storage_->read_small(to + "-old", 10), "text");  // a copy
  }
}

TEST_F(PosixFaultsTest, WhereANameCannotBeTakenAtOnceItIsClaimed) {
  calls_.link_error = EPERM;
  calls_.no_replace_error = EINVAL;
  EXPECT_TRUE(storage_->traits().is_shared);
  ASSERT_TRUE(storage_->publish(publication("manifest", "text")).ok());
  EXPECT_FALSE(storage_->traits().is_shared);
  EXPECT_EQ(*storage_->read_small("manifest", 10), "text");
  EXPECT_EQ(storage_->publish(publication("manifest", "other")).code(), Code::kExists);
  calls_.rename_error = EIO;
  EXPECT_EQ(storage_->publish(publication("another", "text")).os_error(), EIO);
  EXPECT_EQ(*storage_->list(), std::vector<std::string>{"manifest"});
}

TEST_F(PosixFaultsTest, PublishThatWorkedButReportsFailureIsFoundOut) {
  calls_.link_works = true;
  for (int error : {EEXIST, EIO}) {
    calls_.link_error = calls_.rename_error = error;
    const std::string to = "manifest" + std::to_string(error);
    EXPECT_TRUE(storage_->publish(publication(to, "one")).ok());
    EXPECT_EQ(*storage_->read_small(to, 10), "one");
    EXPECT_TRUE(storage_->publish(publication(to, "two", Expected::any())).ok());
    EXPECT_EQ(*storage_->read_small(to, 10), "two");
  }
  const auto names = *storage_->list();
  calls_.link_works = false;
  EXPECT_EQ(storage_->publish(publication("other", "three")).os_error(), EIO);
  EXPECT_EQ(storage_->publish(publication("manifest" + std::to_string(EIO), "three", Expected::any())).os_error(), EIO);
  EXPECT_EQ(*storage_->list(), names);
}

TEST(FaultStorageTest, CountsLogsFailsAndCrashes) {
  ScratchDirectory scratch("/tmp");
  auto plan = std::make_shared<FaultPlan>();
  FaultStorage storage(make_posix_storage(scratch.path()), plan);
  ASSERT_TRUE(storage.write_small("a", as_bytes("text")).ok());
  auto file = storage.create("b", IoMode::kBuffered).take();
  AlignedBuffer buffer = AlignedBuffer::allocate(kBlock).take();
  ASSERT_TRUE(file->write_at(kBlock, buffer.bytes()).ok());
  ASSERT_EQ(plan->calls(), 3u);
  const auto log = plan->log();
  EXPECT_EQ(log[2].operation, "write_at");
  EXPECT_EQ(log[2].name, "b");
  EXPECT_EQ(log[2].offset, kBlock);
  EXPECT_EQ(log[2].size, kBlock);
  EXPECT_TRUE(log[2].performed && log[2].reported_ok);

  plan->set({.at_call = 2, .error = ENOSPC});
  EXPECT_TRUE(storage.sync_directory().ok());
  EXPECT_EQ(storage.write_small("c", {}).os_error(), ENOSPC);
  EXPECT_TRUE(storage.write_small("d", {}).ok());
  EXPECT_EQ(storage.open("c").status().code(), Code::kNotFound);

  plan->set({.at_call = 1, .after = true, .operation = "publish"});
  EXPECT_EQ(*storage.list(), (std::vector<std::string>{"a", "b", "d"}));
  EXPECT_EQ(storage.publish(publication("e", "text")).os_error(), EIO);
  EXPECT_TRUE(storage.open("e").ok());

  plan->set({.at_call = 2, .crash = true});
  EXPECT_TRUE(storage.remove("a").ok());
  EXPECT_FALSE(storage.remove("b").ok());
  EXPECT_FALSE(file->sync_and_close().ok());
  EXPECT_FALSE(storage.list().ok());
  EXPECT_TRUE(plan->crashed());
  EXPECT_EQ(*make_posix_storage(scratch.path())->list(), (std::vector<std::string>{"b", "d", "e"}));
  EXPECT_FALSE(plan->log().back().performed);
}

}  // namespace
}  // namespace ostraca
