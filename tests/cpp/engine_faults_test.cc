// The commit protocol under a failing disk: every I/O call of a save, an overwrite and a load fails once; the process
// dies at every call; and the power goes at every call, with what was not synced half there.
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <set>

#include "../faults/fault_storage.h"
#include "container/manifest.h"
#include "engine_helpers.h"
#include "scratch_directory.h"

namespace ostraca {
namespace {

using namespace testing;
using Factory = std::function<std::unique_ptr<Storage>()>;

constexpr std::uint64_t kStride = kUnderTsan ? 6 : 1;     // of the calls that are made to fail
constexpr std::uint32_t kPowerCuts = kUnderTsan ? 2 : 7;  // of which the first four are the extremes

// Whether this call's failure may be forgiven: what it was for is then not worth failing a save that is good.
bool forgivable(const std::string& operation) {
  return operation == "remove" || operation == "remove_created_directories" || operation == "read_document" ||
         operation == "name" || operation == "scan";  // whether files go at once, or with the next prune
}

std::vector<TestArray> state(std::uint32_t seed) {
  return {make_array("a", DType::kUint8, {9 << 20}, seed),
          make_array("b", DType::kFloat32, {200, 300}, seed, Layout::kC, Fill::kGaussian),
          make_array("c", DType::kInt16, {10}, seed), make_array("d", DType::kInt16, {20}, seed)};
}

class EngineFaultsTest : public ::testing::TestWithParam<bool> {
 protected:
  bool overwrite() const { return GetParam(); }

  // A disk as it is before the save: empty, or with the old checkpoint.
  std::shared_ptr<MemoryDisk> prepared() const {
    auto disk = std::make_shared<MemoryDisk>();
    if (overwrite())
      for (const auto& [name, bytes] : old_files_) disk->put(name, bytes);
    return disk;
  }
  Factory failing(const std::shared_ptr<MemoryDisk>& disk, const std::shared_ptr<FaultPlan>& plan) const {
    return [=] { return std::make_unique<FaultStorage>(std::make_unique<DiskStorage>(disk), plan); };
  }
  Status save(const std::shared_ptr<MemoryDisk>& disk, const std::shared_ptr<FaultPlan>& plan) const {
    return save_on(failing(disk, plan), new_, {.codec = CodecPolicy::kRaw, .threads = 2, .overwrite = overwrite()});
  }
  std::uint64_t calls_of_a_save() const {
    const auto plan = std::make_shared<FaultPlan>();
    EXPECT_TRUE(save(prepared(), plan).ok());
    return plan->calls();
  }
  bool holds_new(const std::shared_ptr<MemoryDisk>& disk) const {
    return differences(on(disk)(), new_).empty() && damage(disk).empty();
  }
  void expect_untouched(const std::shared_ptr<MemoryDisk>& disk, const std::string& when) const {
    EXPECT_EQ(disk->exists(), overwrite()) << when;
    if (overwrite()) {
      EXPECT_EQ(disk->files(), old_files_) << when;
    } else {
      EXPECT_TRUE(disk->names().empty()) << when << ": " << disk->names().front();
    }
  }
  void expect_old_or_new(const std::shared_ptr<MemoryDisk>& disk, const std::string& when) const {
    auto reader = open_reader(on(disk)(), {});
    if (!reader.ok()) {
      EXPECT_FALSE(overwrite()) << when << ": " << reader.status().message();
      EXPECT_EQ(reader.status().code(), Code::kNotFound) << when << ": " << reader.status().message();
      return;
    }
    const std::string as_new = differences(**reader, new_),
                      as_old = overwrite() ? differences(**reader, old_) : "not saved";
    EXPECT_TRUE(as_new.empty() || as_old.empty()) << when << ": " << as_new << "; " << as_old;
    EXPECT_EQ(damage(disk), "") << when;
  }

  const std::vector<TestArray> old_ = state(1), new_ = state(2);
  const std::map<std::string, MemoryDisk::Content> old_files_ = [this] {
    const auto disk = std::make_shared<MemoryDisk>();
    EXPECT_TRUE(save_on(on(disk), old_).ok());
    return disk->files();
  }();
};

TEST_P(EngineFaultsTest, AnyCallThatFailsFailsTheSaveAndLeavesWhatWasThere) {
  const std::uint64_t calls = calls_of_a_save();
  ASSERT_GT(calls, 15u);
  std::set<std::string> failed_at;
  for (std::uint64_t n = 1; n <= calls; n += kStride)
    for (const int error : {EIO, ENOSPC})
      for (const bool after : {false, true}) {
        const auto disk = prepared();
        const auto plan = std::make_shared<FaultPlan>(Fault{.at_call = n, .error = error, .after = after});
        const Status status = save(disk, plan);
        const LoggedCall failed = plan->log()[n - 1];
        // A storage takes back what it could not finish, but for these.
        if (after && failed.operation != "write_at" && !failed.operation.starts_with("sync")) continue;
        const std::string when =
            failed.operation + " " + failed.name + " as call " + std::to_string(n) + ": " + status.message();
        if (status.ok()) {
          EXPECT_TRUE(forgivable(failed.operation)) << when;
          EXPECT_TRUE(holds_new(disk)) << when;
        } else if (status.code() == Code::kCommitUncertain) {
          EXPECT_TRUE(failed.operation == "sync_directory" || failed.operation == "sync_file") << when;
          EXPECT_TRUE(holds_new(disk)) << when;
          failed_at.insert("after publication");
        } else {
          EXPECT_EQ(status.code(), Code::kSystem) << when;
          EXPECT_EQ(status.os_error(), error) << when;
          EXPECT_NE(status.path(), "") << when;
          expect_untouched(disk, when);
          failed_at.insert(failed.operation);
        }
      }
  for (const char* operation : {"create_directory", "create", "write_at", "sync_and_close", "sync_directory", "open",
                                "read_at", "write_small", "publish", "after publication"})
    EXPECT_TRUE(failed_at.contains(operation) || kStride > 1) << operation;
}

TEST_P(EngineFaultsTest, APublicationOfUnknownOutcomeRemovesNothing) {
  for (const bool after : {false, true}) {
    const auto disk = prepared();
    const auto plan = std::make_shared<FaultPlan>(
        Fault{.at_call = 2, .after = after, .code = Code::kCommitUncertain, .operation = "publish"});  // 1: the intent
    EXPECT_EQ(save(disk, plan).code(), Code::kCommitUncertain);
    if (after) {
      EXPECT_TRUE(holds_new(disk));
    } else {
      expect_old_or_new(disk, "uncertain publication");
      // Had it been published, it would be whole.
      const auto names = disk->names();
      for (const char* part : {"p00000-", "index-"})
        EXPECT_EQ(std::ranges::count_if(names, [&](const std::string& name) { return name.starts_with(part); }),
                  overwrite() ? 2 : 1);
    }
  }
}

TEST_P(EngineFaultsTest, AnIntentOfUnknownOutcomeFailsTheSaveAndGoes) {
  for (const bool after : {false, true}) {
    const auto disk = prepared();
    const auto plan = std::make_shared<FaultPlan>(
        Fault{.at_call = 1, .after = after, .code = Code::kCommitUncertain, .operation = "publish"});
    EXPECT_EQ(save(disk, plan).os_error(), EIO);
    expect_untouched(disk, "uncertain intent");
  }
}

TEST_P(EngineFaultsTest, ACrashAtAnyCallLeavesTheOldOrTheNew) {
  const std::uint64_t calls = calls_of_a_save();
  for (std::uint64_t n = 1; n <= calls; n += kStride)
    for (const bool after : {false, true}) {
      const auto disk = prepared();
      const auto plan = std::make_shared<FaultPlan>(Fault{.at_call = n, .after = after, .crash = true});
      const Status status = save(disk, plan);
      const std::string when = plan->log()[n - 1].operation + " as call " + std::to_string(n);
      if (status.ok()) {
        EXPECT_TRUE(holds_new(disk)) << when;
      }
      expect_old_or_new(disk, when);
      // The next attempt goes through, whatever is lying about.
      const bool is_there = open_reader(on(disk)(), {}).ok();
      EXPECT_TRUE(save_on(on(disk), new_, {.overwrite = is_there}).ok()) << when;
      EXPECT_TRUE(holds_new(disk)) << when;
    }
}

TEST_P(EngineFaultsTest, APowerCutAtAnyCallLeavesTheOldOrTheNew) {
  const std::uint64_t calls = calls_of_a_save();
  for (std::uint32_t seed = 0; seed < kPowerCuts; ++seed)
    for (std::uint64_t n = 1; n <= calls + 1; n += kStride) {  // the last: after the save
      const auto disk = prepared();
      const auto plan = std::make_shared<FaultPlan>(Fault{.at_call = n, .after = seed % 2 == 1, .crash = true});
      const Status status = save(disk, plan);
      disk->cut_power(seed);
      const std::string when = "call " + std::to_string(n) + ", seed " + std::to_string(seed);
      if (status.ok()) {
        EXPECT_TRUE(holds_new(disk)) << when;  // durable on return
      }
      expect_old_or_new(disk, when);
    }
}

TEST_P(EngineFaultsTest, AnOverwriterMayFailAfterAnother) {
  // A save that fails while another one commits takes nothing of the other with it.
  const auto disk = prepared();
  const std::vector<TestArray> third = state(3);
  const auto plan = std::make_shared<FaultPlan>(Fault{.at_call = 2, .operation = "publish"});  // 1: the intent
  auto failing_writer = create_writer(failing(disk, plan)(), {.overwrite = overwrite()});
  ASSERT_TRUE(failing_writer.ok());
  for (const TestArray& a : new_) ASSERT_TRUE((*failing_writer)->add(a.source()).ok());
  const auto report = (*failing_writer)->finish();
  ASSERT_TRUE(save_on(on(disk), third, {.overwrite = overwrite()}).ok());
  EXPECT_FALSE(commit_on(*failing(disk, plan)(), {*report}, {.overwrite = overwrite()}).ok());
  (*failing_writer)->abort();
  EXPECT_EQ(differences(on(disk)(), third), "");
  EXPECT_EQ(disk->names().size(), 3u);
}

INSTANTIATE_TEST_SUITE_P(FreshAndOverwrite, EngineFaultsTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Overwrite" : "Fresh"; });

// --- Several processes ------------------------------------------------------------------------------------------

TEST(EngineManyProcessesTest, AbortAfterTheCommitLeavesTheCheckpointAlone) {
  const auto disk = std::make_shared<MemoryDisk>();
  const TestArray a = make_array("a", DType::kInt32, {1000}), b = make_array("b", DType::kInt32, {1000}, 2);
  std::vector<std::unique_ptr<Writer>> writers;
  std::vector<FileReport> reports;
  for (std::uint32_t p = 0; p < 2; ++p) {
    auto writer = create_writer(on(disk)(), fixed_id({.process_index = p, .process_count = 2}));
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->add((p ? b : a).source()).ok());
    reports.push_back((*writer)->finish().take());
    writers.push_back(writer.take());
  }
  DiskStorage storage(disk);
  ASSERT_TRUE(commit_on(storage, reports, {}).ok());
  for (auto& writer : writers) writer->abort();  // say, a barrier timed out and nobody knows what the committer did
  writers.clear();
  EXPECT_EQ(differences(on(disk)(), {a, b}), "");
  EXPECT_EQ(damage(disk), "");
}

// --- Loads ------------------------------------------------------------------------------------------------------

TEST(EngineReadFaultsTest, AnyReadThatFailsIsAnErrorOrDoesNotMatter) {
  const auto disk = std::make_shared<MemoryDisk>();
  const std::vector<TestArray> arrays = state(1);
  ASSERT_TRUE(save_on(on(disk), arrays).ok());
  int errors = 0;
  for (const bool cached : {true, false})
    for (const IoMode io : {IoMode::kAuto, IoMode::kDirect, IoMode::kBuffered}) {
      disk->set_cached(cached);
      const auto load = [&](const std::shared_ptr<FaultPlan>& plan) {
        auto reader = open_reader(std::make_unique<FaultStorage>(std::make_unique<DiskStorage>(disk), plan),
                                  {.threads = 2, .io = io});
        if (!reader.ok()) return reader.status().message();
        return differences(**reader, arrays);
      };
      const auto count = std::make_shared<FaultPlan>();
      ASSERT_EQ(load(count), "");
      for (std::uint64_t n = 1; n <= count->calls(); ++n)
        for (const bool after : {false, true}) {
          const auto plan = std::make_shared<FaultPlan>(Fault{.at_call = n, .after = after});
          const std::string result = load(plan);
          const std::string operation = plan->log()[n - 1].operation;
          if (result.empty()) {
            EXPECT_TRUE(operation == "open" || operation == "read_cached") << operation;
          } else {
            EXPECT_NE(result.find("injected fault"), std::string::npos) << operation << ": " << result;
            ++errors;
          }
        }
    }
  EXPECT_GT(errors, 30);
}

// Array b is damaged; and from each call on, all fail: then a's chunk was to be read in place, and could not be.
TEST(EngineReadFaultsTest, AFailedLoadNamesTheMemoryItChangedAndNoOther) {
  constexpr std::size_t kBytes = 9 << 20;
  const auto disk = std::make_shared<MemoryDisk>();
  ASSERT_TRUE(save_on(on(disk),
                      {make_array("a", DType::kUint8, {kBytes}, 1), make_array("b", DType::kUint8, {kBytes}, 2)},
                      {.codec = CodecPolicy::kRaw})
                  .ok());
  for (auto [name, bytes] : disk->files())
    if (name.starts_with("p")) {
      bytes[bytes.size() / 2] ^= std::byte{1};
      disk->put(name, bytes);
    }
  const auto touched = [](const std::vector<std::byte>& memory) {
    return std::ranges::any_of(memory, [](std::byte byte) { return byte != std::byte{}; });
  };
  int changed = 0, spared = 0;
  for (const bool cached : {true, false}) {
    disk->set_cached(cached);
    for (std::uint64_t n = 1, calls = n; n <= calls; ++n) {
      const auto plan = std::make_shared<FaultPlan>();
      auto reader =
          open_reader(std::make_unique<FaultStorage>(std::make_unique<DiskStorage>(disk), plan), {.threads = 1});
      ASSERT_TRUE(reader.ok());
      plan->set({.at_call = n, .crash = true});
      std::vector<std::byte> a(kBytes), b(kBytes);
      const std::vector<ReadRequest> requests = {{.leaf = 0, .shape = {kBytes}, .data = a.data()},
                                                 {.leaf = 1, .shape = {kBytes}, .data = b.data()}};
      std::vector<bool> modified;
      EXPECT_FALSE((*reader)->read_into(requests, false, {}, &modified).ok());
      EXPECT_EQ(modified, (std::vector<bool>{touched(a), touched(b)})) << "call " << n;
      changed += touched(a) + touched(b);
      spared += !touched(a) + !touched(b);
      calls = plan->calls();
    }
  }
  EXPECT_GT(changed, 0);
  EXPECT_GT(spared, 0);
}

TEST(EngineReadFaultsTest, VerifyReportsWhatCannotBeRead) {
  const auto disk = std::make_shared<MemoryDisk>();
  ASSERT_TRUE(save_on(on(disk), state(1)).ok());
  for (const bool cached : {true, false}) {
    disk->set_cached(cached);
    const auto count = std::make_shared<FaultPlan>();
    FaultStorage healthy(std::make_unique<DiskStorage>(disk), count);
    ASSERT_EQ(damage(healthy), "");
    for (std::uint64_t n = 1; n <= count->calls(); ++n) {
      const auto plan = std::make_shared<FaultPlan>(Fault{.at_call = n});
      FaultStorage storage(std::make_unique<DiskStorage>(disk), plan);
      const std::string found = damage(storage);
      const std::string operation = plan->log()[n - 1].operation;
      if (operation == "lease") {
        EXPECT_EQ(found, "");  // it reads without one
      } else if (operation != "read_cached") {
        EXPECT_NE(found.find("injected fault"), std::string::npos) << operation << ": " << found;
        const Result<VerifyReport> report = verify_on(storage, true, 2, {});
        EXPECT_TRUE(report.ok() && report->ok()) << operation;  // the fault is over
      }
    }
  }
}

}  // namespace
}  // namespace ostraca
