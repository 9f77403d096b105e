// What the POSIX run does beyond what every run does (storage_conformance_test.cc): links, swaps, clocks.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "base/limits.h"
#include "scratch_directory.h"
#include "storage/posix/calls.h"
#include "storage_helpers.h"

namespace ostraca {
namespace {

namespace fs = std::filesystem;
using testing::publication;
using testing::read_text;
using testing::ScratchDirectory;

class PosixRunTest : public ::testing::Test {
 protected:
  PosixRunTest() {
    EXPECT_TRUE(storage_->create_directory().ok());
    EXPECT_TRUE(storage_->publish(publication("m.json", "one")).ok());
  }
  ostraca::Run::Child only() { return run_->scan({.document_bytes_max = kMiB, .last = "m.json"})->front(); }

  const ScratchDirectory scratch_;
  const std::string path_ = fs::canonical(scratch_.path()).string() + "/run";
  const std::unique_ptr<ostraca::Run> run_ = make_posix_run(path_);
  const std::unique_ptr<Storage> storage_ = run_->checkpoint("1");
};

// As NFS and FUSE do: the file goes when they have heard that it was closed.
TEST_F(PosixRunTest, ADirectoryGoesWhenWhatWasOpenInItHas) {
  fs::create_directories(path_ + "/2");
  for (const char* name : {"/2/.fuse_hidden0001", "/2/.nfs0001"}) std::ofstream(path_ + name) << "removed";
  std::thread file_system([&] {
    for (const char* name : {"/2/.fuse_hidden0001", "/2/.nfs0001"}) {
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
      fs::remove(path_ + name);
    }
  });
  EXPECT_TRUE(run_->remove_directory("2").ok());
  EXPECT_FALSE(fs::exists(path_ + "/2"));
  file_system.join();
}

TEST_F(PosixRunTest, ALinkInTheRunSaysWhereItLeads) {
  fs::create_directories(scratch_.path() + "/elsewhere");
  fs::create_symlink("1", path_ + "/whole");
  fs::create_symlink("1/m.json", path_ + "/into");
  fs::create_symlink("../elsewhere", path_ + "/out");
  fs::create_symlink("absent", path_ + "/nowhere");
  fs::create_symlink("circle", path_ + "/circle");
  std::string said;
  const auto children = run_->scan({});
  for (const ostraca::Run::Child& child : *children)
    said += child.name + (child.is_link ? " to '" + child.leads_to + "'" : "") +
            (child.leads_to_whole ? " whole" : "") + (child.is_directory ? " directory" : "") +
            (child.status.ok() ? "" : " trouble") + "; ";
  EXPECT_EQ(said,
            "1 directory; circle to '' trouble; into to '1'; nowhere to ''; out to '' directory; whole to '1' whole; ");
}

TEST_F(PosixRunTest, LinksAreNotFollowedButFromTheLastName) {
  fs::create_directories(path_ + "/2");
  fs::create_symlink("../2", path_ + "/1/link");
  fs::create_symlink("/etc", path_ + "/1/etc");
  fs::rename(path_ + "/1/m.json", path_ + "/2/other");
  fs::create_symlink("../2/other", path_ + "/1/m.json");
  const ostraca::Run::Child child = only();
  EXPECT_TRUE(child.files.empty());
  EXPECT_EQ(child.links, (std::vector<std::string>{"2", "2"}));
  EXPECT_EQ(child.last.kind, ScannedFile::Kind::kLink);
  EXPECT_EQ(child.last.contents, "one");
  fs::remove(path_ + "/2/other");
  EXPECT_EQ(only().last.status.os_error(), ENOENT);
}

TEST_F(PosixRunTest, WhatIsNoFileIsNotWaitedFor) {
  fs::remove(path_ + "/1/m.json");
  ASSERT_EQ(::mkfifo((path_ + "/1/m.json").c_str(), 0600), 0);
  EXPECT_EQ(only().last.kind, ScannedFile::Kind::kOther);
  EXPECT_FALSE(only().last.contents);
}

TEST_F(PosixRunTest, AChildThatWasSwappedIsNone) {
  const ostraca::Run::Child child = only();
  fs::rename(path_ + "/1", path_ + "/moved");
  EXPECT_EQ(run_->child("1", child.identity).status().code(), Code::kNotFound);
  fs::create_directory_symlink("moved", path_ + "/1");
  EXPECT_EQ(run_->child("1", child.identity).status().code(), Code::kNotFound);
  EXPECT_EQ(run_->remove_directory("1").os_error(), ENOTDIR);
  fs::remove(path_ + "/1");
  fs::create_directory(path_ + "/1");
  EXPECT_EQ(run_->child("1", child.identity).status().code(), Code::kNotFound);
  const auto moved = run_->child("moved", child.identity);
  ASSERT_TRUE(moved.ok());
  fs::rename(path_ + "/moved", path_ + "/again");  // once open it is the one that it was
  EXPECT_EQ(read_text(**moved, "m.json"), "one");
}

struct NoUnnamed final : PosixCalls {
  int open_unnamed(int) const override { return errno = EOPNOTSUPP, -1; }
  int date(int fd) const override { return ++dated, PosixCalls::date(fd); }
  mutable int dated = 0;
};

TEST_F(PosixRunTest, TheClockIsTheFileSystemsIfItMayBeAsked) {
  const NoUnnamed calls;
  const auto run = make_posix_run(path_, calls);
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  const double seconds = std::chrono::duration<double>(since).count();
  for (const bool may_write : {false, true})
    for (ostraca::Run* one : {run.get(), run_.get()}) {
      const auto now = one->now(may_write);
      ASSERT_TRUE(now.ok());
      EXPECT_NEAR(static_cast<double>(*now) / 1e9, seconds, 60);
    }
  EXPECT_EQ(calls.dated, 1);
}

// Where there are no locks an overwrite may come between a look and the rename.
struct Between final : PosixCalls {
  int rename(int directory, const char* from, const char* to) const override {
    if (act) std::exchange(act, nullptr)();
    return PosixCalls::rename(directory, from, to);
  }
  mutable std::function<void()> act;
};

TEST_F(PosixRunTest, WhatComesBetweenIsPutBack) {
  Between calls;
  const auto storage = make_posix_storage(path_ + "/1", calls);
  const std::string version = storage_->read_document("m.json", kMiB)->version;
  calls.act = [&] { EXPECT_TRUE(storage_->publish(publication("m.json", "two", Expected::any())).ok()); };
  EXPECT_EQ(storage->retire("m.json", version, "tombstone").code(), Code::kExists);
  EXPECT_EQ(read_text(*storage_, "m.json"), "two");
  EXPECT_EQ(*storage_->list(), std::vector<std::string>{"m.json"});
}

TEST_F(PosixRunTest, TwoNamesOfOneFileBecomeOne) {
  fs::create_hard_link(path_ + "/1/m.json", path_ + "/1/tombstone");
  const std::string version = storage_->read_document("m.json", kMiB)->version;
  ASSERT_TRUE(storage_->retire("m.json", version, "tombstone").ok());
  EXPECT_EQ(*storage_->list(), std::vector<std::string>{"tombstone"});
}

struct NoLinks final : PosixCalls {
  int link(int, const char*, const char*) const override { return errno = EPERM, -1; }
  int rename_no_replace(int directory, const char* from, const char* to) const override {
    return has_rename ? PosixCalls::rename_no_replace(directory, from, to) : (errno = EINVAL, -1);
  }
  bool has_rename = true;
};

TEST_F(PosixRunTest, WhereThereAreNoLinksANameIsGivenBackToo) {
  for (const bool has_rename : {true, false})
    for (const bool is_taken : {false, true}) {
      NoLinks calls;
      calls.has_rename = has_rename;
      const auto storage = make_posix_storage(path_ + "/1", calls);
      const std::string version = storage->read_document("m.json", kMiB)->version;
      ASSERT_TRUE(storage->retire("m.json", version, "tombstone").ok());
      if (is_taken) testing::write_text(*storage_, "m.json", "two");
      const Status status = storage->restore("tombstone", "m.json");
      EXPECT_TRUE(status.ok()) << status.message();
      EXPECT_EQ(*storage->list(), std::vector<std::string>{"m.json"});
      EXPECT_EQ(read_text(*storage, "m.json"), is_taken ? "two" : "one");
      ASSERT_TRUE(storage_->publish(publication("m.json", "one", Expected::any())).ok());
    }
}

}  // namespace
}  // namespace ostraca
