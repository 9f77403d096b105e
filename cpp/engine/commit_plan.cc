#include "engine/commit_plan.h"

#include <algorithm>
#include <string>

#include "base/limits.h"

namespace ostraca {

Result<std::vector<FileReport>> in_order(std::vector<FileReport> reports) {
  if (reports.empty()) return invalid_argument("there is nothing to commit: no reports");
  std::ranges::sort(reports, {}, &FileReport::process_index);
  const FileReport& first = reports.front();
  for (std::size_t i = 0; i < reports.size(); ++i) {
    const FileReport& report = reports[i];
    const std::string process = std::to_string(report.process_index);
    const auto bad = [](const std::string& message) { return Status(Code::kCoordination, message); };
    if (report.attempt != first.attempt) return bad("processes 0 and " + process + " report different attempts");
    if (report.base_directory != first.base_directory || report.base_id != first.base_id)
      return bad("processes 0 and " + process + " report different bases");
    if (report.process_count != reports.size())
      return bad("process " + process + " counts " + std::to_string(report.process_count) + " processes, but " +
                 std::to_string(reports.size()) + " reported");
    if (report.process_index != i)
      return bad("there is no report, or more than one, from process " + std::to_string(i));
  }
  return reports;
}

std::uint64_t features_of(const FileReport& report, std::uint32_t part) {
  return (report.base_directory.empty() ? 0 : kFeatureIncremental) | (part > 0 ? kFeatureParts : 0);
}

FileRecord last_file(const FileReport& report) {
  return {.bytes = report.file_bytes,
          .footer_crc = report.footer_crc,
          .process_index = report.process_index,
          .id = report.attempt,
          .part = report.part};
}

Result<Share> share_of(const FileReport& report, DataDirectory directory) {
  const auto bad = [&](const std::string& message) {
    return format_error("file '" + report.file_name() + "' " + message);
  };
  Share share;
  share.files.assign(directory.files.begin(), directory.files.begin() + directory.own_files());
  if (share.files.size() != report.part + std::size_t{1})
    return bad("names " + std::to_string(share.files.size()) + " files of its process: expected " +
               std::to_string(report.part + std::size_t{1}) + ", as reported");
  for (const FileRecord& file : share.files)
    if (file.id != report.attempt || file.process_index != report.process_index)
      return bad("names files of another attempt or process");
  share.files.back() = last_file(report);
  for (const ShardRecord& shard : directory.shards)
    if (shard.process != report.process_index) return bad("holds a shard of process " + std::to_string(shard.process));
  share.directory = std::move(directory);
  share.extents.resize(share.files.size());
  return share;
}

Status check_file_count(const std::vector<Share>& shares) {
  std::size_t count = 0;
  for (const Share& share : shares) count += share.files.size();
  if (count <= kFileCountMax) return {};
  return invalid_argument("the processes wrote " + std::to_string(count) + " files: expected at most " +
                          std::to_string(kFileCountMax));
}

}  // namespace ostraca
