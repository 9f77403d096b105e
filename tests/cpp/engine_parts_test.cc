// Saves whose processes write several files each: they hold what one file would, whatever fails.
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <thread>

#include "../faults/fault_storage.h"
#include "container/file_format.h"
#include "container/manifest.h"
#include "engine/keyframe.h"
#include "engine/lifetime.h"
#include "engine_helpers.h"
#include "storage/objects/objects.h"

namespace ostraca {
namespace {

using namespace testing;

std::shared_ptr<MemoryDisk> new_disk() { return std::make_shared<MemoryDisk>(); }

// Noise in several blocks of 8 MiB, an array that repeats chunks of them, and small ones.
std::vector<TestArray> state(std::uint32_t seed = 1) {
  std::vector<TestArray> arrays = {make_array("a", DType::kUint8, {18u << 20}, seed),
                                   make_array("b", DType::kFloat32, {1000}, seed),
                                   make_array("c", DType::kUint8, {18u << 20}, 1), make_array("d", DType::kInt16, {0}),
                                   make_array("e", DType::kInt64, {9u << 17}, 5)};
  return arrays;
}

Manifest manifest_of(const std::shared_ptr<MemoryDisk>& disk) {
  DiskStorage storage(disk);
  return *decode_manifest(*storage.read_small(kManifestName, kManifestBytesMax));
}

std::size_t count_of(const std::shared_ptr<MemoryDisk>& disk, const std::string& prefix) {
  return static_cast<std::size_t>(
      std::ranges::count_if(disk->names(), [&](const std::string& name) { return name.starts_with(prefix); }));
}

TEST(EnginePartsTest, SeveralFilesHoldWhatOneWould) {
  const std::vector<TestArray> arrays = state();
  for (const std::uint64_t file_bytes : {0ull, 1ull, 20ull << 20, 1ull << 40}) {
    const auto disk = new_disk();
    const Status saved = save_on(on(disk), arrays, {.file_bytes = file_bytes});
    ASSERT_TRUE(saved.ok()) << saved.message();
    EXPECT_EQ(differences(on(disk)(), arrays, true), "");
    EXPECT_EQ(damage(disk), "");
    const Manifest manifest = manifest_of(disk);
    const bool has_parts = file_bytes == 1 || file_bytes == 20 << 20;
    EXPECT_EQ(manifest.features, has_parts ? kFeatureParts : 0);
    EXPECT_GE(manifest.files.size(), has_parts ? 2u : 1u);
    EXPECT_LE(manifest.files.size(), has_parts ? 5u : 1u);
    EXPECT_EQ(count_of(disk, "p0"), manifest.files.size());
    if (file_bytes == 20 << 20) {
      for (const ManifestFile& file : manifest.files) EXPECT_LE(file.bytes, file_bytes);
    }
  }
}

TEST(EnginePartsTest, FilesDependOnTheDataAloneAndNotOnThreads) {
  const std::vector<TestArray> arrays = state();
  std::map<std::string, MemoryDirectory::Content> first;
  for (const unsigned threads : {1u, 3u}) {
    const auto disk = new_disk();
    ASSERT_TRUE(save_on(on(disk), arrays, fixed_id({.threads = threads, .file_bytes = 9 << 20})).ok());
    auto files = disk->files();
    files.erase(kManifestName);
    if (first.empty()) first = files;
    EXPECT_GE(files.size(), 4u);
    EXPECT_TRUE(files == first);
  }
}

TEST(EnginePartsTest, ProcessesMayDifferInTheNumberOfTheirFiles) {
  const auto disk = new_disk();
  const TestArray whole = make_array("w", DType::kUint8, {40u << 20}, 3);
  const std::uint64_t cuts[] = {0, 20u << 20, 22u << 20, 40u << 20};
  std::vector<FileReport> reports;
  std::vector<std::unique_ptr<Writer>> writers;
  for (std::uint32_t p = 0; p < 3; ++p) {
    auto writer = create_writer(on(disk)(), fixed_id({.process_index = p, .process_count = 3, .file_bytes = 1}));
    ASSERT_TRUE(writer.ok());
    ArraySource source = whole.source();
    source.data += cuts[p];
    source.shape = {cuts[p + 1] - cuts[p]};
    source.global_shape = whole.shape;
    source.offset = {cuts[p]};
    ASSERT_TRUE((*writer)->add(std::move(source)).ok());
    const auto report = (*writer)->finish();
    ASSERT_TRUE(report.ok()) << report.status().message();
    EXPECT_LE(report->to_bytes().size(), kReportBytesMax);
    reports.insert(reports.begin(), *FileReport::from_bytes(report->to_bytes()));
    writers.push_back(writer.take());
  }
  DiskStorage storage(disk);
  std::atomic<std::uint64_t> checked = 0;
  const auto text = commit_on(storage, reports, {.files_checked = &checked});
  ASSERT_TRUE(text.ok()) << text.status().message();
  const Manifest manifest = *decode_manifest(*text);
  EXPECT_EQ(checked, manifest.files.size());
  EXPECT_EQ(manifest.files[3].name, data_file_name(1, manifest.id));
  EXPECT_EQ(manifest.files.back().name, data_file_name(2, manifest.id, 2));
  EXPECT_EQ(differences(on(disk)(), {whole}), "");
  EXPECT_EQ(damage(disk), "");
}

TEST(EnginePartsTest, ADeltaOfSeveralFilesHasABaseOfSeveral) {
  const auto key = new_disk(), delta = new_disk();
  const std::vector<TestArray> old = state();
  std::vector<TestArray> trained = state(2);
  trained[0] = old[0];
  for (std::size_t i = 0; i < trained[0].memory.size(); i += 5)
    trained[0].memory[i] = static_cast<std::byte>(std::to_integer<int>(trained[0].memory[i]) ^ 1);
  std::copy_n(trained[0].memory.begin(), trained[0].expected.size(), trained[0].expected.begin());
  delta->add_neighbour("key", key);
  key->add_neighbour("key", key);
  ASSERT_TRUE(save_on(on(key), old, {.file_bytes = 1}).ok());
  auto base = Keyframe::open(beside(*on(delta)(), "key"), 0);
  ASSERT_TRUE(base.ok()) << base.status().message();
  for (const std::uint64_t file_bytes : {1ull, 0ull}) {
    const Status saved = save_on(on(delta), trained, {.base = *base, .overwrite = true, .file_bytes = file_bytes});
    ASSERT_TRUE(saved.ok()) << saved.message();
    EXPECT_EQ(differences(on(delta)(), trained, true), "");
    EXPECT_EQ(damage(delta), "");
    EXPECT_GT(manifest_of(delta).referenced_bytes, 16u << 20);
    EXPECT_EQ(manifest_of(delta).files.size() > 1, file_bytes == 1);
  }
}

// What a save keeps in memory as a base is found by the file that it went to.
TEST(EnginePartsTest, WhatIsKeptOfSeveralFilesIsWhatTheyHold) {
  const auto key = new_disk(), delta = new_disk();
  delta->add_neighbour("key", key);
  key->add_neighbour("key", key);
  const std::vector<TestArray> old = state();
  std::vector<TestArray> trained = state();
  for (TestArray& array : trained) {
    for (std::size_t i = 0; i < array.expected.size(); i += 5)
      array.memory[array.origin + i] = array.expected[i] =
          static_cast<std::byte>(std::to_integer<int>(array.expected[i]) ^ 1);
  }
  const auto plan = std::make_shared<FaultPlan>();
  auto writer = create_writer(std::make_unique<FaultStorage>(beside(*on(delta)(), "key"), plan),
                              {.keep_bytes = 256 << 20, .file_bytes = 1});
  ASSERT_TRUE(writer.ok()) << writer.status().message();
  for (const TestArray& a : old) ASSERT_TRUE((*writer)->add(a.source()).ok());
  const auto report = (*writer)->finish();
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_GE(report->part, 3u);
  ASSERT_TRUE(commit_on(*beside(*on(delta)(), "key"), {*report}, {}).ok());
  auto base = (*writer)->snapshot();
  ASSERT_TRUE(base.ok()) << base.status().message();
  EXPECT_GT((*base)->kept_bytes(), 20u << 20);
  const std::size_t calls = plan->log().size();
  ASSERT_TRUE(save_on(on(delta), trained, {.base = *base, .file_bytes = 1}).ok());
  // Of the base tables are read, but no contents.
  const std::vector<LoggedCall> log = plan->log();
  for (std::size_t i = calls; i < log.size(); ++i)
    EXPECT_FALSE(log[i].operation.starts_with("read") && log[i].size > 64 * kKiB) << log[i].operation << log[i].name;
  EXPECT_EQ(damage(delta), "");
  EXPECT_EQ(differences(on(delta)(), trained, true), "");
}

TEST(EnginePartsTest, AnAbortedSaveLeavesNothing) {
  const auto disk = new_disk();
  const std::vector<TestArray> arrays = state();
  auto writer = create_writer(on(disk)(), {.file_bytes = 1});
  ASSERT_TRUE(writer.ok());
  for (const TestArray& a : arrays) ASSERT_TRUE((*writer)->add(a.source()).ok());
  ASSERT_TRUE((*writer)->finish().ok());
  EXPECT_GE(count_of(disk, "p0"), 3u);
  (*writer)->abort();
  EXPECT_TRUE(disk->names().empty());
}

TEST(EnginePartsTest, AFaultAtAnyCallLosesNothingThatWasThere) {
  const std::vector<TestArray> old = {make_array("x", DType::kInt32, {5})}, arrays = state();
  std::uint64_t calls = 1;
  for (std::uint64_t at = 0; at <= calls; ++at) {  // 0: no fault
    const auto disk = new_disk();
    ASSERT_TRUE(save_on(on(disk), old).ok());
    const auto plan = std::make_shared<FaultPlan>(Fault{.at_call = at});
    const auto storage = [&]() -> std::unique_ptr<Storage> { return std::make_unique<FaultStorage>(on(disk)(), plan); };
    const Status status = save_on(storage, arrays, {.threads = 1, .overwrite = true, .file_bytes = 1});
    if (at == 0) calls = plan->calls();
    ASSERT_TRUE(at != 0 || status.ok()) << status.message();
    const bool is_new = status.ok() || status.code() == Code::kCommitUncertain;
    EXPECT_EQ(differences(on(disk)(), is_new ? arrays : old), "") << at << ": " << status.message();
    if (status.ok() || is_new) continue;
    EXPECT_EQ(count_of(disk, "p0"), 1u) << at << ": " << status.message();
  }
}

TEST(EnginePartsTest, AMissingOrDamagedPartIsNamed) {
  const auto disk = new_disk();
  const std::vector<TestArray> arrays = state();
  ASSERT_TRUE(save_on(on(disk), arrays, fixed_id({.file_bytes = 1})).ok());
  const std::string part = data_file_name(0, *fixed_id().attempt, 1);
  const auto files = disk->files();
  auto bytes = files.at(part);
  bytes[5000] ^= std::byte{1};
  disk->put(part, bytes);
  EXPECT_NE(damage(disk).find(part + " @"), std::string::npos) << damage(disk);
  disk->erase(part);
  EXPECT_NE(damage(disk).find(part + " @0 : the file is missing"), std::string::npos) << damage(disk);
  EXPECT_NE(differences(on(disk)(), arrays).find(part), std::string::npos);
  // Another part in its place is another file.
  disk->put(part, files.at(data_file_name(0, *fixed_id().attempt)));
  EXPECT_NE(damage(disk).find(part), std::string::npos);
}

TEST(EnginePartsTest, ObjectsAreOfLittleSize) {
  const std::shared_ptr<ObjectClient> client = make_memory_client();
  const std::vector<TestArray> arrays = {make_array("a", DType::kUint8, {70u << 20}, 1)};
  const auto storage = [&] { return make_object_run(client, "run")->checkpoint("1"); };
  const Status saved = save_on(storage, arrays);
  ASSERT_TRUE(saved.ok()) << saved.message();
  EXPECT_EQ(differences(storage(), arrays), "");
  std::size_t files = 0;
  const std::vector<ObjectInfo> found = client->list("run/1/p").take();
  for (const ObjectInfo& object : found) {
    EXPECT_LE(object.bytes, kObjectFileBytes) << object.key;
    ++files;
  }
  EXPECT_EQ(files, 3u);
}

// --- Renewed intents ----------------------------------------------------------------------------------------------

std::size_t renewals(const FaultPlan& plan) {
  std::size_t count = 0;
  for (const LoggedCall& call : plan.log()) count += call.operation == "touch";
  return count;
}

TEST(EngineRenewalTest, ASaveRenewsItsIntentUntilItEnds) {
  const auto disk = new_disk();
  const auto plan = std::make_shared<FaultPlan>();
  auto writer = create_writer(std::make_unique<FaultStorage>(on(disk)(), plan), {.renew_every = {}});
  ASSERT_TRUE(writer.ok());
  const TestArray a = make_array("a", DType::kUint8, {1000});
  ASSERT_TRUE((*writer)->add(a.source()).ok());
  EXPECT_EQ(renewals(*plan), 1u);
  (*writer)->renew();
  EXPECT_EQ(renewals(*plan), 2u);
  const std::string intent = intent_file_name((*writer)->attempt());
  EXPECT_EQ(plan->log().back().name, intent);
  disk->set_before_write([] { std::this_thread::sleep_for(std::chrono::milliseconds(100)); });  // a slow disk
  const auto report = (*writer)->finish();
  ASSERT_TRUE(report.ok());
  EXPECT_GT(renewals(*plan), 2u);
  DiskStorage storage(disk);
  ASSERT_TRUE(commit_on(storage, {*report}, {}).ok());
  EXPECT_EQ(count_of(disk, "intent"), 0u);
  (*writer)->renew();
  EXPECT_EQ(count_of(disk, "intent"), 0u);  // what is gone stays so
}

TEST(EngineRenewalTest, ItIsRenewedWhenItIsDueByProcess0Alone) {
  const auto disk = new_disk();
  const auto plan = std::make_shared<FaultPlan>();
  const auto storage = [&] { return std::make_unique<FaultStorage>(on(disk)(), plan); };
  auto first = create_writer(storage(), fixed_id({.process_count = 2}));
  auto second = create_writer(storage(), fixed_id({.process_index = 1, .process_count = 2, .renew_every = {}}));
  ASSERT_TRUE(first.ok() && second.ok());
  (*first)->renew();
  (*second)->renew();
  EXPECT_EQ(renewals(*plan), 0u);
  static_assert(2 * kRenewEvery <= std::chrono::minutes(60) / 4);
}

}  // namespace
}  // namespace ostraca
