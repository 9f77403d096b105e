// Publishing over a checkpoint: compare-and-swap, under a lease of those who replace.
#include "engine/publish.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <thread>

#include "base/host.h"
#include "container/file_format.h"
#include "engine/lifetime.h"
#include "engine_helpers.h"
#include "scratch_directory.h"
#include "storage/posix/calls.h"

namespace ostraca {
namespace {

using namespace testing;

const std::vector<TestArray> kArrays = {make_array("a", DType::kInt32, {10})};
const std::string kLock = std::string(kManifestName) + ".lock";

CheckpointId id_at(const std::shared_ptr<MemoryDisk>& disk) {
  return decode_manifest(*DiskStorage(disk).read_small(kManifestName, 100000))->id;
}

TEST(PublishTest, ReplacesOnlyWhatIsExpected) {
  const auto disk = std::make_shared<MemoryDisk>();
  ASSERT_TRUE(save_on(on(disk), kArrays).ok());
  const CheckpointId first = id_at(disk);
  ASSERT_TRUE(save_on(on(disk), kArrays, {.overwrite = true}, {.replaces = first}).ok());
  const CheckpointId second = id_at(disk);
  const auto before = disk->files();
  const Status late = save_on(on(disk), kArrays, {.overwrite = true}, {.replaces = first});
  EXPECT_EQ(late.code(), Code::kExists);
  EXPECT_NE(late.message().find("expected checkpoint " + first.hex() + ", found " + second.hex()), std::string::npos)
      << late.message();
  EXPECT_EQ(disk->files(), before);
  disk->erase(kManifestName);
  EXPECT_EQ(save_on(on(disk), kArrays, {.overwrite = true}, {.replaces = second}).code(), Code::kExists);
  EXPECT_FALSE(disk->files().contains(kManifestName));
}

// A save that takes the checkpoint as its base between the overwrite's looks: the files stay, for prune.
TEST(PublishTest, WhatIsOverwrittenWaitsForWhoHasTakenItAsABase) {
  const auto disk = std::make_shared<MemoryDisk>(), neighbour = std::make_shared<MemoryDisk>();
  disk->add_neighbour("other", neighbour);
  ASSERT_TRUE(save_on(on(disk), kArrays).ok());
  const Manifest old = *decode_manifest(*DiskStorage(disk).read_small(kManifestName, 100000));
  Intent intent{.id = CheckpointId::random(),
                .base_directory = "memory",
                .base_id = old.id,
                .created = utc_now(),
                .host = "elsewhere",
                .pid = 1};
  const std::string text = *encode_intent(intent);
  neighbour->put(intent_file_name(intent.id), {as_bytes(text).begin(), as_bytes(text).end()});
  DiskStorage storage(disk);
  disk->link(kManifestName, tombstone_file_name(old.id));
  remove_superseded(storage, CheckpointId::random(), old);
  EXPECT_TRUE(disk->files().contains(old.files.front().name));
  EXPECT_TRUE(disk->files().contains(tombstone_file_name(old.id)));
  neighbour->put(intent_file_name(intent.id), {});  // cut off: it may have any base
  remove_superseded(storage, CheckpointId::random(), old);
  EXPECT_TRUE(disk->files().contains(old.files.front().name));
  neighbour->erase(intent_file_name(intent.id));
  remove_superseded(storage, CheckpointId::random(), old);
  EXPECT_EQ(disk->names(), std::vector<std::string>{kManifestName});
}

TEST(PublishTest, SaversInManyThreadsLeaveOneCheckpointAndNothingElse) {
  const ScratchDirectory scratch;
  const std::string path = scratch.path() + "/checkpoint";
  std::vector<std::thread> savers;
  for (int saver = 0; saver < 4; ++saver)
    savers.emplace_back([&] {
      for (int i = 0; i < 10; ++i)
        EXPECT_TRUE(save_on([&] { return make_posix_storage(path); }, kArrays, {.threads = 1, .overwrite = true}).ok());
    });
  for (std::thread& saver : savers) saver.join();
  EXPECT_EQ(make_posix_storage(path)->list()->size(), 3u);
  EXPECT_EQ(differences(make_posix_storage(path), kArrays), "");
}

TEST(ReplacingLeaseTest, UsesWhatAKilledOneLeft) {
  const ScratchDirectory scratch;
  const auto storage = make_posix_storage(scratch.path());
  ASSERT_TRUE(storage->write_small(kLock, {}).ok());
  EXPECT_TRUE(storage->lease_replacing(kManifestName).ok());
  EXPECT_TRUE(storage->list()->empty());
}

TEST(ReplacingLeaseTest, NeedsAPlainFileAndLocksThatDoNotFail) {
  const ScratchDirectory scratch;
  const std::string lock = scratch.path() + "/" + kLock;
  ASSERT_EQ(::mkfifo(lock.c_str(), 0600), 0);
  EXPECT_EQ(make_posix_storage(scratch.path())->lease_replacing(kManifestName).status().code(), Code::kFormat);
  std::filesystem::remove(lock);
  std::filesystem::create_symlink(scratch.path() + "/elsewhere", lock);
  EXPECT_EQ(make_posix_storage(scratch.path())->lease_replacing(kManifestName).status().os_error(), ELOOP);
  EXPECT_FALSE(std::filesystem::exists(scratch.path() + "/elsewhere"));
  std::filesystem::remove(lock);
  struct Refusing final : PosixCalls {
    int flock(int, int) const override { return errno = error, -1; }
    int error = 0;
  } calls;
  const auto storage = make_posix_storage(scratch.path(), calls);
  calls.error = ENOLCK;  // there are no locks
  EXPECT_TRUE(storage->lease_replacing(kManifestName).ok());
  calls.error = EIO;
  EXPECT_EQ(storage->lease_replacing(kManifestName).status().os_error(), EIO);
}

// A process is known by more than its number.
TEST(SaverTest, RunsIsGoneOrIsNotKnown) {
  Intent mine{.host = host_name(), .pid = ::getpid(), .boot_id = boot_id(), .start_ticks = start_ticks(::getpid())};
  ASSERT_TRUE(mine.start_ticks);
  EXPECT_EQ(saver_of(mine), Saver::kRuns);
  Intent old = mine;
  old.boot_id.clear();
  old.start_ticks.reset();
  EXPECT_EQ(saver_of(old), Saver::kRuns);
  Intent other = mine;
  *other.start_ticks += 1;
  EXPECT_EQ(saver_of(other), Saver::kGone);
  other = mine;
  other.boot_id = "of before";
  EXPECT_EQ(saver_of(other), Saver::kGone);
  other = mine;
  other.host = "elsewhere";
  EXPECT_EQ(saver_of(other), Saver::kUnknown);
  for (const std::int64_t pid : {std::int64_t{0}, std::int64_t{-1}, INT64_MIN}) {
    other = mine;
    other.pid = pid;
    EXPECT_EQ(saver_of(other), Saver::kUnknown);
  }
}

}  // namespace
}  // namespace ostraca
