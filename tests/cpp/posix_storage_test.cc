// What the POSIX storage does beyond what every storage does (storage_conformance_test.cc), on a real disk and on
// tmpfs; posix_faults_test.cc has what these refuse to do wrong.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/buffer.h"
#include "base/limits.h"
#include "scratch_directory.h"
#include "storage/storage.h"
#include "storage_helpers.h"

namespace ostraca {
namespace {

namespace fs = std::filesystem;
using testing::pattern;
using testing::read_text;
using testing::ScratchDirectory;
using testing::write_text;

// The parameter is the directory under which the test works.
class PosixStorageTest : public ::testing::TestWithParam<const char*> {
 protected:
  PosixStorageTest() : scratch_(GetParam()), storage_(make_posix_storage(scratch_.path() + "/run/0001")) {
    EXPECT_TRUE(storage_->create_directory().ok());
  }

  void write(const std::string& name, const std::string& text) { write_text(*storage_, name, text); }
  std::string read(const std::string& name) { return read_text(*storage_, name); }

  ScratchDirectory scratch_;
  std::unique_ptr<Storage> storage_;
};

INSTANTIATE_TEST_SUITE_P(FileSystems, PosixStorageTest, ::testing::Values("/tmp", "/dev/shm"),
                         [](const auto& info) { return std::string(info.param) == "/tmp" ? "disk" : "tmpfs"; });

TEST_P(PosixStorageTest, WhatIsTouchedChangedNow) {
  write("intent", "a save");
  const std::string path = storage_->path_of("intent");
  const timespec long_ago[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
  ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), long_ago, 0), 0);
  ASSERT_TRUE(storage_->touch("intent").ok());
  struct stat about = {};
  ASSERT_EQ(::stat(path.c_str(), &about), 0);
  EXPECT_GT(about.st_mtim.tv_sec, 1000000);
}

TEST_P(PosixStorageTest, EveryModeWritesTheSameBytesAndEveryWayOfReadingFindsThem) {
  for (IoMode mode : {IoMode::kAuto, IoMode::kDirect, IoMode::kBuffered}) {
    const std::string name = "file" + std::to_string(static_cast<int>(mode));
    auto file = storage_->create(name, mode);
    ASSERT_TRUE(file.ok()) << file.status().message();
    const std::size_t alignment = (*file)->alignment();
    ASSERT_GE(alignment, kAlignmentMin);
    ASSERT_LE(alignment, kAlignmentMax);
    const std::size_t block = 8 * alignment;
    std::vector<std::thread> threads;  // each writes every fourth block
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        AlignedBuffer buffer = AlignedBuffer::allocate(block).take();
        for (std::size_t i = t; i < 32; i += 4) {
          pattern(i * block, buffer.bytes());
          EXPECT_TRUE((*file)->write_at(i * block, buffer.bytes()).ok());
        }
      });
    for (std::thread& thread : threads) thread.join();
    ASSERT_TRUE((*file)->sync_and_close().ok());

    auto in = storage_->open(name);
    ASSERT_TRUE(in.ok()) << in.status().message();
    ASSERT_EQ((*in)->size(), 32 * block);
    AlignedBuffer expected = AlignedBuffer::allocate(32 * block).take();
    AlignedBuffer found = AlignedBuffer::allocate(32 * block).take();
    pattern(0, expected.bytes());
    ASSERT_TRUE((*in)->read_direct(0, found.bytes()).ok());
    EXPECT_EQ(std::memcmp(expected.data(), found.data(), found.size()), 0);
    std::memset(found.data(), 0, found.size());
    ASSERT_TRUE((*in)->read_at(0, found.bytes()).ok());
    EXPECT_EQ(std::memcmp(expected.data(), found.data(), found.size()), 0);
    ASSERT_TRUE((*in)->read_at(7, found.bytes().subspan(13, 1001)).ok());
    EXPECT_EQ(std::memcmp(expected.data() + 7, found.data() + 13, 1001), 0);
  }
}

TEST_P(PosixStorageTest, CachedReadIsTheSameOrRefused) {
  std::string text(100'000, 'x');
  pattern(0, std::as_writable_bytes(std::span(text.data(), text.size())));
  write("file", text);
  auto file = storage_->open("file").take();
  std::string found(50'000, '\0');
  const MutableBytes out = std::as_writable_bytes(std::span(found.data(), found.size()));
  // Just written, so it is cached; where the kernel has no RWF_NOWAIT for this file system, less is right too.
  if (file->read_cached(10'000, out) == out.size()) {
    EXPECT_EQ(found, text.substr(10'000, 50'000));
  }
  EXPECT_EQ(file->read_cached(60'000, out), 0u);  // past the end
  if (std::string(GetParam()) == "/dev/shm") return;
  EXPECT_EQ(file->read_cached(0, out), out.size()) << "ext4, XFS and btrfs have RWF_NOWAIT";
}

TEST_P(PosixStorageTest, ReadingPastTheEndIsCorruptionWithFileOffsetAndSizes) {
  write("file", std::string(5000, 'x'));
  auto file = storage_->open("file").take();
  AlignedBuffer buffer = AlignedBuffer::allocate(16 * kKiB).take();
  const Status status = file->read_at(4000, buffer.bytes().first(2000));
  EXPECT_EQ(status.code(), Code::kCorruption);
  for (const char* part : {"/run/0001/file'", "2000 bytes", "offset 4000", "found 1000"})
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  EXPECT_EQ(file->read_at(~std::uint64_t{0} - 5, buffer.bytes().first(10)).code(), Code::kCorruption);
  EXPECT_TRUE(file->read_at(5000, {}).ok());

  // The last direct request may reach past the end, but must begin before it.
  ASSERT_TRUE(file->read_direct(0, buffer.bytes()).ok());
  EXPECT_EQ(as_text(buffer.bytes().first(5000)), std::string(5000, 'x'));
  EXPECT_EQ(file->read_direct(8 * kKiB, buffer.bytes().first(4 * kKiB)).code(), Code::kCorruption);

  // A file that became shorter after it was opened.
  ASSERT_EQ(::truncate(storage_->path_of("file").c_str(), 4500), 0);
  EXPECT_EQ(file->read_at(4000, buffer.bytes().first(1000)).code(), Code::kCorruption);
  const Status direct = file->read_direct(0, buffer.bytes());
  EXPECT_EQ(direct.code(), Code::kCorruption);
  EXPECT_NE(direct.message().find("found 4500"), std::string::npos) << direct.message();
}

TEST_P(PosixStorageTest, OpensPlainFilesOnly) {
  fs::create_directory(storage_->path_of("directory"));
  ASSERT_EQ(::mkfifo(storage_->path_of("fifo").c_str(), 0600), 0);
  EXPECT_EQ(storage_->open("directory").status().code(), Code::kFormat);
  EXPECT_EQ(storage_->open("fifo").status().code(), Code::kFormat);  // and does not hang
  EXPECT_EQ(storage_->read_small("fifo", 10).status().code(), Code::kFormat);
}

TEST_P(PosixStorageTest, ModesHonourTheUmask) {
  const mode_t before = ::umask(027);
  auto storage = make_posix_storage(scratch_.path() + "/masked");
  EXPECT_TRUE(storage->create_directory().ok());
  EXPECT_TRUE(storage->write_small("small", as_bytes("x")).ok());
  EXPECT_TRUE(storage->create("data", IoMode::kAuto).ok());
  ::umask(before);
  struct stat about = {};
  ASSERT_EQ(::stat(storage->path().c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0750u);
  for (const char* name : {"small", "data"}) {
    ASSERT_EQ(::stat(storage->path_of(name).c_str(), &about), 0);
    EXPECT_EQ(about.st_mode & 0777, 0640u);
  }
}

TEST_P(PosixStorageTest, ListsPlainFilesSorted) {
  for (const char* name : {"b", "a", "c"}) write(name, "");
  write("..a", "dots");
  write(std::string(kNameBytesMax, 'x'), "long");
  fs::create_directory(storage_->path_of("directory"));
  fs::create_symlink("a", storage_->path_of("link"));
  const std::vector<std::string> expected = {"..a", "a", "b", "c", std::string(kNameBytesMax, 'x')};
  EXPECT_EQ(*storage_->list(), expected);
  EXPECT_EQ(*storage_->list(), expected);  // from the beginning again
}

TEST_P(PosixStorageTest, RemovingWhatIsAbsentIsOk) {
  write("file", "");
  EXPECT_TRUE(storage_->remove("file").ok());
  EXPECT_TRUE(storage_->remove("file").ok());
  EXPECT_TRUE(make_posix_storage(scratch_.path() + "/absent")->remove("file").ok());
}

TEST_P(PosixStorageTest, RemovesOnlyTheEmptyDirectoriesItMade) {
  auto storage = make_posix_storage(scratch_.path() + "/run/x/y/z///");
  ASSERT_TRUE(storage->create_directory().ok());
  ASSERT_TRUE(storage->sync_directory().ok());
  ASSERT_TRUE(storage->write_small("file", {}).ok());
  storage->remove_created_directories();
  EXPECT_TRUE(fs::exists(storage->path_of("file")));
  ASSERT_TRUE(storage->remove("file").ok());
  storage->remove_created_directories();
  EXPECT_FALSE(fs::exists(scratch_.path() + "/run/x"));
  EXPECT_TRUE(fs::exists(scratch_.path() + "/run"));  // not its own
  ASSERT_TRUE(storage->create_directory().ok());      // and begins afresh
  EXPECT_TRUE(storage->write_small("file", {}).ok());
}

TEST_P(PosixStorageTest, ManyCreateTheSameDirectory) {
  for (int round = 0; round < 20; ++round) {
    const std::string path = scratch_.path() + "/race" + std::to_string(round) + "/a/b";
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        auto storage = make_posix_storage(path);
        const Status status = storage->create_directory();
        EXPECT_TRUE(status.ok()) << status.message();
        EXPECT_TRUE(storage->write_small("file" + std::to_string(t), {}).ok());
        EXPECT_TRUE(storage->sync_directory().ok());
      });
    for (std::thread& thread : threads) thread.join();
  }
}

TEST_P(PosixStorageTest, BadDirectoriesAreNamed) {
  write("file", "");
  const Status status = make_posix_storage(storage_->path_of("file") + "/a/b")->create_directory();
  EXPECT_EQ(status.os_error(), ENOTDIR);
  EXPECT_EQ(status.path(), storage_->path_of("file"));
  EXPECT_EQ(make_posix_storage(storage_->path_of("file"))->list().status().os_error(), ENOTDIR);
  EXPECT_EQ(make_posix_storage(scratch_.path() + "/absent")->list().status().code(), Code::kNotFound);
  EXPECT_EQ(make_posix_storage(scratch_.path() + "/absent")->open("a").status().code(), Code::kNotFound);
  EXPECT_EQ(make_posix_storage("")->create_directory().code(), Code::kInvalidArgument);
  EXPECT_EQ(make_posix_storage("")->open("etc").status().code(), Code::kInvalidArgument);
  EXPECT_EQ(make_posix_storage(std::string("/tmp\0x", 6))->list().status().code(), Code::kInvalidArgument);
}

TEST_P(PosixStorageTest, NeitherChdirNorAMoveOfTheTreeMatters) {
  const fs::path before = fs::current_path();
  fs::current_path(scratch_.path());
  auto storage = make_posix_storage("relative/run");
  fs::current_path(before);
  ASSERT_TRUE(storage->create_directory().ok());
  EXPECT_EQ(fs::canonical(storage->path()), fs::canonical(scratch_.path() + "/relative/run"));
  ASSERT_TRUE(storage->write_small("file", as_bytes("text")).ok());
  fs::rename(scratch_.path() + "/relative", scratch_.path() + "/moved");
  EXPECT_EQ(*storage->read_small("file", 10), "text");
}

}  // namespace
}  // namespace ostraca
