#include "container/directory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>

#include "base/limits.h"
#include "container_helpers.h"

namespace ostraca {
namespace {

bool contains(const std::string& text, const std::string& what) { return text.find(what) != std::string::npos; }

// One of everything.
DirectoryBuilder sample() {
  DirectoryBuilder b(2);
  b.leaf({key("params"), key("w")}, {10, 8}, DType::kBfloat16).big_endian = true;
  b.shard({0, 0}, {10, 4}, {4, 4}, 0);
  b.shard({0, 4}, {10, 4}, {10, 1}, 1);
  b.whole({key("params"), key("b/~")}, {});
  b.leaf({key("params"), integer_key(-7)}, {0, 1ull << 60});
  b.whole({key("opt"), attribute("mu"), list_index(0)}, {3}, DType::kInt8);
  b.whole({key("opt"), attribute("mu"), list_index(1)}, {3}, DType::kComplex128);
  b.leaf({key("opt"), attribute("names"), tuple_index(0)}, {2}, DType::kTextString, LeafKind::kArray, "12");
  b.shard({0}, {2}, {5});
  b.leaf({key("opt"), attribute("names"), tuple_index(1)}, {2}, DType::kByteString, LeafKind::kArray, "0");
  b.leaf({key("opt"), attribute("when")}, {2, 2}, DType::kDatetime64, LeafKind::kArray, "25s");
  b.shard({0, 0}, {2, 2}, {1, 1});
  b.leaf({key("rng")}, {2}, DType::kUint32, LeafKind::kPrngKey, "threefry2x32");
  b.shard({0}, {2}, {2});
  b.leaf({key("none")}, {}, DType::kNone, LeafKind::kNone);
  b.leaf({key("empty")}, {}, DType::kNone, LeafKind::kEmptyDict);
  b.leaf({key("int")}, {1}, DType::kUint8, LeafKind::kInt);
  b.shard({0}, {1}, {1});
  b.leaf({key("float")}, {}, DType::kFloat64, LeafKind::kFloat);
  b.shard({}, {}, {});
  b.leaf({key("str")}, {0}, DType::kUint8, LeafKind::kStr);
  b.leaf({key("words")}, {2, 3}, DType::kUint64, LeafKind::kStrings, "na=nan");
  b.shard({0, 0}, {2, 3}, {1, 3});
  b.whole({key("words"), attribute("data")}, {40}, DType::kUint8);
  b.leaf({key("tied")}, {10, 8}, DType::kBfloat16);  // shares the references of params/w
  b.shard({0, 0}, {10, 4}, {4, 4}, 0);
  b.shard({0, 4}, {10, 4}, {10, 1}, 1);
  b.directory.refs.resize(b.directory.refs.size() - 7);
  b.directory.shards.end()[-2].first_ref = 0;
  b.directory.shards.end()[-1].first_ref = 3;
  return b;
}

TEST(Directory, RoundTrips) {
  const DirectoryBuilder b = sample();
  const auto bytes = encode_directory(b.directory);
  const auto decoded = decode_index_directory(bytes);
  ASSERT_TRUE(decoded.ok()) << decoded.status().message();
  EXPECT_EQ(encode_directory(*decoded), bytes);
  EXPECT_EQ(*display_name(decoded->path(decoded->leaves[1])), "params/b~1~0");
  EXPECT_EQ(decoded->shard_shape(decoded->leaves[0], decoded->shards[1])[1], 4u);
  EXPECT_EQ(decoded->chunk_shape(decoded->leaves[0], decoded->shards[1])[0], 10u);
  EXPECT_TRUE(decode_index_directory(encode_directory(IndexDirectory{})).ok());
}

TEST(Directory, DataFilesNameThemselvesAndMayBePartial) {
  DirectoryBuilder b;
  b.directory.files[0].bytes = 0;
  b.directory.files[0].footer_crc = 0;
  b.leaf({key("w")}, {10});
  b.shard({4}, {2}, {2});
  EXPECT_EQ(b.refusal(false), "");
  EXPECT_TRUE(contains(b.refusal(true), "0 bytes hold no header"));
  b.directory.files[0].bytes = 4096;
  EXPECT_NE(b.refusal(false), "");
  EXPECT_EQ(b.refusal(true), "leaf 'w': its shards cover 2 of 10 elements");
}

TEST(Directory, ALastPartNamesTheFilesBeforeItAndTheOthersOnlyThemselves) {
  const auto part = [](std::uint32_t number, std::uint64_t bytes) {
    return FileRecord{.bytes = bytes, .process_index = 0, .id = test_id(), .part = number};
  };
  DirectoryBuilder b;
  b.leaf({key("w")}, {10});
  b.shard({4}, {2}, {2});
  b.directory.files = {part(0, 4096), part(1, 4096), part(2, 0)};
  EXPECT_EQ(b.refusal(false), "");
  b.directory.files[1].part = 0;
  EXPECT_TRUE(contains(b.refusal(false), "file 1: expected part 1"));
  b.directory.files = {part(0, 0), part(1, 0)};
  EXPECT_TRUE(contains(b.refusal(false), "0 bytes hold no header"));
  b.directory.files = {part(2, 0)};
  EXPECT_TRUE(contains(b.refusal(false), "says nothing of leaves"));
  DirectoryBuilder empty;
  empty.directory.files = {part(2, 0)};
  EXPECT_EQ(empty.refusal(false), "");
}

TEST(Directory, AnIndexHasPartsInOrderAndSaysHowTheBaseNumbersItsFiles) {
  DirectoryBuilder b(3);
  b.directory.files[1].process_index = 0;
  b.directory.files[1].part = 1;
  b.directory.files[2].process_index = 1;
  EXPECT_EQ(b.refusal(), "");
  EXPECT_EQ(b.directory.processes(), 2u);
  b.directory.files[2].part = 1;
  EXPECT_TRUE(contains(b.refusal(), "order of process index and part"));
  b.directory.files[2].part = 0;
  b.directory.files[2].shift = 1;
  EXPECT_TRUE(contains(b.refusal(), "is not of the base"));
  b.directory.files[2].in_base = true;
  EXPECT_EQ(b.refusal(), "");
  EXPECT_EQ(b.directory.files[2].base_number(), 2u);
  b.directory.files[2].part = 2;
  EXPECT_TRUE(contains(b.refusal(), "exceeds its process index by 1"));
  b.directory.files[2].shift = kFileCountMax;
  EXPECT_TRUE(contains(b.refusal(), "exceeds its process index by"));
}

TEST(Directory, SizesMustFitExactly) {
  const auto bytes = encode_directory(sample().directory);
  for (std::size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(decode_index_directory(Bytes(bytes).first(n)).ok()) << n;
  auto longer = bytes;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(decode_index_directory(longer).ok());
}

// Every byte, and every aligned field of 4 and 8 bytes, set to hostile values: refused, or read as what it says.
TEST(Directory, HostileFieldsNeverSurprise) {
  const auto bytes = encode_directory(sample().directory);
  const auto check = [](const std::vector<std::byte>& changed) {
    const auto check_decoded = [&](const auto& decoded) {
      if (!decoded.ok()) return;
      EXPECT_EQ(encode_directory(*decoded), changed);
      const std::vector<Extent> table(100);
      const std::vector<const std::vector<Extent>*> tables(decoded->files.size(), &table);
      EXPECT_FALSE(check_references(*decoded, tables).ok());  // no extent of the table holds anything
    };
    check_decoded(decode_data_directory(changed));
    check_decoded(decode_index_directory(changed));
  };
  const auto mutate = [&]<class T>(T) {
    for (std::size_t at = 0; at + sizeof(T) <= bytes.size(); at += sizeof(T)) {
      const T value = load_le<T>(bytes.data() + at);
      const T top = static_cast<T>(T{1} << (8 * sizeof(T) - 1));
      for (T hostile : {T{0}, T{1}, static_cast<T>(value + 1), static_cast<T>(value - 1), static_cast<T>(~T{0}), top,
                        static_cast<T>(top - 1), static_cast<T>(value | top), static_cast<T>(~T{0} / 3)}) {
        auto changed = bytes;
        store_le(changed.data() + at, hostile);
        check(changed);
      }
    }
  };
  mutate(std::uint8_t{});
  mutate(std::uint32_t{});
  mutate(std::uint64_t{});
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) check(flipped(bytes, bit));
}

TEST(Directory, ReservedBytesAreChecked) {
  DirectoryBuilder b;
  b.whole({key("w")}, {4});
  const auto bytes = encode_directory(b.directory);
  for (std::size_t at : {48u, 63u, 64u + 33u, 64u + 39u, 64u + 40u + 48u + 20u, 64u + 40u + 48u + 24u + 12u}) {
    auto changed = bytes;
    changed[at] = std::byte{1};
    EXPECT_FALSE(decode_index_directory(changed).ok()) << at;
  }
}

TEST(Directory, KindsAndDetails) {
  const auto refused = [](DType dtype, const Dims& shape, LeafKind kind, const std::string& detail = "") {
    DirectoryBuilder b;
    b.leaf({key("x")}, shape, dtype, kind, detail);
    return !b.decode().ok() && !contains(b.refusal(), "cover");
  };
  EXPECT_FALSE(refused(DType::kFloat32, {3}, LeafKind::kArray));
  EXPECT_TRUE(refused(DType::kFloat32, {3}, LeafKind::kArray, "x"));
  EXPECT_TRUE(refused(DType::kNone, {}, LeafKind::kArray));
  EXPECT_FALSE(refused(DType::kVoid, {3}, LeafKind::kArray, "8"));
  EXPECT_TRUE(refused(DType::kVoid, {3}, LeafKind::kArray, "08"));
  EXPECT_FALSE(refused(DType::kUint32, {2}, LeafKind::kPrngKey, "rbg"));
  EXPECT_TRUE(refused(DType::kUint32, {2}, LeafKind::kPrngKey));
  EXPECT_TRUE(refused(DType::kUint32, {2}, LeafKind::kPrngKey, "\xFF"));
  EXPECT_TRUE(refused(DType::kVoid, {2}, LeafKind::kPrngKey, "8"));
  EXPECT_TRUE(refused(DType::kUint8, {0}, LeafKind::kInt));
  EXPECT_TRUE(refused(DType::kUint8, {}, LeafKind::kInt));
  EXPECT_TRUE(refused(DType::kFloat32, {}, LeafKind::kFloat));
  EXPECT_TRUE(refused(DType::kBool, {1}, LeafKind::kBool));
  EXPECT_TRUE(refused(DType::kInt8, {1}, LeafKind::kStr));
  EXPECT_TRUE(refused(DType::kUint8, {1, 1}, LeafKind::kBytes));
  EXPECT_TRUE(refused(DType::kUint8, {}, LeafKind::kNone));
  EXPECT_TRUE(refused(DType::kNone, {0}, LeafKind::kEmptyList));
  EXPECT_TRUE(refused(DType::kNone, {}, LeafKind::kEmptyTuple, "x"));
  EXPECT_TRUE(refused(DType::kVoid, {1}, LeafKind::kArray, std::string(1025, '1')));
  EXPECT_TRUE(refused(DType::kUint8, Dims(65, 1), LeafKind::kArray));
  EXPECT_FALSE(refused(DType::kUint8, Dims(64, 1), LeafKind::kArray));
  DirectoryBuilder b;
  b.leaf({key("x")}, {0}, DType::kInt8).big_endian = true;
  EXPECT_EQ(b.refusal(), "leaf 'x': dtype int8 has no byte order");
}

TEST(Directory, ShapesAndGrids) {
  const auto refusal = [](const Dims& shape, const Dims& offset, const Dims& box, const Dims& chunk) {
    DirectoryBuilder b;
    b.leaf({key("params"), key("w")}, shape);
    b.shard(offset, box, chunk);
    return b.refusal(true);
  };
  EXPECT_EQ(refusal({12}, {0}, {12}, {5}), "");
  EXPECT_EQ(refusal({12}, {0}, {12}, {UINT64_MAX}), "");
  EXPECT_EQ(refusal({12}, {10}, {5}, {5}),
            "leaf 'params/w': shard 0 lies outside the global shape: offset 10 + shape 5 > 12 in dimension 0");
  EXPECT_TRUE(contains(refusal({12}, {UINT64_MAX}, {2}, {2}), "outside the global shape"));
  EXPECT_TRUE(contains(refusal({12}, {0}, {12}, {0}), "empty chunk shape"));
  EXPECT_TRUE(contains(refusal({12}, {3}, {0}, {1}), "is empty"));
  EXPECT_TRUE(contains(refusal({0}, {0}, {0}, {1}), "expected no shards"));
  EXPECT_TRUE(contains(refusal({1 << 21}, {0}, {1 << 21}, {1 << 21}), "at most 4 MiB"));
  EXPECT_EQ(refusal({1 << 21}, {0}, {1 << 21}, {1 << 20}), "");
  for (const Dims& huge :
       {Dims{1ull << 62}, Dims{1ull << 32, 1ull << 32}, Dims{UINT64_MAX, UINT64_MAX}, Dims{0, UINT64_MAX}}) {
    DirectoryBuilder b;
    b.leaf({key("w")}, huge);
    EXPECT_TRUE(contains(b.refusal(false), "directory: expected the data file")) << huge[0];
    EXPECT_TRUE(contains(b.refusal(true), "fewer than 2^63 bytes")) << huge[0];
  }
  std::uint64_t count = 0;
  EXPECT_FALSE(grid_count(Dims{1ull << 33, 1ull << 33}, Dims{1, 1}, &count));
  EXPECT_TRUE(grid_count(Dims{1ull << 33, 0, 1ull << 33}, Dims{1, 1, 1}, &count));
  EXPECT_EQ(count, 0u);
}

TEST(Directory, ShardsAreDisjointAndCover) {
  const auto refusal = [](const Dims& shape, const std::vector<std::array<Dims, 2>>& boxes) {
    DirectoryBuilder b;
    b.leaf({key("w")}, shape);
    for (const auto& [offset, box] : boxes) b.shard(offset, box, box);
    return b.refusal(true);
  };
  EXPECT_EQ(refusal({4, 4}, {{Dims{0, 0}, Dims{2, 4}}, {Dims{2, 0}, Dims{2, 2}}, {Dims{2, 2}, Dims{2, 2}}}), "");
  EXPECT_EQ(refusal({4, 4}, {{Dims{0, 0}, Dims{2, 4}}, {Dims{1, 0}, Dims{2, 4}}}),
            "leaf 'w': shards overlap: [0:2, 0:4] and [1:3, 0:4]");
  EXPECT_EQ(refusal({4, 4}, {{Dims{0, 0}, Dims{2, 4}}, {Dims{2, 0}, Dims{2, 3}}}),
            "leaf 'w': its shards cover 14 of 16 elements");
  EXPECT_TRUE(contains(refusal({}, {{Dims{}, Dims{}}, {Dims{}, Dims{}}}), "overlap"));
  // A pinwheel: no straight cut takes it apart.
  const std::vector<std::array<Dims, 2>> wheel = {{Dims{0, 0}, Dims{1, 2}},
                                                  {Dims{0, 2}, Dims{2, 1}},
                                                  {Dims{2, 1}, Dims{1, 2}},
                                                  {Dims{1, 0}, Dims{2, 1}},
                                                  {Dims{1, 1}, Dims{1, 1}}};
  EXPECT_EQ(refusal({3, 3}, wheel), "");
}

TEST(Directory, LargeGridsAreCheapAndOneOverlapIsFound) {
  constexpr std::uint64_t kSide = 300;
  const auto grid = [&](std::uint64_t moved) {
    DirectoryBuilder b;
    b.leaf({key("w")}, {2 * kSide, kSide, 5}, DType::kInt8);
    for (std::uint64_t i = 0; i < kSide * kSide; ++i) {
      const std::uint64_t row = i * 7919 % (kSide * kSide) / kSide, column = i * 7919 % kSide;
      b.shard({2 * row - (i == moved && row > 0), column, 0}, {2, 1, 5}, {2, 1, 5});
    }
    return b.refusal(true);
  };
  EXPECT_EQ(grid(UINT64_MAX), "");
  EXPECT_TRUE(contains(grid(55'555), "shards overlap"));
}

// Pinwheels within pinwheels: disjoint, but no straight cut takes them apart.
TEST(Directory, IrregularShardsRunOutOfBudgetNotOfTime) {
  const auto refusal = [](std::uint64_t rings) {
    const std::uint64_t side = 2 * rings + 1;
    DirectoryBuilder b;
    b.leaf({key("w")}, {side, side}, DType::kInt8);
    for (std::uint64_t k = 0, length = side - 1; k < rings; ++k, length -= 2) {
      const Dims row = {1, length}, column = {length, 1};
      b.shard({k, k}, row, row);
      b.shard({k, side - 1 - k}, column, column);
      b.shard({side - 1 - k, k + 1}, row, row);
      b.shard({k + 1, k}, column, column);
    }
    b.shard({rings, rings}, {1, 1}, {1, 1});
    return b.refusal(true);
  };
  EXPECT_EQ(refusal(200), "");
  EXPECT_TRUE(contains(refusal(10'000), "too irregularly to tell"));
}

TEST(Directory, KeyPathsMakeOneTree) {
  const auto refusal = [](const std::vector<std::vector<KeyPart>>& paths) {
    DirectoryBuilder b;
    for (const auto& path : paths) b.whole(path, {2});
    return b.refusal(true);
  };
  EXPECT_EQ(refusal({{}}), "");
  EXPECT_EQ(refusal({{key("")}}), "");
  EXPECT_EQ(refusal({{key("a"), key("x")}, {key("b")}, {key("a"), key("y")}}), "");  // not grouped, yet a tree
  EXPECT_EQ(refusal({{key("a")}, {key("a")}}), "leaf 'a': key path is not unique");
  EXPECT_EQ(refusal({{key("a")}, {key("b")}, {key("a")}}), "leaf 'a': key path is not unique");
  EXPECT_TRUE(contains(refusal({{}, {key("")}}), "one lies below the other"));
  EXPECT_TRUE(contains(refusal({{key("a")}, {key("b")}, {key("a"), key("x")}}), "one lies below the other"));
  EXPECT_TRUE(contains(refusal({{key("a"), key("x"), key("z")}, {key("a")}}), "one lies below the other"));
  EXPECT_EQ(refusal({{key("a"), list_index(0)}, {key("a"), tuple_index(0)}}),
            "leaf 'a/0': and leaf 'a/0' disagree on the container of node 'a'");
  EXPECT_TRUE(
      contains(refusal({{key("a"), attribute("x")}, {key("b")}, {key("a"), key("y")}}), "container of node 'a'"));
  EXPECT_EQ(refusal({{key("5"), key("x")}, {integer_key(5), key("y")}}), "");
  EXPECT_EQ(refusal({{key("5"), key("x")}, {integer_key(5), key("x")}}),
            "leaf '5/x': another leaf has the same display name");
  EXPECT_EQ(refusal({{key("a/b")}, {key("a"), key("b")}}), "");
}

TEST(Directory, KeyPathsDoNotShareText) {
  DirectoryBuilder b;
  b.whole({key("abcdefgh")}, {2});
  b.whole({key("x")}, {2});
  b.directory.leaves[1].path_offset = 0;
  b.directory.leaves[1].path_bytes = 13;
  for (LeafRecord& leaf : b.directory.leaves) leaf.detail_offset = 0;
  b.directory.text.resize(13);
  EXPECT_TRUE(contains(b.refusal(), "key paths overlap"));
}

TEST(Directory, FilesAreInOrder) {
  DirectoryBuilder b(3);
  EXPECT_EQ(b.refusal(), "");
  std::swap(b.directory.files[0], b.directory.files[1]);
  EXPECT_TRUE(contains(b.refusal(), "order of process index"));
  b = DirectoryBuilder(2);
  b.directory.files[1].id = test_id(9);
  EXPECT_TRUE(contains(b.refusal(), "attempt id"));
  b = DirectoryBuilder(2);
  b.directory.files[1].process_index = 2;
  EXPECT_TRUE(contains(b.refusal(), "order of process index"));
  b = DirectoryBuilder(2);
  b.leaf({key("w")}, {2});
  b.shard({0}, {2}, {2});
  b.directory.shards[0].process = 2;
  EXPECT_TRUE(contains(b.refusal(), "process: expected less than 2, found 2"));
  b = DirectoryBuilder(2);
  b.directory.files[0].in_base = true;
  EXPECT_TRUE(contains(b.refusal(), "comes after those of the base"));
}

TEST(Directory, TiedShardsShareTheirWholeGrid) {
  DirectoryBuilder b;
  b.leaf({key("a")}, {8});
  b.shard({0}, {8}, {2});
  b.leaf({key("b")}, {8});
  b.shard({0}, {8}, {2});
  b.directory.shards[1].first_ref = 0;
  EXPECT_EQ(b.refusal(), "");
  b.directory.shards[1].first_ref = 1;
  EXPECT_TRUE(contains(b.refusal(), "shares some references with leaf 'a'"));
  b.directory.shards[1].first_ref = 0;
  b.directory.leaves[1].dtype = DType::kInt8;
  EXPECT_TRUE(contains(b.refusal(), "shares some references with leaf"));
}

TEST(References, ChunksLieInTheirExtents) {
  DirectoryBuilder b;
  b.leaf({key("w")}, {5, 3}, DType::kInt16);
  b.shard({0, 0}, {5, 3}, {2, 2});  // chunks of 8, 4, 8, 4, 4, 2 bytes
  const auto decoded = b.decode();
  ASSERT_TRUE(decoded.ok()) << decoded.status().message();
  std::vector<Extent> table(6);
  const std::uint32_t sizes[] = {8, 4, 8, 4, 4, 2};
  for (std::size_t i = 0; i < table.size(); ++i) table[i].decoded_bytes = sizes[i];
  const std::vector<Extent>* tables[] = {&table};
  EXPECT_TRUE(check_references(*decoded, tables).ok());
  for (std::size_t i = 0; i < table.size(); ++i) {
    --table[i].decoded_bytes;
    EXPECT_EQ(check_references(*decoded, tables).message(),
              "leaf 'w': shard 0: chunk " + std::to_string(i) + ": offset 0 + " + std::to_string(sizes[i]) +
                  " bytes of a chunk > " + std::to_string(sizes[i] - 1) + " decoded bytes of extent " +
                  std::to_string(i) + " in file 0");
    ++table[i].decoded_bytes;
  }
  table.pop_back();
  EXPECT_TRUE(contains(check_references(*decoded, tables).message(), "extent 5 of the 5"));
  tables[0] = nullptr;
  EXPECT_TRUE(check_references(*decoded, tables).ok());
  EXPECT_FALSE(check_references(*decoded, {}).ok());
}

TEST(Directory, RandomOnesRoundTrip) {
  std::mt19937_64 random(20261120);
  const auto below = [&](std::uint64_t n) { return random() % n; };
  for (int round = 0; round < 200; ++round) {
    DirectoryBuilder b(static_cast<std::uint32_t>(1 + below(4)));
    const std::uint64_t leaves = below(40);
    for (std::uint64_t i = 0; i < leaves; ++i) {
      const std::uint64_t depth = below(3);  // in the first name, so that containers agree
      std::vector<KeyPart> parts = {key("node" + std::to_string(depth))};
      for (std::uint64_t d = 0; d < depth; ++d) parts.push_back(attribute(std::string(below(12), 'n')));
      parts.push_back(i % 2 == 0 ? key("leaf") : integer_key(static_cast<std::int64_t>(below(3)) - 1));
      parts.push_back(list_index(static_cast<std::int64_t>(i)));
      Dims shape(below(4));
      for (auto& d : shape) d = below(9);
      b.leaf(parts, shape, static_cast<DType>(1 + below(32)));
      if (std::ranges::find(shape, 0u) != shape.end()) continue;
      Dims rest = shape, offset(shape.size(), 0), chunk(shape.size(), 1 + below(4));
      if (!shape.empty())  // cut the first dimension into shards
        for (rest[0] = 1 + below(shape[0]); offset[0] + rest[0] < shape[0]; offset[0] += rest[0])
          b.shard(offset, rest, chunk, static_cast<std::uint32_t>(below(b.directory.files.size())));
      if (!shape.empty()) rest[0] = shape[0] - offset[0];
      b.shard(offset, rest, chunk);
    }
    const auto bytes = encode_directory(b.directory);
    const auto decoded = decode_index_directory(bytes);
    ASSERT_TRUE(decoded.ok()) << decoded.status().message();
    EXPECT_EQ(encode_directory(*decoded), bytes);
  }
}

// Not a benchmark: a guard against quadratic work, generous enough for sanitizers.
TEST(Directory, HundredThousandLeaves) {
  DirectoryBuilder b;
  for (int i = 0; i < 100'000; ++i)
    b.whole({key("params"), key("decoder_layer_" + std::to_string(i / 10)), key("attention"),
             key("kernel_" + std::to_string(i % 10))},
            {128, 128});
  const auto time = [](auto work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  };
  std::vector<std::byte> bytes;
  const double encode_ms = time([&] { bytes = encode_directory(b.directory); });
  const double decode_ms = time([&] { EXPECT_TRUE(decode_index_directory(bytes).ok()); });
  RecordProperty("encode_ms", std::to_string(encode_ms));
  RecordProperty("decode_ms", std::to_string(decode_ms));
  if (std::getenv("OSTRACA_TEST_TIMES") != nullptr)
    std::printf("encode %.1f ms, decode %.1f ms\n", encode_ms, decode_ms);
  EXPECT_LT(decode_ms, 5000);
}

}  // namespace
}  // namespace ostraca
