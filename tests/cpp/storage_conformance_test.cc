// What every storage does, whatever it is made of: one suite for POSIX on a disk and on tmpfs, memory, and objects.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#include "base/buffer.h"
#include "base/limits.h"
#include "scratch_directory.h"
#include "storage/memory/memory.h"
#include "storage/objects/objects.h"
#include "storage/storage.h"
#include "storage_helpers.h"

namespace ostraca {
namespace {

using testing::pattern;
using testing::publication;
using testing::read_text;
using testing::ScratchDirectory;
using testing::write_text;

constexpr int kThreads = 8;

// A store that holds a run, for as long as this lives.
struct Store {
  std::unique_ptr<Run> run;
  std::shared_ptr<void> owner;
};

Store posix_under(const char* directory) {
  const auto scratch = std::make_shared<ScratchDirectory>(directory);
  return {make_posix_run(scratch->path() + "/run"), scratch};
}

struct Kind {
  const char* name;
  std::function<Store()> make;
  bool has_directories = true;  // which are there or not, whatever is in them
  bool has_leases = true;       // that keep others away
};

class StorageConformanceTest : public ::testing::TestWithParam<Kind> {
 protected:
  StorageConformanceTest() : store_(GetParam().make()), storage_(store_.run->checkpoint("0001")) {
    EXPECT_TRUE(storage_->create_directory().ok());
  }

  void write(const std::string& name, const std::string& text) { write_text(*storage_, name, text); }
  std::string read(const std::string& name) { return read_text(*storage_, name); }
  static std::vector<std::string> names_of(const Run::Child& child) {
    std::vector<std::string> names;
    for (const ScannedFile& file : child.files) names.push_back(file.name);
    return names;
  }
  std::string version(const std::string& name) { return storage_->read_document(name, kMiB)->version; }

  const Store store_;
  const std::unique_ptr<Storage> storage_;
};

INSTANTIATE_TEST_SUITE_P(
    Stores, StorageConformanceTest,
    ::testing::Values(Kind{"disk", [] { return posix_under("/tmp"); }},
                      Kind{"tmpfs", [] { return posix_under("/dev/shm"); }},
                      Kind{"memory", [] { return Store{make_memory_run(std::make_shared<MemoryTree>("run")), {}}; }},
                      Kind{"objects", [] { return Store{make_object_run(make_memory_client(), "bucket/run"), {}}; },
                           false, false}),
    [](const auto& info) { return std::string(info.param.name); });

// --- Files ------------------------------------------------------------------------------------------------------

TEST_P(StorageConformanceTest, AFileIsWrittenByManyThreadsAndReadInEveryWay) {
  auto file = storage_->create("file", IoMode::kAuto);
  ASSERT_TRUE(file.ok()) << file.status().message();
  const std::size_t alignment = (*file)->alignment();
  ASSERT_GE(alignment, kAlignmentMin);
  ASSERT_LE(alignment, kAlignmentMax);
  const std::size_t block = 4 * alignment, blocks = 2 * kThreads;
  (*file)->reserve(blocks * block);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      AlignedBuffer buffer = AlignedBuffer::allocate(block).take();
      for (std::size_t i = static_cast<std::size_t>(t); i < blocks; i += kThreads) {
        pattern(i * block, buffer.bytes());
        EXPECT_TRUE((*file)->write_at(i * block, buffer.bytes()).ok());
      }
    });
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE((*file)->sync_and_close().ok());

  auto in = storage_->open("file");
  ASSERT_TRUE(in.ok()) << in.status().message();
  ASSERT_EQ((*in)->size(), blocks * block);
  std::vector<std::byte> expected(blocks * block);
  pattern(0, expected);
  AlignedBuffer found = AlignedBuffer::allocate(blocks * block).take();
  ASSERT_TRUE((*in)->read_direct(0, found.bytes()).ok());
  EXPECT_TRUE(std::ranges::equal(found.bytes(), expected));
  std::ranges::fill(found.bytes(), std::byte{});
  ASSERT_TRUE((*in)->read_at(7, found.bytes().first(1001)).ok());
  EXPECT_TRUE(std::ranges::equal(found.bytes().first(1001), Bytes(expected).subspan(7, 1001)));
  const std::size_t cached = (*in)->read_cached(0, found.bytes());
  EXPECT_LE(cached, expected.size());
  EXPECT_TRUE(std::ranges::equal(found.bytes().first(cached), Bytes(expected).first(cached)));
}

TEST_P(StorageConformanceTest, AReadPastTheEndIsCorruption) {
  write("file", std::string(5000, 'x'));
  auto file = storage_->open("file").take();
  AlignedBuffer buffer = AlignedBuffer::allocate(16 * kKiB).take();
  EXPECT_EQ(file->read_at(4000, buffer.bytes().first(2000)).code(), Code::kCorruption);
  EXPECT_EQ(file->read_at(~std::uint64_t{0} - 5, buffer.bytes().first(10)).code(), Code::kCorruption);
  EXPECT_EQ(file->read_cached(4000, buffer.bytes().first(2000)), 0u);
  EXPECT_TRUE(file->read_at(5000, {}).ok());
  // The last direct request may reach past the end, but must begin before it.
  ASSERT_TRUE(file->read_direct(0, buffer.bytes()).ok());
  EXPECT_EQ(as_text(buffer.bytes().first(5000)), std::string(5000, 'x'));
  EXPECT_EQ(file->read_direct(8 * kKiB, buffer.bytes().first(4 * kKiB)).code(), Code::kCorruption);
}

TEST_P(StorageConformanceTest, UnalignedRequestsAreRefused) {
  auto file = storage_->create("file", IoMode::kBuffered).take();
  AlignedBuffer buffer = AlignedBuffer::allocate(2 * kAlignmentMax).take();
  const std::size_t alignment = file->alignment();
  EXPECT_EQ(file->write_at(1, buffer.bytes().first(alignment)).code(), Code::kInvalidArgument);
  EXPECT_EQ(file->write_at(0, buffer.bytes().first(alignment - 1)).code(), Code::kInvalidArgument);
  EXPECT_EQ(file->write_at(0, buffer.bytes().subspan(1, alignment)).code(), Code::kInvalidArgument);
  EXPECT_TRUE(file->sync_and_close().ok());
  EXPECT_EQ(file->write_at(0, buffer.bytes().first(alignment)).code(), Code::kInvalidArgument);
  EXPECT_EQ(file->sync_and_close().code(), Code::kInvalidArgument);
}

TEST_P(StorageConformanceTest, AnExistingFileIsNeverOpenedForWriting) {
  write("file", "old");
  EXPECT_EQ(storage_->create("file", IoMode::kAuto).status().code(), Code::kExists);
  EXPECT_EQ(storage_->write_small("file", as_bytes("new")).code(), Code::kExists);
  EXPECT_EQ(read("file"), "old");
}

TEST_P(StorageConformanceTest, SmallFiles) {
  write("empty", "");
  EXPECT_EQ(read("empty"), "");
  write("file", "12345");
  EXPECT_EQ(storage_->read_small("file", 4).status().code(), Code::kFormat);
  EXPECT_EQ(*storage_->read_small("file", 5), "12345");
  EXPECT_EQ(storage_->read_small("absent", 5).status().code(), Code::kNotFound);
  EXPECT_EQ(storage_->open("absent").status().code(), Code::kNotFound);
}

TEST_P(StorageConformanceTest, WhatIsTouchedIsDatedNowAndWhatIsAbsentStaysAbsent) {
  write("intent", "a save");
  const auto changed_ns = [&] { return store_.run->scan({}).take().at(0).files.at(0).changed_ns; };
  for (int i = 0; i < 2; ++i) {
    const std::int64_t before = changed_ns();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // file systems' clocks tick
    ASSERT_TRUE(storage_->touch("intent").ok());
    EXPECT_GT(changed_ns(), before);
  }
  EXPECT_EQ(read("intent"), "a save");
  EXPECT_EQ(storage_->touch("gone").code(), Code::kNotFound);
  EXPECT_EQ(storage_->open("gone").status().code(), Code::kNotFound);
  EXPECT_EQ(storage_->touch("../intent").code(), Code::kInvalidArgument);
}

TEST_P(StorageConformanceTest, NamesAreOneComponent) {
  const std::vector<std::string> bad = {
      "", ".", "..", "a/b", "/a", "../a", std::string("a\0b", 3), std::string(kNameBytesMax + 1, 'x')};
  for (const std::string& name : bad) {
    EXPECT_EQ(storage_->create(name, IoMode::kAuto).status().code(), Code::kInvalidArgument) << name;
    EXPECT_EQ(storage_->open(name).status().code(), Code::kInvalidArgument) << name;
    EXPECT_EQ(storage_->read_document(name, 1).status().code(), Code::kInvalidArgument) << name;
    EXPECT_EQ(storage_->write_small(name, {}).code(), Code::kInvalidArgument) << name;
    EXPECT_EQ(storage_->remove(name).code(), Code::kInvalidArgument) << name;
    EXPECT_EQ(storage_->publish(publication(name, "a")).code(), Code::kInvalidArgument) << name;
    EXPECT_EQ(storage_->lease(name).status().code(), Code::kInvalidArgument) << name;
    EXPECT_EQ(storage_->lease_replacing(name).status().code(), Code::kInvalidArgument) << name;
    EXPECT_EQ(storage_->lease_exclusive(name).status().code(), Code::kInvalidArgument) << name;
    EXPECT_EQ(storage_->lease_removing(name).status().code(), Code::kInvalidArgument) << name;
    EXPECT_EQ(storage_->retire(name, "1", "b").code(), Code::kInvalidArgument) << name;
    EXPECT_EQ(storage_->retire("a", "1", name).code(), Code::kInvalidArgument) << name;
    EXPECT_EQ(storage_->restore("a", name).code(), Code::kInvalidArgument) << name;
  }
}

TEST_P(StorageConformanceTest, RemovingWhatIsAbsentIsOk) {
  write("file", "");
  EXPECT_TRUE(storage_->remove("file").ok());
  EXPECT_TRUE(storage_->remove("file").ok());
  EXPECT_TRUE(store_.run->checkpoint("absent")->remove("file").ok());
}

// --- Publishing -------------------------------------------------------------------------------------------------

TEST_P(StorageConformanceTest, WhatIsExpectedDecides) {
  ASSERT_TRUE(storage_->publish(publication("m.json", "one")).ok());
  const std::string first = version("m.json");
  EXPECT_EQ(storage_->open("m.json").take()->version(), first);
  EXPECT_EQ(storage_->publish(publication("m.json", "two")).code(), Code::kExists);
  EXPECT_EQ(storage_->publish(publication("other", "two", Expected::version(first))).code(), Code::kExists);
  EXPECT_EQ(read("m.json"), "one");
  ASSERT_TRUE(storage_->publish(publication("m.json", "two", Expected::version(first))).ok());
  EXPECT_EQ(read("m.json"), "two");
  EXPECT_NE(version("m.json"), first);
  EXPECT_EQ(storage_->publish(publication("m.json", "three", Expected::version(first))).code(), Code::kExists);
  EXPECT_EQ(read("m.json"), "two");
  ASSERT_TRUE(storage_->publish(publication("m.json", "three", Expected::any())).ok());
  EXPECT_EQ(read("m.json"), "three");
  EXPECT_EQ(*storage_->list(), std::vector<std::string>{"m.json"});
}

TEST_P(StorageConformanceTest, WhatIsReplacedIsRetired) {
  ASSERT_TRUE(storage_->publish(publication("m.json", "one")).ok());
  const auto publish = [&](const std::string& text, const std::string& retired) {
    return storage_->publish(publication("m.json", text, Expected::version(version("m.json")), retired));
  };
  ASSERT_TRUE(publish("two", "tombstone").ok());
  EXPECT_EQ(read("tombstone"), "one");
  ASSERT_TRUE(publish("three", "tombstone").ok());  // one that is there stays as it is
  EXPECT_EQ(read("tombstone"), "one");
  EXPECT_EQ(read("m.json"), "three");
  EXPECT_EQ(storage_->publish(publication("m.json", "x", Expected::version("never"), "other")).code(), Code::kExists);
  EXPECT_EQ(*storage_->list(), (std::vector<std::string>{"m.json", "tombstone"}));
}

TEST_P(StorageConformanceTest, NothingIsPublishedWhereThereIsNoDirectory) {
  if (!GetParam().has_directories) GTEST_SKIP() << "prefixes are always there";
  EXPECT_FALSE(store_.run->checkpoint("absent")->publish(publication("m.json", "one")).ok());
  EXPECT_FALSE(store_.run->checkpoint("absent")->create("file", IoMode::kAuto).ok());
  EXPECT_EQ(store_.run->checkpoint("absent")->list().status().code(), Code::kNotFound);
  EXPECT_EQ(store_.run->checkpoint("absent")->name().status().code(), Code::kNotFound);
}

TEST_P(StorageConformanceTest, OfManyPublishersOneSucceeds) {
  std::atomic<int> winner{-1}, winners{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i)
    threads.emplace_back([&, i] {
      const std::string text = std::to_string(i);
      const Status status = store_.run->checkpoint("0001")->publish(publication("m.json", text));
      if (status.ok()) {
        winner = i;
        ++winners;
      } else {
        EXPECT_EQ(status.code(), Code::kExists) << status.message();
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(winners, 1);
  EXPECT_EQ(read("m.json"), std::to_string(winner));
  EXPECT_EQ(*storage_->list(), std::vector<std::string>{"m.json"});
}

// Everybody adds one to a number, many times: none is lost where versions are compared under the lease, or by the
// store.
TEST_P(StorageConformanceTest, ReplacersLoseNothing) {
  constexpr int kTimes = 20;
  ASSERT_TRUE(storage_->publish(publication("number", "0")).ok());
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&] {
      const auto storage = store_.run->checkpoint("0001");
      for (int done = 0; done < kTimes;) {
        const auto lease = storage->lease_replacing("number");
        ASSERT_TRUE(lease.ok()) << lease.status().message();
        const auto before = storage->read_document("number", 100);
        ASSERT_TRUE(before.ok()) << before.status().message();
        const std::string text = std::to_string(std::stoi(before->text) + 1);
        const Status status = storage->publish(publication("number", text, Expected::version(before->version)));
        done += status.ok() ? 1 : 0;
        ASSERT_TRUE(status.ok() || (status.code() == Code::kExists && !GetParam().has_leases)) << status.message();
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(read("number"), std::to_string(kThreads * kTimes));
}

TEST_P(StorageConformanceTest, ReadersSeeWholeContents) {
  ASSERT_TRUE(storage_->publish(publication("m.json", std::string(100'000, '0'))).ok());
  std::atomic<bool> stop = false;
  std::thread reader([&] {
    while (!stop) {
      const std::string text = read("m.json");
      ASSERT_EQ(text.size(), 100'000u) << text.substr(0, 100);
      ASSERT_EQ(std::ranges::count(text, text.front()), 100'000);
    }
  });
  for (int i = 1; i < 50; ++i) {
    const std::string text(100'000, static_cast<char>('0' + i));
    ASSERT_TRUE(storage_->publish(publication("m.json", text, Expected::any())).ok());
  }
  stop = true;
  reader.join();
}

// --- Leases, runs -----------------------------------------------------------------------------------------------

TEST_P(StorageConformanceTest, ALeaseKnowsWhetherItsNameMovedOn) {
  EXPECT_EQ(storage_->lease("m.json").status().code(), Code::kNotFound);
  ASSERT_TRUE(storage_->publish(publication("m.json", "one")).ok());
  const auto first = storage_->lease("m.json"), second = storage_->lease("m.json");
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_TRUE((*first)->current() && (*second)->current());
  ASSERT_TRUE(storage_->publish(publication("m.json", "two", Expected::any())).ok());
  EXPECT_FALSE((*first)->current());
  const auto third = storage_->lease("m.json");
  ASSERT_TRUE(third.ok());
  EXPECT_TRUE((*third)->current());
  ASSERT_TRUE(storage_->remove("m.json").ok());
  EXPECT_FALSE((*third)->current());
}

TEST_P(StorageConformanceTest, ReplacersWaitForEachOther) {
  if (!GetParam().has_leases) GTEST_SKIP() << "this store has no leases";
  auto first = storage_->lease_replacing("m.json");
  ASSERT_TRUE(first.ok());
  std::atomic<bool> has_it = false;
  std::thread second([&] {
    EXPECT_TRUE(store_.run->checkpoint("0001")->lease_replacing("m.json").ok());
    has_it = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(has_it);
  first->reset();
  second.join();
  EXPECT_TRUE(storage_->list()->empty());
}

// --- Runs -------------------------------------------------------------------------------------------------------

TEST_P(StorageConformanceTest, ARunListsItsCheckpointsAndTheirFiles) {
  EXPECT_EQ(*storage_->name(), "0001");
  for (const char* name : {"b", "a"}) write(name, "12");
  const auto other = store_.run->checkpoint("0000");
  ASSERT_TRUE(other->create_directory().ok());
  ASSERT_TRUE(other->publish(publication("m.json", "one")).ok());
  for (const auto& run : {store_.run->checkpoint("0001")->run(), store_.run->checkpoint("0000")->run()}) {
    const auto children = run->scan({});
    ASSERT_TRUE(children.ok()) << children.status().message();
    ASSERT_EQ(children->size(), 2u);
    EXPECT_EQ(names_of(children->front()), std::vector<std::string>{"m.json"});
    EXPECT_EQ(names_of(children->back()), (std::vector<std::string>{"a", "b"}));
    EXPECT_EQ(children->back().files.front().bytes, 2u);
    const std::int64_t now = *run->now(true);
    for (const Run::Child& child : *children) {
      EXPECT_TRUE(child.status.ok() && child.is_directory && !child.is_link && child.links.empty());
      EXPECT_EQ(child.last.status.code(), Code::kNotFound);
      EXPECT_NEAR(static_cast<double>(child.changed_ns), static_cast<double>(now), 60e9);
      EXPECT_NEAR(static_cast<double>(child.files.front().changed_ns), static_cast<double>(now), 60e9);
    }
    EXPECT_EQ(children->front().name + children->back().name, "00000001");
  }
}

TEST_P(StorageConformanceTest, AScanReadsDocumentsWhoseVersionIsNotKnown) {
  write("intent", "begun");
  write("large", std::string(101, 'x'));
  write("other", "data");
  ASSERT_TRUE(storage_->publish(publication("m.json", "one")).ok());
  const std::string known = version("m.json");
  ScanOptions options{.is_document = [](const std::string& name) { return name == "intent" || name == "large"; },
                      .document_bytes_max = 100,
                      .last = "m.json"};
  for (const bool is_known : {false, true}) {
    const Run::Child child = store_.run->scan(options)->front();
    EXPECT_EQ(names_of(child), (std::vector<std::string>{"intent", "large", "other"}));
    EXPECT_EQ(child.files[0].contents, "begun");
    EXPECT_EQ(child.files[1].status.code(), Code::kFormat);
    EXPECT_FALSE(child.files[2].contents);
    EXPECT_TRUE(child.last.status.ok());
    EXPECT_EQ(child.last.version, known);
    EXPECT_EQ(child.last.contents, is_known ? std::nullopt : std::optional<std::string>("one"));
    options.is_known = [&](const std::string& name, const std::string& v) { return name == "m.json" && v == known; };
  }
  options = {.last = "m.json", .last_only = true};
  const Run::Child child = store_.run->scan(options)->front();
  EXPECT_TRUE(child.files.empty() && child.last.status.ok() && !child.last.contents);
  EXPECT_GT(child.last.modified_ns, 0);
}

TEST_P(StorageConformanceTest, AChildIsTheOneThatWasScanned) {
  write("file", "12");
  const Run::Child child = store_.run->scan({})->front();
  const auto same = store_.run->child(child.name, child.identity);
  ASSERT_TRUE(same.ok()) << same.status().message();
  EXPECT_EQ(read_text(**same, "file"), "12");
  if (!GetParam().has_directories) return;
  EXPECT_EQ(store_.run->child("absent", child.identity).status().code(), Code::kNotFound);
}

TEST_P(StorageConformanceTest, OnlyAnEmptyDirectoryGoes) {
  write("file", "12");
  EXPECT_TRUE(store_.run->remove_directory("0001").ok());
  EXPECT_EQ(read("file"), "12");
  ASSERT_TRUE(storage_->remove("file").ok());
  EXPECT_TRUE(store_.run->remove_directory("0001").ok());
  EXPECT_TRUE(store_.run->remove_directory("0001").ok());
  EXPECT_TRUE(store_.run->scan({})->empty());
}

// --- Removing ---------------------------------------------------------------------------------------------------

TEST_P(StorageConformanceTest, OnlyTheVersionThatIsMeantIsRetired) {
  ASSERT_TRUE(storage_->publish(publication("m.json", "one")).ok());
  const std::string first = version("m.json");
  ASSERT_TRUE(storage_->publish(publication("m.json", "two", Expected::any())).ok());
  EXPECT_EQ(storage_->retire("m.json", first, "tombstone").code(), Code::kExists);
  EXPECT_EQ(storage_->retire("absent", first, "tombstone").code(), Code::kExists);
  EXPECT_EQ(*storage_->list(), std::vector<std::string>{"m.json"});
  const std::int64_t before = store_.run->scan({})->front().files.front().changed_ns;
  ASSERT_TRUE(storage_->retire("m.json", version("m.json"), "tombstone").ok());
  EXPECT_EQ(*storage_->list(), std::vector<std::string>{"tombstone"});
  EXPECT_EQ(read("tombstone"), "two");
  EXPECT_GE(store_.run->scan({})->front().files.front().changed_ns, before);
}

TEST_P(StorageConformanceTest, WhatIsRetiredIsRestoredUnlessAnotherHasItsName) {
  for (const bool is_taken : {false, true}) {
    ASSERT_TRUE(storage_->publish(publication("m.json", "one", Expected::any())).ok());
    ASSERT_TRUE(storage_->retire("m.json", version("m.json"), "tombstone").ok());
    if (is_taken) write("m.json", "two");
    ASSERT_TRUE(storage_->restore("tombstone", "m.json").ok());
    EXPECT_EQ(*storage_->list(), std::vector<std::string>{"m.json"});
    EXPECT_EQ(read("m.json"), is_taken ? "two" : "one");
  }
}

// Of an overwrite that was killed between its two steps.
TEST_P(StorageConformanceTest, AFileThatHasTheOtherNameAlreadyIsRetired) {
  ASSERT_TRUE(storage_->publish(publication("m.json", "one")).ok());
  write("tombstone", "one");
  ASSERT_TRUE(storage_->retire("m.json", version("m.json"), "tombstone").ok());
  EXPECT_EQ(*storage_->list(), std::vector<std::string>{"tombstone"});
}

TEST_P(StorageConformanceTest, ReadersAndRemoversKeepEachOtherAway) {
  if (!GetParam().has_leases) GTEST_SKIP() << "this store has no leases";
  EXPECT_EQ(storage_->lease_exclusive("m.json").status().code(), Code::kNotFound);
  ASSERT_TRUE(storage_->publish(publication("m.json", "one")).ok());
  auto reader = storage_->lease("m.json");
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ(storage_->lease_exclusive("m.json").status().os_error(), EWOULDBLOCK);
  reader->reset();
  auto remover = storage_->lease_exclusive("m.json");
  ASSERT_TRUE(remover.ok());
  EXPECT_EQ(storage_->lease_exclusive("m.json").status().os_error(), EWOULDBLOCK);
  std::atomic<Code> found{Code::kOk};
  std::thread waits([&] { found = store_.run->checkpoint("0001")->lease("m.json").status().code(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  ASSERT_TRUE(storage_->retire("m.json", version("m.json"), "tombstone").ok());
  EXPECT_FALSE((*remover)->current());
  remover->reset();
  waits.join();
  EXPECT_EQ(found, Code::kNotFound);
  EXPECT_TRUE(storage_->lease("tombstone").ok());
}

TEST_P(StorageConformanceTest, RemoversDoNotWaitForReplacers) {
  if (!GetParam().has_leases) GTEST_SKIP() << "this store has no leases";
  for (const bool removing : {false, true}) {
    auto first = removing ? storage_->lease_removing("m.json") : storage_->lease_replacing("m.json");
    ASSERT_TRUE(first.ok());
    EXPECT_EQ(storage_->lease_removing("m.json").status().os_error(), EWOULDBLOCK);
    first->reset();
    EXPECT_TRUE(storage_->lease_removing("m.json").ok());
    EXPECT_TRUE(storage_->list()->empty());
  }
}

TEST_P(StorageConformanceTest, TheDirectoryGoesOnlyIfItWasMadeHereAndIsEmpty) {
  const auto made = store_.run->checkpoint("made");
  ASSERT_TRUE(made->create_directory().ok());
  ASSERT_TRUE(made->write_small("file", {}).ok());
  made->remove_created_directories();
  EXPECT_EQ(*made->list(), std::vector<std::string>{"file"});
  ASSERT_TRUE(made->remove("file").ok());
  made->remove_created_directories();
  EXPECT_EQ(store_.run->scan({})->size(), GetParam().has_directories ? 1u : 0u);
  storage_->remove_created_directories();
}

}  // namespace
}  // namespace ostraca
