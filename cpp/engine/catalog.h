// What lies in a run: which of its files are documents, what they say, and whether the checkpoints there are whole.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "container/manifest.h"
#include "ostraca/notes.h"
#include "storage/storage.h"

namespace ostraca {

// Scans that read manifests last: a save publishes its manifest before it removes its intent, so that one is seen.
ScanOptions scan_of_intents();    // and manifests
ScanOptions scan_of_documents();  // and tombstones and notes

// The rule of notes: of those about a checkpoint the newest that can be read counts. Takes them newest first.
class NotesAbout {
 public:
  explicit NotesAbout(const CheckpointId& id) { notes_.id = id; }
  // Whether that was it. Nothing: a note that cannot be read.
  bool take(std::uint64_t number, const Result<Note>& note);
  const Notes& notes() const { return notes_; }

 private:
  Notes notes_;
};

// When the newest checkpoint of a run was created, in nanoseconds since 1970; 0: there is none. Reads the manifests
// that changed last: one of them was created last, unless somebody copied checkpoints about.
Result<std::int64_t> created_last(Run& run);

// Whether a checkpoint's manifest and index can be used, and its files are there in their sizes.
Status check_checkpoint(Storage& storage);
// Of many children, by name and identity, at a time.
std::vector<Status> check_checkpoints(Run& run, const std::vector<std::pair<std::string, std::string>>& children);

}  // namespace ostraca
