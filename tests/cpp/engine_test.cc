// Writer and Reader: what goes in comes out, however it lay in memory and however it is read.
#include <gtest/gtest.h>

#include <filesystem>

#include "../faults/reseal.h"
#include "container/directory.h"
#include "container/manifest.h"
#include "engine_helpers.h"
#include "scratch_directory.h"

namespace ostraca {
namespace {

using namespace testing;

std::shared_ptr<MemoryDisk> new_disk() { return std::make_shared<MemoryDisk>(); }

std::uint64_t manifest_number(Reader& reader, std::uint64_t Manifest::* member) {
  const Result<Manifest> manifest = decode_manifest(reader.manifest());
  return manifest.ok() ? (*manifest).*member : ~0ull;
}

std::vector<TestArray> one_of_everything() {
  const Dims shapes[] = {{}, {0}, {1}, {7}, {3, 0, 2}, {5, 4}, {2, 3, 4, 5}, {1, 1, 1, 9, 1}};
  std::vector<TestArray> arrays;
  std::uint32_t seed = 0;
  for (unsigned code = 1; code < kDTypeCount; ++code) {
    const auto dtype = static_cast<DType>(code);
    std::string detail;
    if (dtype == DType::kDatetime64) detail = "25s";
    if (dtype == DType::kByteString || dtype == DType::kVoid) detail = "11";
    if (dtype == DType::kTextString) detail = "12";
    for (const Dims& shape : shapes)
      for (const bool big : {false, true}) {
        const Layout layout = kLayouts[seed % 5];
        const std::string name = "d" + std::to_string(code) + "/" + std::to_string(seed);
        if (big && dtype_info(dtype).scalar_bytes == 1) continue;
        arrays.push_back(make_array(name, dtype, shape, seed, layout, Fill::kNoise, big, detail));
        ++seed;
      }
  }
  return arrays;
}

TEST(EngineTest, RoundTripsEveryDtypeShapeLayoutAndByteOrder) {
  const std::vector<TestArray> arrays = one_of_everything();
  const auto disk = new_disk();
  const Status saved = save_on(on(disk), arrays);
  ASSERT_TRUE(saved.ok()) << saved.message();
  EXPECT_EQ(damage(disk), "");
  for (const bool cached : {true, false}) {
    disk->set_cached(cached);
    EXPECT_EQ(differences(on(disk)(), arrays, true), "");
  }
  auto reader = open_reader(on(disk)(), {});
  ASSERT_TRUE(reader.ok());
  std::uint64_t i = 0;
  for (const TestArray& a : arrays) {
    const Layout layout = kLayouts[i % 4];
    const auto got = read_box(**reader, i, Dims(a.shape.size(), 0), a.shape, layout, i % 3 == 0);
    ASSERT_TRUE(got.ok()) << a.name << got.status().message();
    EXPECT_EQ(*got, a.expected) << a.name;
    ++i;
  }
}

TEST(EngineTest, TheOrderOfSingleBytesIsNotRecorded) {
  TestArray a = make_array("a", DType::kUint8, {5});
  const auto disk = new_disk();
  a.big_endian = true;
  ASSERT_TRUE(save_on(on(disk), {a}).ok());
  a.big_endian = false;
  EXPECT_EQ(differences(on(disk)(), {a}), "");
}

TEST(EngineTest, KeepsKindsAndEmptyContainers) {
  std::vector<TestArray> arrays;
  for (LeafKind kind : {LeafKind::kNone, LeafKind::kEmptyDict, LeafKind::kEmptyList, LeafKind::kEmptyTuple}) {
    TestArray leaf{.name = "kind" + std::to_string(static_cast<int>(kind)), .dtype = DType::kNone, .kind = kind};
    arrays.push_back(leaf);
  }
  TestArray number = make_array("int", DType::kUint8, {9});
  number.kind = LeafKind::kInt;
  arrays.push_back(number);
  const auto disk = new_disk();
  ASSERT_TRUE(save_on(on(disk), arrays).ok());
  EXPECT_EQ(differences(on(disk)(), arrays), "");
  const auto nothing = new_disk();
  ASSERT_TRUE(save_on(on(nothing), {}).ok());
  EXPECT_EQ(differences(on(nothing)(), {}), "");
  EXPECT_EQ(damage(nothing), "");
}

TEST(EngineTest, ReadsRandomBoxesOfArraysInManyChunks) {
  std::mt19937 random(3);
  const Dims shape = {60, 37, 50};
  const std::vector<TestArray> arrays = {make_array("w", DType::kFloat32, shape, 1, Layout::kFortran, Fill::kGaussian)};
  for (const Dims& chunk :
       {Dims{7, 37, 50}, Dims{60, 8, 9}, Dims{1, 1, 50}, Dims{100, 100, 100}, Dims{13, 5, 11}, Dims{}}) {
    const auto disk = new_disk();
    ASSERT_TRUE(save_on(on(disk), arrays, {.threads = 2, .chunk_shape = chunk}).ok());
    EXPECT_EQ(damage(disk), "");
    auto reader = open_reader(on(disk)(), {.threads = 2});
    ASSERT_TRUE(reader.ok());
    EXPECT_EQ(differences(**reader, arrays), "");
    for (int i = 0; i < 60; ++i) {
      Dims start(3), box(3);
      for (int d = 0; d < 3; ++d) {
        start[d] = random() % shape[d];
        box[d] = random() % (shape[d] - start[d] + 1);
      }
      disk->set_cached(i % 2 == 0);
      const auto got = read_box(**reader, 0, start, box, kLayouts[i % 4], i % 5 == 0);
      ASSERT_TRUE(got.ok()) << got.status().message();
      EXPECT_EQ(*got, cut_box(arrays[0].expected, shape, 4, start, box));
    }
  }
}

TEST(EngineTest, EachArrayMayHaveChunksOfItsOwn) {
  std::vector<TestArray> arrays;
  for (const char* name : {"a", "b", "c"}) arrays.push_back(make_array(name, DType::kFloat32, {200, 300}));
  arrays[1].chunk_shape = {64, 1000};
  const auto disk = new_disk();
  ASSERT_TRUE(save_on(on(disk), arrays, {.chunk_shape = {200, 100}}).ok());
  auto reader = open_reader(on(disk)(), {});
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ(differences(**reader, arrays), "");
  EXPECT_EQ((*reader)->chunks(0)->size(), 3u);
  EXPECT_EQ((*reader)->chunks(1)->size(), 4u);
  EXPECT_EQ((*reader)->chunks(1)->front().shape, (Dims{64, 300}));
  EXPECT_EQ((*reader)->chunks(2)->size(), 3u);
}

TEST(EngineTest, ManyRequestsForOneArrayEachGetTheirPart) {
  const std::vector<TestArray> arrays = {make_array("a", DType::kInt16, {100, 64}),
                                         make_array("b", DType::kInt16, {100, 64}, 2)};
  const auto disk = new_disk();
  ASSERT_TRUE(save_on(on(disk), arrays, {.chunk_shape = {9, 64}}).ok());
  auto reader = open_reader(on(disk)(), {});
  ASSERT_TRUE(reader.ok());
  std::vector<std::vector<std::byte>> out;
  std::vector<ReadRequest> requests;
  for (std::uint64_t row = 0; row + 10 <= 100; row += 3) out.emplace_back(10 * 64 * 2);
  for (std::uint64_t i = 0; i < out.size(); ++i)
    requests.push_back({.leaf = i % 2, .start = {3 * i, 0}, .shape = {10, 64}, .data = out[i].data()});
  ASSERT_TRUE((*reader)->read_into(requests).ok());
  for (std::size_t i = 0; i < out.size(); ++i)
    EXPECT_EQ(out[i], cut_box(arrays[i % 2].expected, {100, 64}, 2, {3 * i, 0}, {10, 64})) << i;
  EXPECT_EQ((*reader)->statistics().chunks_read, 12u + 11);  // each chunk once, though several requests want it
}

TEST(EngineTest, AFullLoadReadsEachChunkOnceAndASliceFew) {
  const std::vector<TestArray> arrays = {make_array("w", DType::kFloat32, {2048, 4096}, 1, Layout::kC, Fill::kGaussian),
                                         make_array("n", DType::kInt8, {3 << 20}),
                                         make_array("s", DType::kInt8, {100})};
  const auto disk = new_disk();
  ASSERT_TRUE(save_on(on(disk), arrays).ok());
  for (const bool cached : {true, false}) {
    disk->set_cached(cached);
    auto reader = open_reader(on(disk)(), {});
    ASSERT_TRUE(reader.ok());
    EXPECT_EQ(differences(**reader, arrays), "");
    const ReadStatistics full = (*reader)->statistics();
    EXPECT_EQ(full.chunks_read, manifest_number(**reader, &Manifest::chunks));
    EXPECT_EQ(full.chunks_decoded, full.chunks_read);
    EXPECT_EQ(full.bytes_decoded, manifest_number(**reader, &Manifest::logical_bytes));
    EXPECT_LE(full.bytes_read, manifest_number(**reader, &Manifest::stored_bytes));
    ASSERT_TRUE(read_box(**reader, 0, {1000, 0}, {1, 4096}).ok());
    EXPECT_EQ((*reader)->statistics().chunks_read, full.chunks_read + 1);
    EXPECT_LE((*reader)->statistics().bytes_read, full.bytes_read + kChunkBytesMax + kAlignmentMax);
    // Small arrays of one pack: it is decoded once and kept.
    ASSERT_TRUE(read_box(**reader, 2, {50}, {3}).ok());
    ASSERT_TRUE(read_box(**reader, 2, {20}, {30}).ok());
    EXPECT_LE((*reader)->statistics().chunks_read, full.chunks_read + 3);
  }
}

TEST(EngineTest, SmallArraysShareAPackThatIsReadOnceForAll) {
  std::vector<TestArray> arrays;
  for (int i = 0; i < 500; ++i)
    arrays.push_back(make_array("p/" + std::to_string(i), i % 2 ? DType::kFloat32 : DType::kInt32, {1 + i % 40u}, i));
  const auto disk = new_disk();
  ASSERT_TRUE(save_on(on(disk), arrays).ok());
  auto reader = open_reader(on(disk)(), {});
  ASSERT_TRUE(reader.ok());
  for (std::uint64_t i = 0; i < arrays.size(); ++i) {
    const auto got = read_box(**reader, i, {0}, arrays[i].shape);
    ASSERT_TRUE(got.ok());
    EXPECT_EQ(*got, arrays[i].expected);
  }
  EXPECT_EQ((*reader)->statistics().chunks_decoded, 2u);
  std::uint64_t stored = 0;
  for (std::uint64_t i = 0; i < arrays.size(); ++i) stored += *(*reader)->stored_bytes(i);
  EXPECT_GT(stored, 30'000u);
  EXPECT_LT(stored, 50'000u);
}

TEST(EngineTest, TiedAndIdenticalArraysAreStoredOnce) {
  const TestArray noise = make_array("w", DType::kFloat32, {6 << 20}, 5);  // 24 MiB: several batches
  TestArray tied = noise, copy = noise;
  copy.name = "copy";
  const auto disk = new_disk();
  auto writer = create_writer(on(disk)(), {.threads = 3});
  ASSERT_TRUE(writer.ok());
  ArraySource second = noise.source();
  second.path = key_path_from_name("tied");
  tied.name = "tied";
  ASSERT_TRUE((*writer)->add(noise.source()).ok());
  ASSERT_TRUE((*writer)->add(std::move(second)).ok());
  ASSERT_TRUE((*writer)->add(copy.source()).ok());
  const auto report = (*writer)->finish();
  ASSERT_TRUE(report.ok());
  EXPECT_EQ((*writer)->bytes_done(), 3u * 24 * kMiB);
  DiskStorage storage(disk);
  ASSERT_TRUE(commit_on(storage, {*report}, {}).ok());
  EXPECT_LT(report->file_bytes, 25 * kMiB);
  EXPECT_EQ(report->logical_bytes, 3u * 24 * kMiB);
  auto reader = open_reader(on(disk)(), {});
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ(manifest_number(**reader, &Manifest::chunks), 6u);
  EXPECT_EQ(differences(**reader, {noise, tied, copy}), "");
  EXPECT_EQ((*reader)->statistics().chunks_read, 6u);
  EXPECT_EQ(damage(disk), "");
}

// --- Contracts --------------------------------------------------------------------------------------------------

TEST(EngineTest, RefusesWhatDoesNotFitTogether) {
  const auto disk = new_disk();
  auto writer = create_writer(on(disk)(), {.chunk_shape = {4000, 4000}});
  ASSERT_TRUE(writer.ok());
  Writer& w = **writer;
  const TestArray a = make_array("a", DType::kFloat32, {4, 4}), big = make_array("big", DType::kFloat64, {1100, 1000});
  ASSERT_TRUE(w.add(a.source()).ok());
  EXPECT_EQ(w.add(a.source()).code(), Code::kInvalidArgument);  // the name again
  const auto refused = [&](auto change) {
    ArraySource source = a.source();
    source.path = key_path_from_name("other");
    change(source);
    const Status status = w.add(source);
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << status.message();
  };
  refused([](ArraySource& s) { s.global_shape = {4, 3}; });
  refused([](ArraySource& s) { s.global_shape = {8, 4}, s.offset = {5, 0}; });
  refused([](ArraySource& s) { s.offset = {~0ull, 0}; });
  refused([](ArraySource& s) { s.global_shape = {1ull << 62, 4}; });
  refused([](ArraySource& s) { s.strides = {4}; });
  refused([](ArraySource& s) { s.offset = {0}; });
  refused([](ArraySource& s) { s.chunk_shape = {4}; });
  refused([](ArraySource& s) { s.dtype = DType::kNone; });
  refused([](ArraySource& s) { s.kind = LeafKind::kNone; });
  refused([](ArraySource& s) { s.shape.assign(65, 1), s.strides = {}; });
  EXPECT_EQ(w.add(big.source()).code(), Code::kInvalidArgument);  // chunks of 8.8 MB
  w.seal();
  EXPECT_EQ(w.add(big.source()).code(), Code::kInvalidArgument);
  ASSERT_TRUE(w.finish().ok());

  EXPECT_FALSE(create_writer(on(new_disk())(), {.process_index = 1}).ok());
  EXPECT_FALSE(create_writer(on(new_disk())(), {.process_count = 2}).ok());  // no attempt
  EXPECT_FALSE(create_writer(on(new_disk())(), {.process_count = 0}).ok());

  const auto good = new_disk();
  ASSERT_TRUE(save_on(on(good), {a}).ok());
  auto reader = open_reader(on(good)(), {});
  std::byte out[64];
  const auto read = [&](ReadRequest r) { return (*reader)->read_into({&r, 1}).code(); };
  EXPECT_EQ(read({.leaf = 1, .shape = {4, 4}, .data = out}), Code::kInvalidArgument);
  EXPECT_EQ(read({.leaf = 0, .shape = {4, 5}, .data = out}), Code::kMismatch);
  EXPECT_EQ(read({.leaf = 0, .start = {1, 0}, .shape = {4, 4}, .data = out}), Code::kMismatch);
  EXPECT_EQ(read({.leaf = 0, .start = {~0ull, 0}, .shape = {1, 4}, .data = out}), Code::kMismatch);
  EXPECT_EQ(read({.leaf = 0, .shape = {4}, .data = out}), Code::kMismatch);
  EXPECT_EQ(read({.leaf = 0, .shape = {4, 4}, .data = out}), Code::kOk);
}

TEST(EngineTest, WhatIsNoCheckpointIsSaidToBeNone) {
  const ScratchDirectory scratch;
  const auto open = [](const std::string& path) { return Reader::open(path).status(); };
  EXPECT_EQ(open(scratch.path() + "/absent").code(), Code::kNotFound);
  EXPECT_EQ(open(scratch.path()).code(), Code::kNotFound);
  EXPECT_EQ(verify(scratch.path()).status().code(), Code::kNotFound);
  auto writer = Writer::create(scratch.path() + "/running", {});
  ASSERT_TRUE(writer.ok());
  EXPECT_NE(open(scratch.path() + "/running").message().find("running, or did not finish"), std::string::npos);
  const std::string file = scratch.path() + "/running/" + data_file_name(0, (*writer)->attempt());
  EXPECT_EQ(open(file).code(), Code::kFormat);
  (*writer)->abort();
  EXPECT_FALSE(std::filesystem::exists(scratch.path() + "/running"));
}

TEST(EngineTest, AFailedLoadSaysWhichRequestsItTouched) {
  const auto disk = new_disk();
  const std::vector<TestArray> arrays = {make_array("a", DType::kInt32, {1 << 20}, 1),
                                         make_array("b", DType::kInt32, {1 << 20}, 2)};
  ASSERT_TRUE(save_on(on(disk), arrays, {.codec = CodecPolicy::kRaw}).ok());
  for (auto& [name, bytes] : disk->files())
    if (name.starts_with("p")) {
      auto damaged = bytes;
      damaged[64] ^= std::byte{1};
      disk->put(name, damaged);
    }
  for (const bool cached : {true, false}) {
    disk->set_cached(cached);
    auto reader = open_reader(on(disk)(), {});
    ASSERT_TRUE(reader.ok());
    std::vector<std::byte> out(4 << 20);
    std::vector<bool> modified;
    const ReadRequest b{.leaf = 1, .shape = {1 << 20}, .data = out.data()},
        a{.leaf = 0, .shape = {1 << 20}, .data = out.data()};
    ASSERT_TRUE((*reader)->read_into({&b, 1}, false, {}, &modified).ok());
    EXPECT_EQ(modified, std::vector<bool>{true});
    const auto status = (*reader)->read_into({&a, 1});
    EXPECT_EQ(status.code(), Code::kCorruption);
    EXPECT_NE(status.message().find("array 'a'"), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("p00000-"), std::string::npos) << status.message();
  }
}

// --- What checksums cannot see ----------------------------------------------------------------------------------

TEST(EngineVerifyTest, DeepVerificationComparesContentEndToEnd) {
  for (const CodecPolicy codec : {CodecPolicy::kRaw, CodecPolicy::kAuto}) {
    const auto disk = new_disk();
    const TestArray w = make_array("w", DType::kFloat32, {50'000}, 1, Layout::kC, Fill::kGaussian),
                    n = make_array("n", DType::kInt8, {70'000});
    ASSERT_TRUE(save_on(on(disk), {w, n}, {.codec = codec}).ok());
    CheckpointParts parts = CheckpointParts::open(*disk);
    parts.seal_and_write(*disk);
    EXPECT_EQ(damage(disk), "");            // taken apart and put together
    parts.data.body[1000] ^= std::byte{1};  // in a raw plane: the encoder was wrong, and the checksum is over its error
    parts.seal_and_write(*disk);
    EXPECT_EQ(damage(disk, false), "");
    const std::string found = damage(disk, true);
    EXPECT_NE(found.find(" w: "), std::string::npos) << found;
    EXPECT_EQ(found.find(" n: "), std::string::npos) << found;
    auto reader = open_reader(on(disk)(), {});
    ASSERT_TRUE(reader.ok());
    const auto status = read_box(**reader, 0, {0}, w.shape, Layout::kC, false, true).status();
    EXPECT_EQ(status.code(), Code::kCorruption) << status.message();
    EXPECT_NE(status.message().find("array 'w'"), std::string::npos) << status.message();
    EXPECT_TRUE(read_box(**reader, 1, {0}, n.shape, Layout::kC, false, true).ok());
  }
}

TEST(EngineVerifyTest, PaddingAndSpareBytesAreCovered) {
  const auto disk = new_disk();
  ASSERT_TRUE(
      save_on(on(disk), {make_array("w", DType::kUint8, {9'000'000}), make_array("n", DType::kInt8, {70'000})}).ok());
  CheckpointParts parts = CheckpointParts::open(*disk);
  // Behind the last extent of the first block there is padding: find a gap.
  bool found_gap = false;
  for (std::size_t at = 0; at + 2 * kExtentEntryBytes <= parts.data.table.size(); at += kExtentEntryBytes) {
    const auto end = load_le<std::uint64_t>(&parts.data.table[at]) + load_le<std::uint32_t>(&parts.data.table[at + 8]);
    if (end == load_le<std::uint64_t>(&parts.data.table[at + kExtentEntryBytes])) continue;
    found_gap = true;
    CheckpointParts changed = parts;
    changed.data.body[end - kHeaderBytes] = std::byte{7};
    changed.seal_and_write(*disk);
    EXPECT_NE(damage(disk, false).find("not zero"), std::string::npos);
    auto reader = open_reader(on(disk)(), {});
    EXPECT_FALSE(read_box(**reader, 0, {0}, {9'000'000}).ok());
  }
  EXPECT_TRUE(found_gap);
}

}  // namespace
}  // namespace ostraca
