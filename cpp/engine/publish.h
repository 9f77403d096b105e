// The last step of a commit: a durable manifest gets its name, in place of another one or where there was none.
#pragma once

#include <optional>
#include <string>

#include "container/manifest.h"
#include "ostraca/status.h"
#include "ostraca/writer.h"
#include "storage/storage.h"

namespace ostraca {

struct Published {
  std::optional<Manifest> replaced;  // of the checkpoint that was overwritten: it is a tombstone now
};

// Makes `text`, which `manifest` was encoded to, the checkpoint's manifest, durably. kCommitUncertain: it may be that
// already, or soon be unreadable. Any other failure: what was there is there.
Status publish(Storage& storage, const Manifest& manifest, const std::string& text, const CommitOptions& options,
               Published* published);

// Removes the intent of attempt `id`, and what an overwritten checkpoint leaves, unless somebody has that as its base.
// What cannot be removed stays for prune.
void remove_superseded(Storage& storage, const CheckpointId& id, const Published& published);

}  // namespace ostraca
