// Leases, and what may not be overwritten.
#include "engine/lifetime.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <thread>

#include "container/file_format.h"
#include "container/manifest.h"
#include "engine_helpers.h"
#include "scratch_directory.h"
#include "storage/posix/calls.h"

namespace ostraca {
namespace {

using namespace testing;

struct NoLocks final : PosixCalls {
  explicit NoLocks(int e) : error(e) {}
  int flock(int, int) const override { return errno = error, -1; }
  const int error;
};

bool exclusive(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  return ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0;
}

TEST(LeaseTest, IsSharedAndStaysWithTheFileWhenItsNameChanges) {
  const ScratchDirectory scratch;
  const auto storage = make_posix_storage(scratch.path());
  EXPECT_EQ(storage->lease("a").status().code(), Code::kNotFound);
  EXPECT_FALSE(storage->lease("../a").ok());
  ASSERT_TRUE(storage->write_small("a", as_bytes("one")).ok());
  EXPECT_TRUE(exclusive(scratch.path() + "/a"));
  auto first = storage->lease("a"), second = storage->lease("a");
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_TRUE((*first)->current());
  std::filesystem::rename(scratch.path() + "/a", scratch.path() + "/b");
  EXPECT_FALSE((*first)->current());
  ASSERT_TRUE(storage->write_small("a", as_bytes("two")).ok());
  EXPECT_FALSE((*first)->current());  // another file of that name
  first->reset();
  EXPECT_FALSE(exclusive(scratch.path() + "/b"));
  second->reset();
  EXPECT_TRUE(exclusive(scratch.path() + "/b"));
}

TEST(LeaseTest, WaitsForAnExclusiveOneAndSeesWhatBecameOfTheFile) {
  const ScratchDirectory scratch;
  const auto storage = make_posix_storage(scratch.path());
  ASSERT_TRUE(storage->write_small("a", as_bytes("one")).ok());
  UniqueFd fd(::open((scratch.path() + "/a").c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(::flock(fd.get(), LOCK_EX), 0);
  std::thread remover([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    std::filesystem::rename(scratch.path() + "/a", scratch.path() + "/b");
    fd.reset();
  });
  EXPECT_EQ(storage->lease("a").status().code(), Code::kNotFound);
  remover.join();
}

TEST(LeaseTest, AFileSystemWithoutLocksGivesOneThatHoldsNothing) {
  const ScratchDirectory scratch;
  for (const int error : {ENOTSUP, ENOLCK, EBADF, ENOSYS}) {
    const NoLocks calls(error);
    const auto storage = make_posix_storage(scratch.path(), calls);
    (void)storage->write_small("a", as_bytes("one"));
    auto lease = storage->lease("a");
    ASSERT_TRUE(lease.ok());
    EXPECT_TRUE((*lease)->current());
    EXPECT_TRUE(exclusive(scratch.path() + "/a"));
  }
}

TEST(LeaseTest, ABaseIsLeasedByItsTombstoneOnceItIsRemoved) {
  const ScratchDirectory scratch;
  const std::string path = scratch.path() + "/base";
  const auto storage = make_posix_storage(path);
  const auto posix = [&] { return make_posix_storage(path); };
  ASSERT_TRUE(save_on(posix, {make_array("a", DType::kInt32, {10})}).ok());
  const CheckpointId id = decode_manifest(*storage->read_small(kManifestName, 100000))->id;
  ASSERT_TRUE(lease_base(*storage, id).ok());
  EXPECT_EQ(lease_base(*storage, CheckpointId::random()).status().code(), Code::kNotFound);
  const std::string tombstone = path + "/" + tombstone_file_name(id);
  std::filesystem::rename(path + "/" + kManifestName, tombstone);
  for (const bool another : {false, true}) {
    if (another) {
      ASSERT_TRUE(save_on(posix, {make_array("b", DType::kInt32, {10})}).ok());
    }
    const auto lease = lease_base(*storage, id);
    ASSERT_TRUE(lease.ok());
    EXPECT_FALSE(exclusive(tombstone));
  }
  EXPECT_TRUE(exclusive(tombstone));
}

TEST(LeaseTest, AnOpenReaderHoldsOne) {
  const ScratchDirectory scratch;
  const std::string path = scratch.path() + "/checkpoint";
  ASSERT_TRUE(save_on([&] { return make_posix_storage(path); }, {make_array("a", DType::kInt32, {10})}).ok());
  auto reader = Reader::open(path);
  ASSERT_TRUE(reader.ok());
  EXPECT_FALSE(exclusive(path + "/" + kManifestName));
  reader->reset();
  EXPECT_TRUE(exclusive(path + "/" + kManifestName));
}

TEST(RunTest, IsWhereALinkLeadsTo) {
  const ScratchDirectory scratch;
  for (const char* name : {"b", "a", "c"}) std::filesystem::create_directory(scratch.path() + "/" + name);
  ASSERT_TRUE(make_posix_storage(scratch.path())->write_small("file", as_bytes("x")).ok());
  ASSERT_TRUE(make_posix_storage(scratch.path() + "/b")->write_small("file", as_bytes("x")).ok());
  std::filesystem::create_directory_symlink("a", scratch.path() + "/link");
  std::filesystem::create_directory_symlink("absent", scratch.path() + "/dangling");
  const auto storage = make_posix_storage(scratch.path() + "/link");
  EXPECT_EQ(*storage->name(), "a");
  const auto children = storage->run()->scan({});
  ASSERT_TRUE(children.ok());
  std::vector<std::string> names, files;
  for (const Run::Child& child : *children) {
    names.push_back(child.name + (child.is_link ? " to " + child.leads_to : ""));
    for (const ScannedFile& file : child.files) files.push_back(child.name + "/" + file.name);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"a", "b", "c", "dangling to ", "link to a"}));
  EXPECT_EQ(files, (std::vector<std::string>{"b/file"}));
  EXPECT_EQ(make_posix_storage(scratch.path() + "/absent")->name().status().code(), Code::kNotFound);
  EXPECT_EQ(make_posix_run(scratch.path() + "/absent")->scan({}).status().code(), Code::kNotFound);
  EXPECT_EQ(storage->run()->checkpoint("b")->path(), std::filesystem::canonical(scratch.path()).string() + "/b");
}

TEST(OverwriteTest, ABaseIsRefusedBeforeAnythingIsWritten) {
  const auto disk = std::make_shared<MemoryDisk>(), neighbour = std::make_shared<MemoryDisk>();
  disk->add_neighbour("other", neighbour);
  const std::vector<TestArray> arrays = {make_array("a", DType::kInt32, {10})};
  ASSERT_TRUE(save_on(on(disk), arrays).ok());
  const auto before = disk->files();
  const CheckpointId id = decode_manifest(*DiskStorage(disk).read_small(kManifestName, 100000))->id;
  Intent intent{.id = CheckpointId::random(),
                .base_directory = "memory",
                .base_id = id,
                .created = utc_now(),
                .host = "elsewhere",
                .pid = 1};
  const std::string text = *encode_intent(intent);
  neighbour->put(intent_file_name(intent.id), {as_bytes(text).begin(), as_bytes(text).end()});
  const Status refused = save_on(on(disk), arrays, {.overwrite = true});
  EXPECT_EQ(refused.code(), Code::kExists);
  EXPECT_NE(refused.message().find("is the base of a save to 'other'"), std::string::npos) << refused.message();
  EXPECT_EQ(disk->files(), before);
  neighbour->erase(intent_file_name(intent.id));
  EXPECT_TRUE(save_on(on(disk), arrays, {.overwrite = true}).ok());
}

}  // namespace
}  // namespace ostraca
