// Who still needs a checkpoint: open readers, and the deltas beside it (docs/format.md, section 2).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "container/manifest.h"
#include "ostraca/types.h"
#include "storage/storage.h"

namespace ostraca {

// The checkpoint of that name in the same run.
inline std::unique_ptr<Storage> beside(Storage& storage, const std::string& name) {
  return storage.run()->checkpoint(name);
}

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
    storage_ = beside(storage, manifest.base_directory);
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

// Who beside a checkpoint has it as its base: another one, or a save that may be running.
struct Claim {
  std::string by;        // a name for people, with what to do about it; empty: nobody that is known
  bool unknown = false;  // something there could not be read, or vanished, and may have it as its base
};
// What lies in directories that are closed to us is not counted.
Result<Claim> claim_on(Storage& storage, const CheckpointId& id);

// kExists when somebody has the checkpoint in `storage`, which this is the manifest of, as its base: overwriting it
// would take the bytes from under it. Looks at the neighbours only where the checkpoint has no base of its own.
Status check_no_claim(Storage& storage, const Manifest& manifest);

// What holds the place that a save wants.
struct InPlace {
  bool is_there = false;
  std::optional<Manifest> manifest;  // if it could be read
  Expected expected = Expected::absent();
};
// Fails only where the system does: a damaged manifest may be overwritten.
Result<InPlace> manifest_in_place(Storage& storage);

// Whether the process that wrote an intent runs. kUnknown: it is not of this machine.
enum class Saver { kRuns, kGone, kUnknown };
Saver saver_of(const Intent& intent);

// Whether an attempt to save may go on: the one answer. By its intent (null: it has none that can be read), and the age
// of the newest of its files by the store's clock.
enum class Life {
  kRuns,    // its process runs, on this machine
  kRecent,  // somebody wrote to it, or its files came here, within the grace period
  kGone,    // the same, but its process is gone
  kOver,    // none of it
};
Life life_of(const Intent* intent, std::int64_t age_ns, std::int64_t grace_ns);
// Longer than any save is silent, and than readers go on that the server gives no lease: nanoseconds.
inline constexpr std::int64_t kGraceNs = 3'600'000'000'000;

}  // namespace ostraca
