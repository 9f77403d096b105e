// Who still needs a checkpoint: open readers, and the deltas beside it (docs/format.md, section 2).
#pragma once

#include <memory>
#include <string>

#include "container/manifest.h"
#include "ostraca/types.h"
#include "storage/storage.h"

namespace ostraca {

// A lease on checkpoint `id`'s manifest, or on its tombstone if it was removed: for who reads it as a base. kNotFound:
// neither is there.
Result<std::unique_ptr<Lease>> lease_base(Storage& storage, const CheckpointId& id);

// Ok when the checkpoint beside `storage` that is called `name` is `id`, and was not removed: it can be a base.
Status check_live_base(Storage& storage, const std::string& name, const CheckpointId& id);

// The storage and the lease of a checkpoint's base, if it has one.
class OpenBase {
 public:
  OpenBase(Storage& storage, const Manifest& manifest) {
    if (manifest.base_directory.empty()) return;
    name_ = manifest.base_directory;
    storage_ = storage.sibling(manifest.base_directory);
    Result<std::unique_ptr<Lease>> lease = lease_base(*storage_, manifest.base_id);
    status_ = lease.status();
    if (lease.ok()) lease_ = lease.take();
  }
  Storage* storage() const { return storage_.get(); }  // null: there is no base
  const std::string& name() const { return name_; }
  // Whether the base's manifest, or what is left of it, is there and sound. Reading the base's chunks does without.
  const Status& status() const { return status_; }

 private:
  std::string name_;
  Status status_;
  std::unique_ptr<Storage> storage_;
  std::unique_ptr<Lease> lease_;
};

// kExists when the checkpoint in `storage` is the base of another one beside it, or of one being saved there:
// overwriting it would take the bytes from under it. Ok where there is none, or none that can be read. Looks at the
// neighbours only where there is a checkpoint without a base of its own.
Status check_names_no_delta(Storage& storage);

}  // namespace ostraca
