// More files than the process may open. Each test runs in a child, as a hard limit cannot be raised again.
#include "storage/posix/open_files.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "scratch_directory.h"
#include "storage/storage.h"
#include "storage_helpers.h"

namespace ostraca {
namespace {

using testing::publication;

constexpr std::size_t kFiles = 100;
constexpr rlim_t kDescriptors = 64;

std::size_t open_descriptors() {
  const std::filesystem::directory_iterator entries("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
}

class OpenFilesTest : public ::testing::Test {
 protected:
  OpenFilesTest() : storage_(make_posix_storage(scratch_.path() + "/c")) {
    EXPECT_TRUE(storage_->create_directory().ok());
    for (std::size_t i = 0; i < kFiles; ++i) {
      const std::string text = content(i);
      EXPECT_TRUE(storage_->write_small(std::to_string(i), as_bytes(text)).ok());
    }
  }

  static std::string content(std::size_t i) { return "the content of " + std::to_string(1000 + i); }

  // Whether `work` returns true where only so many descriptors may be open.
  template <class Work>
  static bool limited(rlim_t soft, rlim_t hard, Work work) {
    const pid_t child = ::fork();
    if (child == 0) {
      const struct rlimit limits = {soft, hard};
      ::_exit(::setrlimit(RLIMIT_NOFILE, &limits) == 0 && work() ? 0 : 1);
    }
    int status = 0;
    return ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

  std::vector<std::unique_ptr<ReadableFile>> open_all() const {
    std::vector<std::unique_ptr<ReadableFile>> files;
    for (std::size_t i = 0; i < kFiles; ++i) {
      auto file = storage_->open(std::to_string(i));
      if (file.ok()) files.push_back(file.take());
    }
    return files;
  }
  static Result<std::string> read(ReadableFile& file) {
    std::string text(file.size(), '\0');
    OSTRACA_RETURN_IF_ERROR(file.read_at(0, std::as_writable_bytes(std::span(text.data(), text.size()))));
    return text;
  }
  // How many of the files hold what was written to them.
  static std::size_t count_right(const std::vector<std::unique_ptr<ReadableFile>>& files) {
    std::size_t right = 0;
    for (std::size_t i = 0; i < files.size(); ++i) {
      const Result<std::string> text = read(*files[i]);
      right += text.ok() && *text == content(i);
    }
    return right;
  }

  testing::ScratchDirectory scratch_;
  const std::unique_ptr<Storage> storage_;
};

TEST_F(OpenFilesTest, FilesBeyondTheLimitAreOpenedAgain) {
  EXPECT_TRUE(limited(kDescriptors, kDescriptors, [this] {
    const auto files = open_all();
    return files.size() == kFiles && count_right(files) == kFiles && count_right(files) == kFiles &&
           open_descriptors() < kDescriptors * 3 / 4;
  }));
}

TEST_F(OpenFilesTest, ThreadsReadWhatOthersClose) {
  EXPECT_TRUE(limited(kDescriptors, kDescriptors, [this] {
    const auto files = open_all();
    std::atomic<std::size_t> right = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) threads.emplace_back([&] { right += count_right(files) + count_right(files); });
    for (std::thread& thread : threads) thread.join();
    return right == 8 * kFiles;
  }));
}

TEST_F(OpenFilesTest, TheSoftLimitIsRaisedFirst) {
  EXPECT_TRUE(limited(kDescriptors, 1024, [this] {
    const auto files = open_all();
    for (std::size_t i = 0; i < kFiles; ++i) (void)storage_->remove(std::to_string(i));
    return count_right(files) == kFiles;
  }));
}

TEST_F(OpenFilesTest, WhatWasRemovedWhileItWasClosedIsNotFound) {
  EXPECT_TRUE(limited(kDescriptors, kDescriptors, [this] {
    const auto files = open_all();
    for (std::size_t i = 0; i < kFiles; ++i) (void)storage_->remove(std::to_string(i));
    std::size_t right = 0, gone = 0;
    for (std::size_t i = 0; i < kFiles; ++i) {
      const Result<std::string> text = read(*files[i]);
      right += text.ok() && *text == content(i);
      gone += text.status().code() == Code::kNotFound;
    }
    return right == OpenFiles::limit() && right + gone == kFiles;
  }));
}

TEST_F(OpenFilesTest, AnotherFileOfTheNameIsNotTakenForIt) {
  EXPECT_TRUE(limited(kDescriptors, kDescriptors, [this] {
    const auto files = open_all();
    (void)storage_->publish(publication("0", content(0), Expected::any()));
    return read(*files[0]).status().code() == Code::kNotFound;
  }));
}

TEST_F(OpenFilesTest, AProcessWithoutDescriptorsLeftMakesRoom) {
  EXPECT_TRUE(limited(kDescriptors, kDescriptors, [this] {
    const auto files = open_all();
    while (::dup(0) >= 0) continue;
    return count_right(files) == kFiles && storage_->lease("0").ok() && storage_->list().ok();
  }));
}

}  // namespace
}  // namespace ostraca
