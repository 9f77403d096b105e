// Who still needs a checkpoint: open readers, and the deltas beside it (docs/format.md, section 2).
#pragma once

#include <memory>

#include "ostraca/types.h"
#include "storage/storage.h"

namespace ostraca {

// A lease on checkpoint `id`'s manifest, or on its tombstone if it was removed: for who reads it as a base. kNotFound:
// neither is there.
Result<std::unique_ptr<Lease>> lease_base(Storage& storage, const CheckpointId& id);

// kExists when the checkpoint in `storage` is the base of another one beside it, or of one being saved there:
// overwriting it would take the bytes from under it. Ok where there is none, or none that can be read. Looks at the
// neighbours only where there is a checkpoint without a base of its own.
Status check_names_no_delta(Storage& storage);

}  // namespace ostraca
