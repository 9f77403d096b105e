// The engine's entry points on any Storage: what the public ones, which take paths, are made of, and where tests
// put storages that fail.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ostraca/notes.h"
#include "ostraca/reader.h"
#include "ostraca/writer.h"
#include "storage/storage.h"

namespace ostraca {

Result<std::unique_ptr<Writer>> create_writer(std::unique_ptr<Storage> storage, WriterOptions options);
Result<std::string> commit_on(Storage& storage, const std::vector<FileReport>& reports, const CommitOptions& options);
Result<std::unique_ptr<Reader>> open_reader(std::unique_ptr<Storage> storage, ReaderOptions options);
Result<Notes> read_notes_on(Storage& storage, const std::optional<CheckpointId>& about = {});
Status write_notes_on(Storage& storage, const Notes& after, const std::string& facts, bool ahead = false);
Result<VerifyReport> verify_on(Storage& storage, bool deep, unsigned threads, const Poll& poll);

}  // namespace ostraca
