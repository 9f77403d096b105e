// The last step of a commit: a durable manifest gets its name, in place of another one or where there was none.
#pragma once

#include <optional>
#include <string>

#include "container/manifest.h"
#include "ostraca/status.h"
#include "ostraca/writer.h"
#include "storage/storage.h"

namespace ostraca {

// Makes `text`, which `manifest` was encoded to, the checkpoint's manifest, durably. kCommitUncertain: it may be that
// already, or soon be unreadable. Any other failure: what was there is there. `replaced` is set to the manifest of the
// checkpoint that was overwritten, which is a tombstone then.
Status publish(Storage& storage, const Manifest& manifest, const std::string& text, const CommitOptions& options,
               std::optional<Manifest>* replaced);

// Removes the intent of attempt `id`, and what an overwritten checkpoint leaves, unless somebody has that as its base.
// What cannot be removed stays for prune.
void remove_superseded(Storage& storage, const CheckpointId& id, const std::optional<Manifest>& replaced);

}  // namespace ostraca
