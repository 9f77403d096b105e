// Notes under a failing disk: every call fails once, the process dies at every call, the power goes at every call; and
// on every store.
#include <gtest/gtest.h>

#include "../faults/fault_storage.h"
#include "container/file_format.h"
#include "container/manifest.h"
#include "engine_helpers.h"
#include "storage/objects/objects.h"

namespace ostraca {
namespace {

using namespace testing;

const std::vector<TestArray> kArrays = {make_array("a", DType::kInt32, {10})};
const std::string kOld = R"({"a": 1})", kNew = R"({"a": 2, "tags": ["protected"]})";

std::shared_ptr<MemoryDisk> noted_disk() {
  auto disk = std::make_shared<MemoryDisk>();
  EXPECT_TRUE(save_on(on(disk), kArrays).ok());
  DiskStorage storage(disk);
  EXPECT_TRUE(write_notes_on(storage, *read_notes_on(storage), kOld).ok());
  return disk;
}

TEST(NotesTest, AnyFaultLeavesTheOldOrTheNewAndWhatWasAcknowledgedStays) {
  const auto counting = std::make_shared<FaultPlan>();
  FaultStorage healthy(std::make_unique<DiskStorage>(noted_disk()), counting);
  const Notes noted = *read_notes_on(healthy);
  counting->set({});
  ASSERT_TRUE(write_notes_on(healthy, noted, kNew).ok());
  const std::uint64_t calls = counting->calls();
  std::uint64_t cases = 0;
  for (std::uint64_t n = 1; n <= calls; ++n)
    for (const bool after : {false, true})
      for (const bool crash : {false, true})
        for (const std::uint32_t seed : {0u, 1u, 2u, 3u, 9u}) {
          const auto disk = noted_disk();
          const auto plan = std::make_shared<FaultPlan>();
          FaultStorage storage(std::make_unique<DiskStorage>(disk), plan);
          const Notes before = *read_notes_on(storage);
          plan->set({.at_call = n, .after = after, .crash = crash});
          const Status status = write_notes_on(storage, before, kNew);
          if (crash) disk->cut_power(seed);
          DiskStorage restarted(disk);
          const Result<Notes> found = read_notes_on(restarted);
          const std::string when = "call " + std::to_string(n) + ", seed " + std::to_string(seed);
          ASSERT_TRUE(found.ok()) << when << ": " << found.status().message();
          EXPECT_TRUE(found->facts == kNew || found->facts == kOld) << when << ": " << found->facts;
          if (status.ok()) {
            EXPECT_EQ(found->facts, kNew) << when;
          }
          EXPECT_FALSE(found->unknown) << when;
          EXPECT_EQ(differences(on(disk)(), kArrays), "") << when;
          ++cases;
        }
  EXPECT_GT(cases, 100u);
  RecordProperty("cases", static_cast<int>(cases));
}

TEST(NotesTest, NumbersDecideAndOnlyNotesAboutTheCheckpointCount) {
  const auto disk = noted_disk();
  DiskStorage storage(disk);
  const Notes old = *read_notes_on(storage);
  EXPECT_EQ(old.number, 1u);
  ASSERT_TRUE(write_notes_on(storage, old, kNew).ok());
  EXPECT_EQ(write_notes_on(storage, old, kOld).code(), Code::kExists);  // somebody was faster
  EXPECT_EQ(read_notes_on(storage)->facts, kNew);
  const Notes ahead{.id = CheckpointId::random(), .last = 2};
  ASSERT_TRUE(write_notes_on(storage, ahead, kOld, true).ok());
  EXPECT_EQ(read_notes_on(storage)->facts, kNew);
  EXPECT_EQ(read_notes_on(storage)->last, 3u);
  EXPECT_EQ(read_notes_on(storage, ahead.id)->facts, kOld);
  EXPECT_EQ(write_notes_on(storage, {.id = ahead.id, .last = 3}, kOld).code(), Code::kNotFound);
  for (const char* facts : {"", "[]", "1", "{", "{} {}", "\"a\""})
    EXPECT_EQ(write_notes_on(storage, *read_notes_on(storage), facts).code(), Code::kInvalidArgument) << facts;
}

TEST(NotesTest, ACheckpointOnAnObjectStoreIsSavedOverwrittenReadAndNoted) {
  const auto run = make_object_run(make_memory_client(), "bucket/run");
  const auto storage = [&] { return run->checkpoint("0001"); };
  const std::vector<TestArray> second = {make_array("a", DType::kFloat32, {3 << 20}, 7),
                                         make_array("b", DType::kInt8, {5})};
  ASSERT_TRUE(save_on(storage, kArrays).ok());
  EXPECT_EQ(differences(storage(), kArrays), "");
  ASSERT_TRUE(write_notes_on(*storage(), *read_notes_on(*storage()), kNew).ok());
  EXPECT_EQ(read_notes_on(*storage())->facts, kNew);
  EXPECT_EQ(save_on(storage, second).code(), Code::kExists);
  ASSERT_TRUE(save_on(storage, second, {.overwrite = true}).ok());
  EXPECT_EQ(differences(storage(), second), "");
  EXPECT_EQ(read_notes_on(*storage())->facts, "{}");
  EXPECT_EQ(damage(*storage()), "");
  EXPECT_EQ(storage()->list()->size(), 4u);  // manifest, index, data, and notes about what was overwritten
}

}  // namespace
}  // namespace ostraca
