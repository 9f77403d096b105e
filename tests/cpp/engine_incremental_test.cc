// Incremental saves end to end: references, deltas, what is neither; a base that is missing, damaged or another; and
// a disk that fails at every call.
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>

#include "../faults/fault_storage.h"
#include "container/manifest.h"
#include "engine/keyframe.h"
#include "engine_helpers.h"
#include "scratch_directory.h"

namespace ostraca {
namespace {

using namespace testing;

std::vector<TestArray> state() {
  return {make_array("weights", DType::kFloat32, {9 << 18}, 1, Layout::kC, Fill::kGaussian),
          make_array("half", DType::kBfloat16, {3, 1 << 20}, 2, Layout::kC, Fill::kGaussian),
          make_array("frozen", DType::kUint8, {5 << 20}, 3),
          make_array("noise", DType::kUint8, {5 << 20}, 4),
          make_array("small", DType::kInt32, {100}, 5),
          make_array("smaller", DType::kInt32, {10}, 6)};
}

// Adds a little to every element of an array of `width` bytes, as training would.
void train(TestArray& a, std::size_t width) {
  for (std::size_t at = 0; at < a.expected.size(); at += width) {
    const auto step = static_cast<std::uint8_t>((at / width * 7) % 3);
    a.memory[a.origin + at] = a.expected[at] = a.expected[at] ^ std::byte{step};
  }
}

std::vector<TestArray> trained() {
  std::vector<TestArray> arrays = state();
  train(arrays[0], 4);
  train(arrays[1], 2);
  arrays[3] = make_array("noise", DType::kUint8, {5 << 20}, 7);
  return arrays;
}

class EngineIncrementalTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return scratch_.path() + "/" + name; }
  auto at(const std::string& name) const {
    return [where = path(name)] { return make_posix_storage(where); };
  }
  void save_keyframe() { ASSERT_TRUE(save_on(at("key"), old_).ok()); }
  std::shared_ptr<BaseSnapshot> base(std::uint64_t budget = 0) const {
    auto opened = BaseSnapshot::open(path("key"), budget);
    EXPECT_TRUE(opened.ok()) << opened.status().message();
    return opened.ok() ? opened.take() : nullptr;
  }
  Status save_delta(const std::string& name = "delta", std::uint64_t budget = 0, unsigned threads = 2) const {
    return save_on(at(name), new_, {.threads = threads, .base = base(budget)});
  }
  Manifest manifest(const std::string& name) const {
    return *decode_manifest(*make_posix_storage(path(name))->read_small(kManifestName, kManifestBytesMax));
  }
  std::map<std::uint8_t, int> codecs(const std::string& name) const {  // 255: references
    std::map<std::uint8_t, int> out;
    auto reader = Reader::open(path(name));
    for (std::uint64_t leaf = 0; leaf < (*reader)->leaf_count(); ++leaf) {
      const std::vector<ChunkInfo> chunks = (*reader)->chunks(leaf).take();
      for (const ChunkInfo& chunk : chunks) ++out[chunk.in_base ? 255 : static_cast<int>(chunk.codec)];
    }
    return out;
  }
  std::string damage_of(const std::string& name, bool deep = true) const {
    const auto storage = make_posix_storage(path(name));
    return damage(*storage, deep);
  }
  std::string data_file(const std::string& name) const {
    return path(name) + "/" + data_file_name(0, manifest(name).id);
  }

  ScratchDirectory scratch_;
  const std::vector<TestArray> old_ = state(), new_ = trained();
};

TEST_F(EngineIncrementalTest, TakesReferencesDeltasAndFullChunks) {
  save_keyframe();
  ASSERT_TRUE(save_delta().ok());
  EXPECT_EQ(differences(at("delta")(), new_, true), "");
  EXPECT_EQ(differences(at("key")(), old_, true), "");
  EXPECT_EQ(damage_of("delta"), "");
  EXPECT_EQ(damage_of("delta", false), "");
  const auto found = codecs("delta");
  EXPECT_EQ(found.at(255), 2 + 2);  // frozen, and both small arrays in their pack
  EXPECT_EQ(found.at(3), 3 + 2);
  EXPECT_EQ(found.at(0), 2);  // noise
  const Manifest delta = manifest("delta"), key = manifest("key");
  EXPECT_EQ(delta.base_directory, "key");
  EXPECT_EQ(delta.base_id, key.id);
  EXPECT_LT(delta.stored_bytes, key.stored_bytes);
  EXPECT_GT(delta.referenced_bytes, 10u << 20);
  EXPECT_LT(delta.referenced_bytes, key.stored_bytes);
}

TEST_F(EngineIncrementalTest, TheFileDependsOnTheDataAloneAndNotOnThreadsOrMemory) {
  save_keyframe();
  const CheckpointId id{.bytes = {7}};
  std::string first;
  for (const unsigned threads : {1u, 2u, 5u})
    for (const std::uint64_t budget : {0ull, 5ull << 20, 1ull << 30}) {
      const std::string name = "delta-" + std::to_string(threads) + "-" + std::to_string(budget);
      const auto snapshot = base(budget);
      ASSERT_TRUE(save_on(at(name), new_, {.attempt = id, .threads = threads, .base = snapshot}).ok());
      EXPECT_LE(snapshot->kept_bytes(), budget);
      std::ifstream file(path(name) + "/" + data_file_name(0, id), std::ios::binary);
      const std::string bytes((std::istreambuf_iterator<char>(file)), {});
      if (first.empty()) first = bytes;
      EXPECT_TRUE(bytes == first) << name;
    }
}

TEST_F(EngineIncrementalTest, WhatASaveKeptIsItsBaseAndChangesNothing) {
  const CheckpointId id{.bytes = {7}};
  std::string first;
  for (const auto& [keep, immutable] : {std::pair(std::size_t{0}, false),
                                        {kBlockBytes, false},
                                        {3 * kBlockBytes, false},
                                        {8 * kBlockBytes, false},
                                        {3 * kBlockBytes, true},
                                        {8 * kBlockBytes, true}}) {
    const std::string key = "key-" + std::to_string(keep) + (immutable ? "-immutable" : "");
    const CheckpointId key_id{.bytes = {8}};
    auto writer = create_writer(at(key)(), {.attempt = key_id, .staging_bytes = kBlockBytes, .keep_bytes = keep});
    ASSERT_TRUE(writer.ok()) << writer.status().message();
    EXPECT_EQ((*writer)->snapshot().status().code(), Code::kInvalidArgument);
    for (const TestArray& a : old_) {
      ArraySource source = a.source();
      source.immutable = immutable;
      ASSERT_TRUE((*writer)->add(std::move(source)).ok());
    }
    const auto report = (*writer)->finish();
    ASSERT_TRUE(report.ok()) << report.status().message();
    EXPECT_EQ((*writer)->snapshot().status().code(), Code::kNotFound);
    ASSERT_TRUE(commit_on(*at(key)(), {*report}, {}).ok());
    auto snapshot = (*writer)->snapshot();
    ASSERT_TRUE(snapshot.ok()) << snapshot.status().message();
    EXPECT_EQ((*snapshot)->id(), key_id);
    EXPECT_LE((*snapshot)->kept_bytes(), keep);
    EXPECT_EQ((*snapshot)->kept_bytes() > 0, keep > 0);
    if (keep == 8 * kBlockBytes) {
      EXPECT_EQ((*snapshot)->kept_bytes(), report->logical_bytes);
    }
    EXPECT_EQ((*(*writer)->snapshot())->kept_bytes(), 0u);
    writer->reset();
    ASSERT_TRUE(save_on(at("delta-" + key), new_, {.attempt = id, .base = *snapshot}).ok());
    EXPECT_EQ(differences(at("delta-" + key)(), new_, true), "");
    std::ifstream file(path("delta-" + key) + "/" + data_file_name(0, id), std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), {});
    if (first.empty()) first = bytes;
    EXPECT_TRUE(bytes == first) << keep;
  }
}

TEST_F(EngineIncrementalTest, OfSeveralProcessesEachKeepsItsOwn) {
  std::vector<std::unique_ptr<Writer>> writers;
  std::vector<FileReport> reports;
  for (std::uint32_t i = 0; i < 2; ++i) {
    writers.push_back(create_writer(at("key")(), {.process_index = i,
                                                  .process_count = 2,
                                                  .attempt = CheckpointId{.bytes = {9}},
                                                  .staging_bytes = kBlockBytes,
                                                  .keep_bytes = 8 * kBlockBytes})
                          .take());
    for (std::size_t k = i; k < old_.size(); k += 2) ASSERT_TRUE(writers[i]->add(old_[k].source()).ok());
    reports.push_back(writers[i]->finish().take());
  }
  ASSERT_TRUE(commit_on(*at("key")(), reports, {}).ok());
  for (std::uint32_t i = 0; i < 2; ++i) {
    const auto snapshot = writers[i]->snapshot().take();
    EXPECT_EQ(snapshot->kept_bytes(), reports[i].logical_bytes);
    const std::string name = "delta-" + std::to_string(i);
    ASSERT_TRUE(save_on(at(name), new_, {.base = snapshot}).ok());
    EXPECT_EQ(differences(at(name)(), new_, true), "");
    EXPECT_EQ(codecs(name).at(3), 3 + 2);
  }
}

TEST_F(EngineIncrementalTest, WhatIsKeptIsAKeyframeAndTheOneThatWasSaved) {
  save_keyframe();
  EXPECT_EQ(create_writer(at("delta")(), {.keep_bytes = 1, .base = base()}).status().code(), Code::kInvalidArgument);
  EXPECT_FALSE(std::filesystem::exists(path("delta")));
  auto incremental = create_writer(at("delta")(), {.base = base()});
  ASSERT_TRUE(commit_on(*at("delta")(), {*(*incremental)->finish()}, {}).ok());
  EXPECT_EQ((*incremental)->snapshot().status().code(), Code::kInvalidArgument);
  auto writer = create_writer(at("a")(), {.staging_bytes = kBlockBytes, .keep_bytes = kBlockBytes});
  ASSERT_TRUE((*writer)->add(old_[0].source()).ok());
  ASSERT_TRUE(commit_on(*at("a")(), {*(*writer)->finish()}, {}).ok());
  ASSERT_TRUE(save_on(at("a"), new_, {.overwrite = true}).ok());
  EXPECT_EQ((*writer)->snapshot().status().code(), Code::kNotFound);
}

TEST_F(EngineIncrementalTest, ADeltaStandsForItsKeyframe) {
  save_keyframe();
  ASSERT_TRUE(save_delta().ok());
  auto snapshot = BaseSnapshot::open(path("delta"), 0);
  ASSERT_TRUE(snapshot.ok()) << snapshot.status().message();
  EXPECT_EQ((*snapshot)->id(), manifest("key").id);
}

TEST_F(EngineIncrementalTest, BasesThatCannotBeAreRefused) {
  save_keyframe();
  EXPECT_EQ(save_on(at("key"), new_, {.base = base(), .overwrite = true}).code(), Code::kInvalidArgument);
  EXPECT_EQ(save_on(at("elsewhere/delta"), new_, {.base = base()}).code(), Code::kNotFound);
  const auto snapshot = base();
  std::filesystem::rename(path("key"), path("renamed"));
  const Status moved = save_on(at("delta"), new_, {.base = snapshot});
  EXPECT_EQ(moved.code(), Code::kNotFound) << moved.message();
  EXPECT_FALSE(std::filesystem::exists(path("delta")));
}

TEST_F(EngineIncrementalTest, AMissingBaseNamesItsFileAndTheArraysAndSparesTheOthers) {
  save_keyframe();
  ASSERT_TRUE(save_delta().ok());
  std::filesystem::rename(path("key"), path("gone"));
  const std::string all = differences(at("delta")(), new_);
  for (const char* part : {"key/p00000-", "is missing", "'weights'", "'half'", "'frozen'", "bring the base"})
    EXPECT_NE(all.find(part), std::string::npos) << part << ": " << all;
  EXPECT_EQ(all.find("'noise'"), std::string::npos) << all;
  auto reader = Reader::open(path("delta"));
  ASSERT_TRUE(reader.ok());
  std::vector<std::byte> noise(5 << 20);
  const ReadRequest request{.leaf = 3, .shape = {5 << 20}, .data = noise.data()};
  EXPECT_TRUE((*reader)->read_into({&request, 1}).ok());
  EXPECT_TRUE(noise == new_[3].expected);
  EXPECT_NE(damage_of("delta", false).find("../key/p00000-"), std::string::npos) << damage_of("delta", false);
}

TEST_F(EngineIncrementalTest, DamageInTheBaseIsFoundWhereItIsUsed) {
  save_keyframe();
  ASSERT_TRUE(save_delta().ok());
  {
    std::fstream file(data_file("key"), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(1 << 20);
    file.put('\x5a');
    file.put('\xa5');
  }
  const std::string loaded = differences(at("delta")(), new_);
  EXPECT_NE(loaded.find("'weights'"), std::string::npos) << loaded;
  EXPECT_NE(loaded.find(data_file_name(0, manifest("key").id)), std::string::npos) << loaded;
  for (const bool deep : {false, true}) {
    const std::string found = damage_of("delta", deep);
    EXPECT_NE(found.find("../key/"), std::string::npos) << found;
    EXPECT_NE(found.find("weights"), std::string::npos) << found;
  }
  const Status again = save_delta("another");
  EXPECT_EQ(again.code(), Code::kCorruption) << again.message();
  EXPECT_NE(again.message().find(data_file_name(0, manifest("key").id)), std::string::npos) << again.message();
}

TEST_F(EngineIncrementalTest, AnyCallThatFailsLeavesTheBaseAndNothingElse) {
  save_keyframe();
  const auto save = [&](const std::shared_ptr<FaultPlan>& plan) {
    const auto storage = [&] { return std::make_unique<FaultStorage>(make_posix_storage(path("delta")), plan); };
    return save_on(storage, new_, {.threads = 1, .base = base()});
  };
  const auto counter = std::make_shared<FaultPlan>();
  ASSERT_TRUE(save(counter).ok());
  const std::uint64_t calls = counter->calls();
  ASSERT_GT(calls, 20u);
  for (std::uint64_t n = 1; n <= calls; n += kUnderTsan ? 7 : 1) {
    std::filesystem::remove_all(path("delta"));
    const auto plan = std::make_shared<FaultPlan>(Fault{.at_call = n, .error = EIO});
    const Status status = save(plan);
    const std::string when = plan->log()[n - 1].operation + " as call " + std::to_string(n) + ": " + status.message();
    if (status.ok() || status.code() == Code::kCommitUncertain) {
      EXPECT_EQ(differences(at("delta")(), new_), "") << when;
    } else {
      EXPECT_FALSE(std::filesystem::exists(path("delta"))) << when;
      EXPECT_NE(status.code(), Code::kNotFound) << when;  // what cannot be read is not missing
    }
    EXPECT_EQ(damage_of("key", false), "") << when;
  }
}

TEST_F(EngineIncrementalTest, WhatCannotBeReadIsNeitherMissingNorDamaged) {
  save_keyframe();
  ASSERT_TRUE(save_delta().ok());
  const auto failing = [&](const std::shared_ptr<FaultPlan>& plan) {
    return std::make_unique<FaultStorage>(make_posix_storage(path("delta")), plan);
  };
  const auto verified = [&](const std::shared_ptr<FaultPlan>& plan) { return verify_on(*failing(plan), true, 1, {}); };
  const auto opened = [&](const std::shared_ptr<FaultPlan>& plan) { return Keyframe::open(failing(plan), 0); };
  const auto each_call = [&](const auto& work, const auto& check) {
    const auto counter = std::make_shared<FaultPlan>();
    ASSERT_TRUE(work(counter).ok());
    ASSERT_GT(counter->calls(), 5u);
    for (const int error : {EIO, ESTALE, EMFILE, EACCES})
      for (std::uint64_t n = 1; n <= counter->calls(); n += kUnderTsan ? 7 : 1) {
        const auto plan = std::make_shared<FaultPlan>(Fault{.at_call = n, .error = error});
        const auto result = work(plan);
        const LoggedCall call = plan->log()[n - 1];
        const std::string when = call.operation + " of '" + call.name + "', " + std::to_string(error);
        if (result.ok()) {
          check(*result, when);
        } else {
          EXPECT_EQ(result.status().os_error(), error) << when << ": " << result.status().message();
        }
      }
  };
  int unreadable = 0;
  each_call(verified, [&](const VerifyReport& report, const std::string& when) {
    EXPECT_TRUE(report.damaged.empty()) << when << ": " << report.damaged.front().reason;
    unreadable += !report.unreadable.empty();
    for (const Damage& place : report.unreadable)
      EXPECT_NE(place.reason.find("injected fault"), std::string::npos) << when << ": " << place.reason;
  });
  EXPECT_GT(unreadable, 20);
  each_call(opened, [](const std::shared_ptr<Keyframe>&, const std::string&) {});
}

}  // namespace
}  // namespace ostraca
