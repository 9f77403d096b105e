// What the threads of a save must keep whatever their timing: the same bytes, the budget, the two completion points,
// cancellation, and whole checkpoints of memory that changes under them.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <set>
#include <thread>

#include "container/manifest.h"
#include "engine_helpers.h"
#include "scratch_directory.h"

namespace ostraca {
namespace {

using namespace testing;
using std::chrono::milliseconds;

std::shared_ptr<MemoryDisk> new_disk() { return std::make_shared<MemoryDisk>(); }

std::ptrdiff_t threads_of_this_process() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"), std::filesystem::directory_iterator());
}

// Threads that have been joined may be listed a moment longer.
bool soon_only(std::ptrdiff_t threads) {
  for (int i = 0; i < 500 && threads_of_this_process() > threads; ++i) std::this_thread::sleep_for(milliseconds(2));
  return threads_of_this_process() <= threads;
}

std::vector<TestArray> mixed_state() {
  std::vector<TestArray> arrays = {
      make_array("noise", DType::kUint8, {9'000'001}, 1),
      make_array("weights", DType::kFloat32, {1500, 2100}, 2, Layout::kC, Fill::kGaussian),
      make_array("columns", DType::kFloat32, {900, 1700}, 3, Layout::kFortran, Fill::kGaussian),
      make_array("text", DType::kInt64, {800'000}, 4, Layout::kC, Fill::kRepetitive),
      make_array("zero", DType::kFloat64, {1 << 20}, 5, Layout::kC, Fill::kZero),
      make_array("zero again", DType::kFloat64, {1 << 20}, 6, Layout::kC, Fill::kZero)};
  TestArray copy = arrays[0];
  copy.name = "noise again";
  arrays.push_back(copy);
  for (int i = 0; i < 300; ++i)
    arrays.push_back(make_array("s" + std::to_string(i), i % 3 ? DType::kFloat32 : DType::kUint16, {i + 1u}, i));
  return arrays;
}

// The files, but for the manifest, which holds times.
std::map<std::string, MemoryDisk::Content> contents(const MemoryDisk& disk) {
  auto files = disk.files();
  files.erase("manifest.json");
  return files;
}

TEST(EnginePipelineTest, TheFilesDependOnTheDataAlone) {
  const std::vector<TestArray> arrays = mixed_state();
  std::map<std::string, MemoryDisk::Content> expected;
  std::mt19937 random(1);
  for (const unsigned threads : {1u, 2u, 5u})
    for (const std::size_t coding_bytes : {std::size_t{1}, std::size_t{0}})
      for (const std::optional<std::size_t> staging : {std::optional<std::size_t>{}, {17 * kMiB}}) {
        const auto disk = new_disk();
        const unsigned delay = threads > 1 ? random() % 4 : 0;
        disk->set_before_write([=] { std::this_thread::sleep_for(milliseconds(delay)); });
        WriterOptions options = fixed_id({.threads = threads, .coding_bytes = coding_bytes, .staging_bytes = staging});
        ASSERT_TRUE(save_on(on(disk), arrays, options).ok());
        if (expected.empty()) {
          expected = contents(*disk);
          EXPECT_EQ(expected.size(), 2u);
          EXPECT_EQ(damage(disk), "");
          EXPECT_EQ(differences(on(disk)(), arrays, true), "");
        }
        EXPECT_TRUE(contents(*disk) == expected) << threads << " threads, coding_bytes " << coding_bytes;
      }
}

TEST(EnginePipelineTest, IdenticalChunksAreStoredOnceAcrossBatches) {
  // 12 MiB periods of noise: chunks repeat in later batches and within one.
  TestArray a = make_array("a", DType::kUint8, {12 << 20}, 1);
  TestArray b = make_array("b", DType::kUint8, {36 << 20}, 2);
  for (std::size_t i = 0; i < b.memory.size(); ++i) b.memory[i] = a.memory[i % (12 << 20)];
  b.expected.assign(b.memory.begin(), b.memory.begin() + (36 << 20));
  for (const unsigned threads : {1u, 4u}) {
    const auto disk = new_disk();
    ASSERT_TRUE(save_on(on(disk), {a, b}, {.threads = threads}).ok());
    auto reader = open_reader(on(disk)(), {});
    ASSERT_TRUE(reader.ok());
    EXPECT_EQ(differences(**reader, {a, b}), "");
    EXPECT_EQ((*reader)->statistics().chunks_read, 3u);
    EXPECT_EQ(decode_manifest((*reader)->manifest())->chunks, 3u);
    EXPECT_LT(decode_manifest((*reader)->manifest())->stored_bytes, 13 * kMiB);
    EXPECT_EQ(damage(disk), "");
  }
}

TEST(EnginePipelineTest, TheTailsPlaceDependsOnTheDataAlone) {
  // All but the first block bring nothing new: whether the tail joins it must not depend on when it was placed.
  TestArray a = make_array("a", DType::kUint8, {4 << 20}, 1);
  TestArray b = make_array("b", DType::kUint8, {48 << 20}, 2);
  for (std::size_t i = 0; i < b.memory.size(); ++i) b.memory[i] = a.memory[i % (4 << 20)];
  b.expected.assign(b.memory.begin(), b.memory.begin() + (48 << 20));
  std::map<std::string, MemoryDisk::Content> expected;
  for (const unsigned threads : {1u, 2u, 4u})
    for (const std::size_t coding_bytes : {std::size_t{1}, std::size_t{0}}) {
      const auto disk = new_disk();
      ASSERT_TRUE(save_on(on(disk), {a, b}, fixed_id({.threads = threads, .coding_bytes = coding_bytes})).ok());
      if (expected.empty()) expected = contents(*disk);
      EXPECT_TRUE(contents(*disk) == expected) << threads << " threads, coding_bytes " << coding_bytes;
      EXPECT_EQ(differences(on(disk)(), {a, b}, true), "");
      EXPECT_EQ(damage(disk), "");
    }
}

TEST(EnginePipelineTest, IdenticalChunksAreStoredOnceWithinABatch) {
  // Both are coded before either is placed; what follows the second one moves up.
  constexpr std::uint64_t kRows = 200, kWidth = 70'000;
  TestArray a = make_array("a", DType::kUint8, {kRows, kWidth}, 1);
  std::mt19937 random(1);
  std::set<unsigned> kinds;
  for (std::uint64_t row = 0; row < kRows; ++row) {
    const unsigned kind = row < 4 ? static_cast<unsigned>(row / 2) : random() % 40;
    kinds.insert(kind);
    const auto bytes = content(kWidth, kind % 2 ? Fill::kNoise : Fill::kRepetitive, kind);
    std::copy(bytes.begin(), bytes.end(), a.memory.begin() + static_cast<std::ptrdiff_t>(row * kWidth));
  }
  a.expected.assign(a.memory.begin(), a.memory.begin() + kRows * kWidth);
  for (const unsigned threads : {1u, 4u}) {
    const auto disk = new_disk();
    ASSERT_TRUE(save_on(on(disk), {a}, {.threads = threads, .chunk_shape = {1, kWidth}}).ok());
    auto reader = open_reader(on(disk)(), {});
    ASSERT_TRUE(reader.ok());
    EXPECT_EQ(differences(**reader, {a}), "");
    EXPECT_LE(decode_manifest((*reader)->manifest())->chunks, kinds.size());
    EXPECT_EQ(damage(disk), "");
  }
}

TEST(EnginePipelineTest, TinyBudgetsHoldArraysLargerThanThem) {
  const std::vector<TestArray> arrays = mixed_state();
  for (const unsigned threads : {1u, 5u}) {
    const auto disk = new_disk();
    ASSERT_TRUE(save_on(on(disk), arrays, {.threads = threads, .coding_bytes = 1, .staging_bytes = 1}).ok());
    for (const bool cached : {true, false}) {
      disk->set_cached(cached);
      EXPECT_EQ(differences(on(disk)(), arrays, false, {.threads = threads, .coding_bytes = 1}), "");
    }
  }
}

TEST(EnginePipelineTest, ManyLoadsShareOneTinyBudget) {
  const std::vector<TestArray> arrays = mixed_state();
  const auto disk = new_disk();
  ASSERT_TRUE(save_on(on(disk), arrays).ok());
  for (const bool cached : {true, false}) {
    disk->set_cached(cached);
    auto reader = open_reader(on(disk)(), {.threads = 3, .coding_bytes = 1});
    ASSERT_TRUE(reader.ok());
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        EXPECT_EQ(differences(**reader, arrays), "");
        for (std::uint64_t i = 7; i < 40; ++i)
          EXPECT_EQ(*read_box(**reader, i, {0}, arrays[i].shape), arrays[i].expected);
      });
    for (auto& thread : threads) thread.join();
  }
}

// --- The two completion points ----------------------------------------------------------------------------------

TEST(EngineStagingTest, MemoryMayChangeOnceCopied) {
  const std::vector<TestArray> originals = mixed_state();
  for (const std::optional<std::size_t> staging :
       {std::optional<std::size_t>{}, {0}, {1}, {8 * kMiB}, {24 * kMiB}, {kGiB}}) {
    for (const bool overwrite_at_once : {true, false}) {
      if (kUnderTsan && overwrite_at_once == staging.has_value()) continue;
      std::vector<TestArray> arrays = originals;
      const auto disk = new_disk();
      disk->set_before_write([] { std::this_thread::sleep_for(milliseconds(3)); });
      auto writer = create_writer(on(disk)(), {.threads = 3, .staging_bytes = staging});
      ASSERT_TRUE(writer.ok());
      std::vector<std::atomic<int>> copied(arrays.size());
      for (std::size_t i = 0; i < arrays.size(); ++i) {
        TestArray& a = arrays[i];
        auto callback = [&a, &count = copied[i], overwrite_at_once] {
          ++count;
          if (overwrite_at_once) std::fill(a.memory.begin(), a.memory.end(), std::byte{0xdd});
        };
        ASSERT_TRUE((*writer)->add(a.source(callback)).ok());
      }
      (*writer)->seal();
      const auto all = (*writer)->wait_copied({});
      ASSERT_TRUE(all.ok() && *all);
      EXPECT_TRUE((*writer)->copied());
      if (!overwrite_at_once)
        for (TestArray& a : arrays) std::fill(a.memory.begin(), a.memory.end(), std::byte{0xdd});
      const auto report = (*writer)->finish();
      ASSERT_TRUE(report.ok());
      for (std::size_t i = 0; i < arrays.size(); ++i) EXPECT_EQ(copied[i], 1) << arrays[i].name;
      DiskStorage storage(disk);
      ASSERT_TRUE(commit_on(storage, {*report}, {}).ok());
      EXPECT_EQ(differences(on(disk)(), originals, true), "");
    }
  }
}

TEST(EngineStagingTest, WithARoomyStageCopyingDoesNotWaitForTheDisk) {
  TestArray a = make_array("a", DType::kUint8, {48 << 20}, 1);
  std::atomic<bool> blocked = true;
  const auto disk = new_disk();
  disk->set_before_write([&] {
    while (blocked) std::this_thread::sleep_for(milliseconds(1));
  });
  auto writer = create_writer(on(disk)(), {.threads = 2, .coding_bytes = 1, .staging_bytes = 64 * kMiB});
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->add(a.source()).ok());
  (*writer)->seal();
  const auto copied = (*writer)->wait_copied(std::chrono::seconds(20));
  EXPECT_TRUE(copied.ok() && *copied);
  blocked = false;
  EXPECT_TRUE((*writer)->finish().ok());

  // Without room it does wait, and says so.
  blocked = true;
  const auto other = new_disk();
  other->set_before_write([&] {
    while (blocked) std::this_thread::sleep_for(milliseconds(1));
  });
  auto narrow = create_writer(on(other)(), {.threads = 2, .coding_bytes = 1, .staging_bytes = 8 * kMiB});
  ASSERT_TRUE((*narrow)->add(a.source()).ok());
  (*narrow)->seal();
  const auto waited = (*narrow)->wait_copied(milliseconds(100));
  EXPECT_TRUE(waited.ok() && !*waited);
  EXPECT_FALSE((*narrow)->copied());
  blocked = false;
  EXPECT_TRUE((*narrow)->finish().ok());
  EXPECT_TRUE((*narrow)->copied());
}

TEST(EngineStagingTest, ImmutableMemoryIsReadInPlace) {
  std::vector<TestArray> arrays = mixed_state();
  for (TestArray& a : arrays) a.immutable = true;
  const auto disk = new_disk(), same = new_disk();
  ASSERT_TRUE(save_on(on(disk), arrays, fixed_id({.threads = 2, .staging_bytes = 16 * kMiB})).ok());
  EXPECT_EQ(differences(on(disk)(), arrays, true), "");
  for (TestArray& a : arrays) a.immutable = false;
  ASSERT_TRUE(save_on(on(same), arrays, fixed_id()).ok());
  EXPECT_TRUE(contents(*disk) == contents(*same));
}

TEST(EngineStagingTest, AFailureEndsTheWaitForCopies) {
  const TestArray a = make_array("a", DType::kUint8, {64 << 20}, 1);
  for (const bool abort_elsewhere : {false, true}) {
    const auto disk = new_disk();
    std::atomic<bool> blocked = true;
    disk->set_before_write([&] {
      while (blocked) std::this_thread::sleep_for(milliseconds(1));
    });
    auto writer = create_writer(on(disk)(), {.threads = 2, .coding_bytes = 1, .staging_bytes = 0});
    ASSERT_TRUE((*writer)->add(a.source()).ok());
    (*writer)->seal();
    std::thread other([&] {
      std::this_thread::sleep_for(milliseconds(20));
      (*writer)->cancel();
      blocked = false;
      if (abort_elsewhere) (*writer)->abort();
    });
    const auto copied = (*writer)->wait_copied({});
    EXPECT_EQ(copied.status().code(), Code::kCancelled);
    (void)(*writer)->bytes_done();
    EXPECT_EQ((*writer)->finish().status().code(), Code::kCancelled);
    other.join();
    (*writer)->abort();
    EXPECT_EQ((*writer)->wait_copied({}).status().code(), Code::kCancelled);
    EXPECT_EQ((*writer)->finish().status().code(), Code::kCancelled);
    EXPECT_FALSE((*writer)->add(a.source()).ok());
    EXPECT_FALSE(disk->exists());
  }
}

// --- Cancelling and progress ------------------------------------------------------------------------------------

TEST(EngineCancelTest, CancellingAtAnyMomentLeavesNoThreadsAndNoFiles) {
  const std::vector<TestArray> arrays = mixed_state();
  const std::ptrdiff_t threads = threads_of_this_process();
  std::mt19937 random(5);
  int cancelled = 0;
  for (int i = 0; i < (kUnderTsan ? 20 : 60); ++i) {
    const auto disk = new_disk();
    auto writer = create_writer(
        on(disk)(),
        {.threads = 1 + i % 3u, .staging_bytes = i % 2 ? std::optional<std::size_t>(20 * kMiB) : std::nullopt});
    ASSERT_TRUE(writer.ok());
    const auto when = std::chrono::microseconds(random() % 60'000);
    std::thread canceller([&] {
      std::this_thread::sleep_for(when);
      (*writer)->cancel();
    });
    Status status;
    for (const TestArray& a : arrays)
      if (status = (*writer)->add(a.source()); !status.ok()) break;
    if (i % 5 == 4) {  // dropped in the middle
      canceller.join();
      writer->reset();
    } else {
      const auto report = (*writer)->finish();
      canceller.join();
      EXPECT_TRUE(report.ok() || report.status().code() == Code::kCancelled) << report.status().message();
      cancelled += !report.ok();
      (*writer)->abort();
    }
    EXPECT_TRUE(disk->names().empty()) << disk->names().front();
    EXPECT_FALSE(disk->exists());
    EXPECT_TRUE(soon_only(threads));
  }
  EXPECT_GT(cancelled, 2);
}

TEST(EngineCancelTest, APollThatReturnsFalseCancels) {
  const std::vector<TestArray> arrays = mixed_state();
  const auto disk = new_disk();
  disk->set_before_write([] { std::this_thread::sleep_for(milliseconds(60)); });
  auto writer = create_writer(on(disk)(), {.threads = 1, .coding_bytes = 1});
  for (const TestArray& a : arrays) ASSERT_TRUE((*writer)->add(a.source()).ok());
  EXPECT_EQ((*writer)->finish([](auto, auto) { return false; }).status().code(), Code::kCancelled);
  (*writer)->abort();
  EXPECT_FALSE(disk->exists());

  ASSERT_TRUE(save_on(on(disk), arrays).ok());
  auto reader = open_reader(on(disk)(), {.threads = 2});
  std::vector<std::byte> out(arrays[1].expected.size());
  const ReadRequest request{.leaf = 1, .shape = arrays[1].shape, .data = out.data()};
  EXPECT_EQ((*reader)->read_into({&request, 1}, false, [](auto, auto) { return false; }).code(), Code::kCancelled);
  EXPECT_EQ(verify_on(*on(disk)(), true, 1, [](auto, auto) { return false; }).status().code(), Code::kCancelled);
  EXPECT_EQ(differences(**reader, arrays), "");  // the reader is none the worse
}

TEST(EngineProgressTest, GrowsUpToTheTotal) {
  const std::vector<TestArray> arrays = mixed_state();
  std::uint64_t total = 0;
  for (const TestArray& a : arrays) total += a.expected.size();
  std::uint64_t last = 0;
  const auto growing = [&](std::uint64_t expected_total) {
    last = 0;
    return [&, expected_total](std::uint64_t done, std::uint64_t of) {
      EXPECT_GE(done, last);
      EXPECT_LE(done, of);
      EXPECT_TRUE(expected_total == 0 || of == expected_total);
      last = done;
      return true;
    };
  };
  const auto disk = new_disk();
  disk->set_before_write([] { std::this_thread::sleep_for(milliseconds(10)); });
  auto writer = create_writer(on(disk)(), {.threads = 2});
  for (const TestArray& a : arrays) ASSERT_TRUE((*writer)->add(a.source()).ok());
  EXPECT_EQ((*writer)->bytes_total(), total);
  const auto report = (*writer)->finish(growing(total));
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(last, total);
  EXPECT_EQ((*writer)->bytes_done(), total);
  DiskStorage storage(disk);
  ASSERT_TRUE(commit_on(storage, {*report}, {}).ok());

  auto reader = open_reader(on(disk)(), {.threads = 2});
  std::vector<std::byte> out(arrays[1].expected.size());
  const ReadRequest request{.leaf = 1, .shape = arrays[1].shape, .data = out.data()};
  ASSERT_TRUE((*reader)->read_into({&request, 1}, false, growing(0)).ok());
  EXPECT_GT(last, out.size() / 2);
  ASSERT_TRUE(verify_on(storage, true, 2, growing(0)).ok());
  EXPECT_GE(last, report->file_bytes * 9 / 10);
}

// --- Memory that changes ----------------------------------------------------------------------------------------

TEST(EngineMutationTest, AnArrayThatChangesDuringASaveYieldsAWholeCheckpoint) {
  if (kUnderTsan) GTEST_SKIP() << "the race is the point";
  std::vector<TestArray> arrays = {make_array("a", DType::kFloat32, {3 << 20}, 1, Layout::kC, Fill::kGaussian),
                                   make_array("b", DType::kFloat32, {1000, 1000}, 2, Layout::kFortran, Fill::kGaussian),
                                   make_array("c", DType::kInt16, {100}, 3)};
  for (int round = 0; round < 6; ++round) {
    std::atomic<bool> stop = false;
    std::thread mutator([&] {
      std::mt19937_64 random(1);
      while (!stop)
        for (TestArray& a : arrays) {
          volatile std::byte* p = a.memory.data();
          for (int i = 0; i < 20'000; ++i) p[random() % a.memory.size()] = static_cast<std::byte>(i);
        }
    });
    const auto disk = new_disk();
    const Status saved = save_on(on(disk), arrays,
                                 {.codec = static_cast<CodecPolicy>(round % 3),
                                  .threads = 2,
                                  .staging_bytes = round > 2 ? std::optional<std::size_t>(kGiB) : std::nullopt});
    stop = true;
    mutator.join();
    ASSERT_TRUE(saved.ok()) << saved.message();
    EXPECT_EQ(damage(disk), "");
    auto reader = open_reader(on(disk)(), {});
    ASSERT_TRUE(reader.ok());
    for (std::uint64_t i = 0; i < arrays.size(); ++i)
      EXPECT_TRUE(
          read_box(**reader, i, Dims(arrays[i].shape.size(), 0), arrays[i].shape, Layout::kC, false, true).ok());
  }
}

// --- The real file system ---------------------------------------------------------------------------------------

TEST(EnginePosixTest, EveryIoModeWritesTheSameFiles) {
  const std::vector<TestArray> arrays = mixed_state();
  const ScratchDirectory scratch;
  std::map<std::string, std::string> expected;
  for (const IoMode io : {IoMode::kAuto, IoMode::kDirect, IoMode::kBuffered}) {
    const std::string path = scratch.path() + "/deep/er/" + std::to_string(static_cast<int>(io));
    const auto storage = [&] { return make_posix_storage(path); };
    ASSERT_TRUE(save_on(storage, arrays, fixed_id({.io = io, .threads = 3})).ok());
    std::map<std::string, std::string> files;
    const std::vector<std::string> names = storage()->list().take();
    for (const std::string& name : names)
      if (name != "manifest.json") files[name] = *storage()->read_small(name, kGiB);
    if (expected.empty()) expected = files;
    EXPECT_TRUE(files == expected) << static_cast<int>(io);
    EXPECT_EQ(files.size(), 2u);
    EXPECT_EQ(damage(*storage()), "");
    for (const IoMode read : {IoMode::kAuto, IoMode::kDirect, IoMode::kBuffered})
      EXPECT_EQ(differences(storage(), arrays, true, {.io = read}), "");
  }
}

}  // namespace
}  // namespace ostraca
