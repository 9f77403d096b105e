// Shards of several processes, and what commit() makes of reports: any topology restores to any other, what does not
// fit is refused, and no save harms a checkpoint that another one committed.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>

#include "container/manifest.h"
#include "engine_helpers.h"
#include "scratch_directory.h"

namespace ostraca {
namespace {

using namespace testing;

std::shared_ptr<MemoryDisk> new_disk() { return std::make_shared<MemoryDisk>(); }

// --- Several processes ------------------------------------------------------------------------------------------

struct Shard {
  Dims offset, shape;
  Dims chunk = {};
};

TestArray cut_shard(const TestArray& whole, const Shard& shard, Layout layout) {
  TestArray part = make_array(whole.name, whole.dtype, shard.shape, 1, layout);
  const auto bytes = cut_box(whole.expected, whole.shape, whole.item(), shard.offset, shard.shape);
  for_each_element(shard.shape, part.strides, [&](std::int64_t at, std::size_t i) {
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(i * whole.item()), whole.item(),
                part.memory.begin() + static_cast<std::ptrdiff_t>(part.origin) + at);
  });
  part.expected = bytes;
  part.global_shape = whole.shape;
  part.offset = shard.offset;
  return part;
}

// Every process writes its shards of `whole`, in threads, and process 0 commits.
Status save_shards(const std::shared_ptr<MemoryDisk>& disk, const TestArray& whole,
                   const std::vector<std::vector<Shard>>& processes) {
  const auto count = static_cast<std::uint32_t>(processes.size());
  std::vector<Result<FileReport>> reports(count, invalid_argument("not run"));
  std::vector<std::unique_ptr<Writer>> writers(count);
  std::vector<std::thread> threads;
  for (std::uint32_t p = 0; p < count; ++p)
    threads.emplace_back([&, p] {
      WriterOptions options = fixed_id({.process_index = p, .process_count = count, .threads = 1});
      if (!processes[p].empty()) options.chunk_shape = processes[p].front().chunk;
      auto writer = create_writer(on(disk)(), options);
      if (!writer.ok()) return void(reports[p] = writer.status());
      std::vector<TestArray> parts;
      parts.reserve(processes[p].size());
      Status status;
      for (std::size_t i = 0; i < processes[p].size() && status.ok(); ++i) {
        parts.push_back(cut_shard(whole, processes[p][i], kLayouts[(p + i) % 4]));
        ArraySource source = parts.back().source();
        if (i > 0) source.path = key_path_from_name(whole.name + std::to_string(i));
        status = (*writer)->add(std::move(source));
      }
      reports[p] = status.ok() ? (*writer)->finish() : Result<FileReport>(status);
      writers[p] = writer.take();
    });
  for (auto& thread : threads) thread.join();
  std::vector<FileReport> good;
  for (auto& report : reports) {
    if (!report.ok()) return report.status();
    const auto copy = FileReport::from_bytes(report->to_bytes());
    if (!copy.ok()) return copy.status();
    good.insert(good.begin(), *copy);  // the order does not matter
  }
  DiskStorage storage(disk);
  const auto manifest = commit_on(storage, good, {});
  return manifest.ok() ? Status() : manifest.status();
}

TEST(EngineShardsTest, AnyTopologyRestoresToAnyOther) {
  const TestArray whole = make_array("w", DType::kFloat32, {96, 80}, 4, Layout::kC, Fill::kGaussian);
  const std::vector<std::vector<std::vector<Shard>>> topologies = {
      {{{{0, 0}, {96, 80}}}},
      {{{{0, 0}, {48, 80}}}, {{{48, 0}, {48, 80}, {5, 33}}}},
      {{{{0, 0}, {96, 1}}}, {{{0, 1}, {96, 50}, {7, 7}}}, {{{0, 51}, {96, 29}}}},
      {{{{0, 0}, {50, 40}, {9, 9}}}, {{{50, 0}, {46, 40}}}, {{{0, 40}, {10, 40}, {1, 40}}}, {{{10, 40}, {86, 40}}}},
      {{{{0, 0}, {96, 80}}}, {}}};
  for (const auto& topology : topologies) {
    const auto disk = new_disk();
    const Status saved = save_shards(disk, whole, topology);
    ASSERT_TRUE(saved.ok()) << saved.message();
    EXPECT_EQ(damage(disk), "");
    auto reader = open_reader(on(disk)(), {});
    ASSERT_TRUE(reader.ok());
    EXPECT_EQ(differences(**reader, {whole}), "");
    for (const auto& [start, box] : {std::pair(Dims{0, 0}, Dims{96, 1}),
                                     {Dims{13, 9}, Dims{60, 60}},
                                     {Dims{47, 39}, Dims{2, 2}},
                                     {Dims{95, 0}, Dims{1, 80}},
                                     {Dims{3, 3}, Dims{0, 9}}}) {
      const auto got = read_box(**reader, 0, start, box, Layout::kFortran);
      ASSERT_TRUE(got.ok());
      EXPECT_EQ(*got, cut_box(whole.expected, whole.shape, 4, start, box));
    }
  }
}

TEST(EngineShardsTest, ShardsThatOverlapOrLeaveHolesOrDisagreeAreRefused) {
  const TestArray whole = make_array("w", DType::kFloat32, {8, 8});
  const auto overlap = new_disk(), hole = new_disk();
  const Status a = save_shards(overlap, whole, {{{{0, 0}, {5, 8}}}, {{{4, 0}, {4, 8}}}});
  EXPECT_FALSE(a.ok());
  EXPECT_NE(a.message().find("'w'"), std::string::npos) << a.message();
  const Status b = save_shards(hole, whole, {{{{0, 0}, {4, 8}}}, {{{5, 0}, {3, 8}}}});
  EXPECT_FALSE(b.ok());
  EXPECT_NE(b.message().find("'w'"), std::string::npos) << b.message();
  for (const auto& disk : {overlap, hole})
    for (const std::string& name : disk->names())
      EXPECT_TRUE(name.starts_with("p0") || name.starts_with("intent")) << name;

  const auto disk = new_disk();
  std::vector<FileReport> reports;
  std::vector<std::unique_ptr<Writer>> writers;
  for (std::uint32_t p = 0; p < 2; ++p) {
    auto writer = create_writer(on(disk)(), fixed_id({.process_index = p, .process_count = 2}));
    ASSERT_TRUE(writer.ok());
    const TestArray part = make_array("w", p ? DType::kInt32 : DType::kFloat32, {4});
    ArraySource source = part.source();
    source.global_shape = {8};
    source.offset = {p * 4};
    ASSERT_TRUE((*writer)->add(source).ok());
    reports.push_back(*(*writer)->finish());
    writers.push_back(writer.take());
  }
  DiskStorage storage(disk);
  EXPECT_EQ(commit_on(storage, reports, {}).status().code(), Code::kMismatch);
  EXPECT_EQ(commit_on(storage, {reports[0]}, {}).status().code(), Code::kCoordination);
  EXPECT_EQ(commit_on(storage, {reports[0], reports[0]}, {}).status().code(), Code::kCoordination);
  EXPECT_EQ(commit_on(storage, {}, {}).status().code(), Code::kInvalidArgument);
  DiskStorage elsewhere(new_disk());
  EXPECT_EQ(commit_on(elsewhere, reports, {}).status().code(), Code::kCoordination);
  FileReport lie = reports[1];
  lie.footer_crc ^= 1;
  EXPECT_EQ(commit_on(storage, {reports[0], lie}, {}).status().code(), Code::kCorruption);
  writers[1]->abort();
  writers[0]->abort();  // it made the directory
  EXPECT_TRUE(disk->names().empty());
  EXPECT_FALSE(disk->exists());
}

// --- Committing -------------------------------------------------------------------------------------------------

TEST(EngineCommitTest, AnExistingCheckpointIsKeptUnlessOverwritten) {
  const auto disk = new_disk();
  const std::vector<TestArray> first = {make_array("a", DType::kInt32, {100}, 1)},
                               second = {make_array("a", DType::kInt32, {100}, 2)};
  ASSERT_TRUE(save_on(on(disk), first).ok());
  const auto before = disk->files();
  EXPECT_EQ(save_on(on(disk), second).code(), Code::kExists);
  EXPECT_EQ(disk->files(), before);
  ASSERT_TRUE(save_on(on(disk), second, {.overwrite = true}).ok());
  EXPECT_EQ(differences(on(disk)(), second), "");
  EXPECT_EQ(disk->names().size(), 3u);
  EXPECT_EQ(damage(disk), "");
}

TEST(EngineCommitTest, TheSecondOfTwoConcurrentSavesIsRefusedAndLeavesNothing) {
  const auto disk = new_disk();
  const TestArray a = make_array("a", DType::kInt32, {100}, 1), b = make_array("a", DType::kInt32, {100}, 2);
  auto one = create_writer(on(disk)(), {}), two = create_writer(on(disk)(), {});
  ASSERT_TRUE(one.ok() && two.ok());
  ASSERT_TRUE((*one)->add(a.source()).ok() && (*two)->add(b.source()).ok());
  const auto first = (*one)->finish(), second = (*two)->finish();
  DiskStorage storage(disk);
  ASSERT_TRUE(commit_on(storage, {*second}, {}).ok());
  EXPECT_EQ(commit_on(storage, {*first}, {}).status().code(), Code::kExists);
  (*one)->abort();
  EXPECT_EQ(differences(on(disk)(), {b}), "");
  EXPECT_EQ(disk->names().size(), 3u);
}

TEST(EngineCommitTest, CommittingTheSameReportsAgainDoesNotHarmTheCheckpoint) {
  for (const bool overwrite : {false, true}) {
    const auto disk = new_disk();
    const TestArray a = make_array("a", DType::kInt32, {100}, 1);
    auto writer = create_writer(on(disk)(), {});
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->add(a.source()).ok());
    const auto report = (*writer)->finish();
    DiskStorage storage(disk);
    ASSERT_TRUE(commit_on(storage, {*report}, {.overwrite = overwrite}).ok());
    const auto again = commit_on(storage, {*report}, {.overwrite = overwrite});
    EXPECT_EQ(again.status().code(), Code::kExists) << again.status().message();
    EXPECT_EQ(differences(on(disk)(), {a}), "");
    EXPECT_EQ(damage(disk), "");
    EXPECT_EQ(disk->names().size(), 3u);
  }
}

TEST(EngineCommitTest, AWriterThatReusesAnAttemptDoesNotHarmTheFirst) {
  const auto disk = new_disk();
  const TestArray a = make_array("a", DType::kInt32, {100}, 1);
  auto running = create_writer(on(disk)(), fixed_id());
  ASSERT_TRUE(running.ok());
  ASSERT_TRUE((*running)->add(a.source()).ok());
  EXPECT_FALSE(create_writer(on(disk)(), fixed_id()).ok());
  const auto report = (*running)->finish();
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(disk->names().size(), 2u);  // its intent too
  DiskStorage storage(disk);
  ASSERT_TRUE(commit_on(storage, {*report}, {}).ok());
  EXPECT_FALSE(create_writer(on(disk)(), fixed_id({.overwrite = true})).ok());
  EXPECT_EQ(differences(on(disk)(), {a}), "");
}

TEST(EngineCommitTest, MetadataAndStepAreKept) {
  const auto disk = new_disk();
  ASSERT_TRUE(save_on(on(disk), {}, {}, {.step = -7, .metadata = R"({"a":[1,null,"x"]})"}).ok());
  auto reader = open_reader(on(disk)(), {});
  ASSERT_TRUE(reader.ok());
  const auto manifest = decode_manifest((*reader)->manifest());
  EXPECT_EQ(manifest->step, -7);
  EXPECT_EQ(manifest->metadata, R"({"a":[1,null,"x"]})");
  EXPECT_FALSE(save_on(on(new_disk()), {}, {}, {.metadata = "{"}).ok());
}

TEST(EngineCommitTest, AnOpenReaderSurvivesAnOverwrite) {
  const ScratchDirectory scratch;
  const std::string path = scratch.path() + "/checkpoint";
  const auto storage = [&] { return make_posix_storage(path); };
  const std::vector<TestArray> first = {make_array("a", DType::kInt32, {1 << 20}, 1)},
                               second = {make_array("a", DType::kInt32, {1 << 20}, 2)};
  ASSERT_TRUE(save_on(storage, first).ok());
  auto reader = Reader::open(path);
  ASSERT_TRUE(reader.ok());
  ASSERT_TRUE(save_on(storage, second, {.overwrite = true}).ok());
  EXPECT_EQ(differences(**reader, first), "");
  EXPECT_EQ(differences(storage(), second), "");
}

// Whoever opens while others overwrite gets one checkpoint or another, whole.
TEST(EngineCommitTest, ReadersAndVerifiersNeverSeeAnOverwriteHalfDone) {
  const auto disk = new_disk();
  std::vector<std::vector<TestArray>> versions;
  for (std::uint32_t v = 0; v < 4; ++v) versions.push_back({make_array("a", DType::kInt32, {5000}, v)});
  ASSERT_TRUE(save_on(on(disk), versions[0]).ok());
  std::atomic<bool> stop = false;
  std::thread overwriter([&] {
    for (int i = 1; i < 300; ++i)
      EXPECT_TRUE(save_on(on(disk), versions[i % 4], {.threads = 1, .overwrite = true}).ok());
    stop = true;
  });
  int reads = 0;
  while (!stop) {
    auto reader = open_reader(on(disk)(), {.threads = 1});
    EXPECT_TRUE(reader.ok()) << reader.status().message();
    if (!reader.ok()) break;
    std::string result;
    bool good = false;
    for (const auto& version : versions) good |= (result = differences(**reader, version)).empty();
    EXPECT_TRUE(good) << result;
    EXPECT_EQ(damage(disk, false), "");
    if (::testing::Test::HasFailure()) break;
    ++reads;
  }
  overwriter.join();
  EXPECT_GT(reads, 5);
}

TEST(VerifyTest, WithoutAnIndexEveryProcessesFileIsStillChecked) {
  const auto disk = new_disk();
  const TestArray whole = make_array("w", DType::kUint8, {12, 4096});
  std::vector<std::vector<Shard>> rows;
  for (std::uint64_t row = 0; row < 12; ++row) rows.push_back({{{row, 0}, {1, 4096}}});
  ASSERT_TRUE(save_shards(disk, whole, rows).ok());
  const auto files = disk->files();
  for (const auto& [name, content] : files) {
    if (!name.starts_with("index-") && !name.starts_with("p00011-")) continue;
    auto bytes = content;
    bytes[100] ^= std::byte{1};  // in the directory of the one, in the chunk of the other
    disk->put(name, std::move(bytes));
  }
  for (const bool deep : {false, true}) {
    const std::string found = damage(disk, deep);
    EXPECT_NE(found.find("index-"), std::string::npos) << found;
    EXPECT_NE(found.find("p00011-"), std::string::npos) << found;
    EXPECT_EQ(found.find("p00010-"), std::string::npos) << found;
  }
}

// A store on which nothing is opened before so many callers want something.
class CrowdStorage final : public MemoryStorage {
 public:
  static constexpr unsigned kCrowd = 8;
  explicit CrowdStorage(const std::shared_ptr<MemoryTree>& tree) : MemoryStorage(tree, "checkpoint") {}

  StoreTraits traits() const override { return traits_; }
  Result<std::unique_ptr<ReadableFile>> open(const std::string& name) override {
    std::unique_lock lock(mutex_);
    if (++waiting_ == kCrowd) arrived_.notify_all();
    arrived_.wait_for(lock, std::chrono::seconds(20), [this] { return waiting_ >= kCrowd; });
    crowded_ |= waiting_ >= kCrowd;
    lock.unlock();
    return MemoryStorage::open(name);
  }
  bool crowded() const { return crowded_; }

 private:
  const StoreTraits traits_ = {.small_reads = kCrowd};
  std::mutex mutex_;  // guards the rest
  std::condition_variable arrived_;
  unsigned waiting_ = 0;
  bool crowded_ = false;
};

TEST(EngineCommitTest, ReadsTheFilesOfManyProcessesAtATimeAndNamesTheFirstThatIsWrong) {
  constexpr std::uint32_t kProcesses = 40;
  const auto tree = std::make_shared<MemoryTree>("run");
  const CheckpointId id = CheckpointId::random();
  std::vector<FileReport> reports;
  for (std::uint32_t p = 0; p < kProcesses; ++p) {
    auto writer = create_writer(std::make_unique<MemoryStorage>(tree, "checkpoint"),
                                {.process_index = p, .process_count = kProcesses, .attempt = id, .threads = 1});
    ASSERT_TRUE(writer.ok()) << writer.status().message();
    const TestArray a = make_array("a" + std::to_string(p), DType::kInt32, {10}, p);
    ASSERT_TRUE((*writer)->add(a.source()).ok());
    reports.push_back((*writer)->finish().take());
  }
  auto wrong = reports;
  for (const std::size_t p : {5, 17, 39}) wrong[p].footer_crc ^= 1;
  for (int i = 0; i < 10; ++i) {
    const Status status = commit_on(*std::make_unique<MemoryStorage>(tree, "checkpoint"), wrong, {}).status();
    EXPECT_NE(status.message().find(wrong[5].file_name()), std::string::npos) << status.message();
  }
  std::atomic<std::uint64_t> checked = 0;
  CrowdStorage storage(tree);
  const auto manifest = commit_on(storage, reports, {.files_checked = &checked});
  ASSERT_TRUE(manifest.ok()) << manifest.status().message();
  EXPECT_TRUE(storage.crowded());
  EXPECT_EQ(checked, kProcesses);
  EXPECT_EQ((*open_reader(std::make_unique<MemoryStorage>(tree, "checkpoint"), {}))->leaf_count(), kProcesses);
}

}  // namespace
}  // namespace ostraca
