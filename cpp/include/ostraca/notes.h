// Facts that change after a checkpoint's commit: tags, late metrics, when it was verified. Never needed to read data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "ostraca/status.h"
#include "ostraca/types.h"

namespace ostraca {

struct Notes {
  CheckpointId id;           // of the checkpoint that they are about
  std::string facts = "{}";  // JSON text of an object: the newest notes about it that can be read
  std::uint64_t number = 0;  // of these; 0: there are none
  std::uint64_t last = 0;    // the highest that any notes have, readable and about this checkpoint or not
  bool unknown = false;      // newer ones than `facts` cannot be read
};

// Of the checkpoint that is there (kNotFound: there is none), or of another one that was.
Result<Notes> read_notes(const std::string& path, const std::optional<CheckpointId>& about = {});

// Writes `facts`, the JSON text of an object, as the notes number `after.last` + 1 about checkpoint `after.id`,
// durably, and removes all but the last few about it. kExists: somebody else was faster; read, merge and try again.
// kNotFound: the checkpoint is not there any more. `ahead`: it is not there yet, but about to take another's place,
// whose notes stay.
Status write_notes(const std::string& path, const Notes& after, const std::string& facts, bool ahead = false);

}  // namespace ostraca
