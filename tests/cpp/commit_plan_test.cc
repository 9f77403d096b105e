// What a commit compares before it publishes, without files; and checkpoints of as many files as 1 TB takes.
#include "engine/commit_plan.h"

#include <gtest/gtest.h>

#include "base/limits.h"
#include "container/manifest.h"

namespace ostraca {
namespace {

constexpr std::uint64_t kTerabyte = 1ull << 40;
constexpr std::uint32_t kManyFiles = kTerabyte / kObjectFileBytes;
static_assert(kManyFiles == 32768);

FileReport report(std::uint32_t process, std::uint32_t count, std::uint32_t part = 0) {
  return {.process_index = process,
          .process_count = count,
          .attempt = {.bytes = {1}},
          .part = part,
          .file_bytes = 4096,
          .footer_crc = 7};
}

std::string refusal(std::vector<FileReport> reports) {
  const auto ordered = in_order(std::move(reports));
  return ordered.ok() ? "" : ordered.status().message();
}

TEST(CommitPlan, ReportsAreSortedAndHaveToAgree) {
  const auto ordered = in_order({report(2, 3), report(0, 3), report(1, 3)});
  ASSERT_TRUE(ordered.ok());
  for (std::uint32_t i = 0; i < 3; ++i) EXPECT_EQ((*ordered)[i].process_index, i);
  EXPECT_EQ(refusal({}), "there is nothing to commit: no reports");
  EXPECT_EQ(refusal({report(0, 2)}), "process 0 counts 2 processes, but 1 reported");
  EXPECT_EQ(refusal({report(0, 2), report(0, 2)}), "there is no report, or more than one, from process 1");
  FileReport other = report(1, 2);
  other.attempt.bytes[3] = 1;
  EXPECT_EQ(refusal({report(0, 2), other}), "processes 0 and 1 report different attempts");
  other = report(1, 2);
  other.base_directory = "key";
  EXPECT_EQ(refusal({report(0, 2), other}), "processes 0 and 1 report different bases");
}

TEST(CommitPlan, FeaturesAreThoseThatTheFileNeeds) {
  FileReport full = report(0, 1), delta = report(0, 1);
  delta.base_directory = "key";
  EXPECT_EQ(features_of(full, 0), 0u);
  EXPECT_EQ(features_of(full, 1), kFeatureParts);
  EXPECT_EQ(features_of(delta, 2), kFeatureParts | kFeatureIncremental);
}

DataDirectory directory_of(const FileReport& report) {
  DataDirectory directory;
  for (std::uint32_t part = 0; part <= report.part; ++part)
    directory.files.push_back({.bytes = part < report.part ? 9000u : 0u,
                               .process_index = report.process_index,
                               .id = report.attempt,
                               .part = part});
  return directory;
}

TEST(CommitPlan, TheLastFileNamesTheOthersAndTheReportTheLast) {
  const FileReport said = report(1, 2, 2);
  const auto share = share_of(said, directory_of(said));
  ASSERT_TRUE(share.ok()) << share.status().message();
  ASSERT_EQ(share->files.size(), 3u);
  EXPECT_EQ(share->files[1].bytes, 9000u);
  EXPECT_EQ(share->files[2], last_file(said));
  EXPECT_EQ(share_of(said, directory_of(report(1, 2, 1))).status().code(), Code::kFormat);
  EXPECT_EQ(share_of(said, directory_of(report(0, 2, 2))).status().code(), Code::kFormat);
  DataDirectory wrong = directory_of(said);
  wrong.shards.push_back({.process = 0});
  EXPECT_EQ(share_of(said, wrong).status().message(), "file '" + said.file_name() + "' holds a shard of process 0");
}

TEST(CommitPlan, ReportsAreSmallAndComeBack) {
  FileReport said = report(kProcessCountMax - 1, kProcessCountMax, kPartCountMax - 1);
  said.base_directory = std::string(kNameBytesMax, 'n');
  const std::string bytes = said.to_bytes();
  EXPECT_LE(bytes.size(), kReportBytesMax);
  const auto back = FileReport::from_bytes(bytes);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->part, kPartCountMax - 1);
  EXPECT_EQ(back->file_name(), said.file_name());
  EXPECT_EQ(back->base_directory, said.base_directory);
}

// One array of 1 TB in chunks of 4 MiB, 8 a file, by as many processes.
std::vector<Share> terabyte(std::uint32_t processes) {
  constexpr std::uint64_t kChunksAFile = kObjectFileBytes / kChunkBytesMax;
  const std::uint32_t parts = kManyFiles / processes;
  std::vector<Share> shares;
  for (std::uint32_t p = 0; p < processes; ++p) {
    const FileReport said = report(p, processes, parts - 1);
    DataDirectory directory = directory_of(said);
    LeafRecord leaf{.path_offset = directory.add_text(key_path_from_name("w")), .kind = LeafKind::kArray};
    leaf.path_bytes = static_cast<std::uint32_t>(directory.text.size());
    leaf.dtype = DType::kUint8;
    leaf.rank = 1;
    leaf.dims = directory.add_dims(std::vector<std::uint64_t>{kTerabyte});
    leaf.shard_count = 1;
    const std::uint64_t size = kTerabyte / processes;
    directory.leaves.push_back(leaf);
    directory.shards.push_back(
        {.dims = directory.add_dims(std::vector<std::uint64_t>{p * size, size, kChunkBytesMax}), .process = p});
    for (std::uint32_t part = 0; part < parts; ++part)
      for (std::uint32_t extent = 0; extent < kChunksAFile; ++extent) directory.refs.push_back({part, extent, 0});
    auto share = share_of(said, std::move(directory));
    share->extents.assign(parts, std::vector<Extent>(kChunksAFile, {.decoded_bytes = kChunkBytesMax}));
    shares.push_back(share.take());
  }
  return shares;
}

TEST(CommitPlan, ATerabyteInFilesOf32MiBFitsIndexAndManifest) {
  for (const std::uint32_t processes : {1u, 4096u}) {
    const std::vector<Share> shares = terabyte(processes);
    ASSERT_TRUE(check_file_count(shares).ok());
    const auto merged = merge(shares);
    ASSERT_TRUE(merged.ok()) << merged.status().message();
    const std::vector<std::byte> bytes = encode_directory(*merged);
    EXPECT_LT(bytes.size(), kDirectoryBytesMax / 100);
    const auto index = decode_index_directory(bytes);
    ASSERT_TRUE(index.ok()) << index.status().message();
    ASSERT_EQ(index->own_files(), kManyFiles);
    EXPECT_EQ(index->processes(), processes);
    std::vector<const std::vector<Extent>*> extents;
    Manifest manifest{.features = processes < kManyFiles ? kFeatureParts : 0, .id = index->files[0].id};
    manifest.created = utc_now();
    manifest.process_count = processes;
    manifest.index = {index_file_name(manifest.id), 4096, 1};
    const ReferencesByFile references(*index);
    for (const Share& share : shares)
      for (std::size_t i = 0; i < share.files.size(); ++i) {
        const FileRecord& file = share.files[i];
        ASSERT_EQ(index->files[manifest.files.size()], file);
        ASSERT_TRUE(references.fit(static_cast<std::uint32_t>(manifest.files.size()), share.extents[i]));
        extents.push_back(&share.extents[i]);
        manifest.files.push_back({file.name(), file.bytes, file.footer_crc});
      }
    ASSERT_TRUE(check_references(*index, extents).ok());
    const std::vector<Extent> too_few(7, {.decoded_bytes = kChunkBytesMax});
    EXPECT_FALSE(references.fit(kManyFiles - 1, too_few));
    const auto text = encode_manifest(manifest);
    ASSERT_TRUE(text.ok()) << text.status().message();
    EXPECT_LT(text->size(), kManifestBytesMax / 8);
    EXPECT_EQ(decode_manifest(*text)->files.back().name, shares.back().files.back().name());
  }
}

TEST(CommitPlan, TheMostFilesFitTheManifestAndOneMoreIsRefused) {
  Manifest manifest{.features = kFeatureParts, .id = {.bytes = {1}}, .created = utc_now(), .process_count = 4};
  manifest.index = {index_file_name(manifest.id), 4096, 1};
  for (std::uint32_t i = 0; i < kFileCountMax; ++i) {
    const std::uint32_t part = i % kPartCountMax;
    manifest.files.push_back({data_file_name(i / kPartCountMax, manifest.id, part), UINT64_MAX, UINT32_MAX});
  }
  const auto text = encode_manifest(manifest);
  ASSERT_TRUE(text.ok()) << text.status().message();
  EXPECT_LE(text->size(), kFileCountMax * kManifestFileBytesMax);
  std::vector<Share> shares(2);
  shares[0].files.resize(kFileCountMax);
  EXPECT_TRUE(check_file_count(shares).ok());
  shares[1].files.resize(1);
  EXPECT_EQ(check_file_count(shares).code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace ostraca
