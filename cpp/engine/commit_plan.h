// What a commit reads, in which order, and what has to agree before anything is published. No I/O.
#pragma once

#include <cstdint>
#include <vector>

#include "container/directory.h"
#include "engine/merge.h"
#include "ostraca/status.h"
#include "ostraca/writer.h"

namespace ostraca {

// The reports in the order of process index. kCoordination: they are not all of one attempt, against one base, one from
// each process.
Result<std::vector<FileReport>> in_order(std::vector<FileReport> reports);

// The features that a process's file requires, by its report.
std::uint64_t features_of(const FileReport& report, std::uint32_t part);

// The file that a report names: the process's last.
FileRecord last_file(const FileReport& report);

// What a process wrote, by its last file's directory, without the extents. kFormat: that is not the file reported.
Result<Share> share_of(const FileReport& report, DataDirectory directory);

// Ok when all these files fit one checkpoint.
Status check_file_count(const std::vector<Share>& shares);

}  // namespace ostraca
