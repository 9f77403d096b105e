// How a manifest gets its name:
//
//   1. without `overwrite` where there is none, which the store sees to. With it, under the lease of those who replace
//      or remove a manifest (prune is among them; readers are not), and only there:
//   2.   the manifest in place is read: it must be the one that is to be replaced, and nobody's base;
//   3.   the new one takes the place of this version of it, which gets its tombstone's name (or of none, as those of
//        step 1 hold no lease; if somebody was faster, from 2);
//   4.   the names are made durable, and the lease ends.
//   5. Whoever took the overwritten checkpoint as its base between 2 and 3 has written its intent by then: only if
//      there is nobody its files are removed, the tombstone last. Otherwise prune does that one day.
//
// A crash leaves the old manifest with two names, or the new one and a tombstone.

#include "engine/publish.h"

#include <memory>
#include <vector>

#include "container/file_format.h"
#include "engine/lifetime.h"

namespace ostraca {
namespace {

constexpr int kTries = 100;  // each but the last one lost to a save that was faster

Status check_base(Storage& storage, const Manifest& manifest) {
  if (manifest.base_directory.empty()) return {};
  return check_live_base(storage, manifest.base_directory, manifest.base_id);
}

Status check_replaced(Storage& storage, const InPlace& found, const std::optional<CheckpointId>& expected) {
  if (expected && (!found.manifest || found.manifest->id != *expected))
    return exists("'" + storage.path() +
                  "' was overwritten or removed by somebody else meanwhile: expected checkpoint " + expected->hex() +
                  ", found " + (found.manifest ? found.manifest->id.hex() : "none") + "; nothing was changed");
  return found.manifest ? check_no_claim(storage, *found.manifest) : Status();
}

// Steps 2 and 3. REQUIRES: the lease.
Status publish_over(Storage& storage, const Manifest& manifest, Publication publication,
                    const std::optional<CheckpointId>& expected, std::optional<Manifest>* replaced) {
  Status status;
  for (int i = 0; i < kTries; ++i) {
    OSTRACA_ASSIGN_OR_RETURN(const InPlace found, manifest_in_place(storage));
    OSTRACA_RETURN_IF_ERROR(check_replaced(storage, found, expected));
    OSTRACA_RETURN_IF_ERROR(check_base(storage, manifest));
    *replaced = found.manifest;
    publication.expected = found.expected;
    // A manifest that cannot be read leaves no tombstone: prune finds its files.
    publication.retired = found.manifest ? tombstone_file_name(found.manifest->id) : std::string();
    status = storage.publish(publication);
    if (status.code() != Code::kExists) return status;
  }
  return status;
}

Status make_durable(Storage& storage) {
  Status status = storage.sync_directory();
  if (status.ok()) status = storage.sync_file(kManifestName);
  if (status.ok()) return {};
  return {Code::kCommitUncertain, "the checkpoint at '" + storage.path() +
                                      "' is published, but perhaps not durable: " + status.message() +
                                      ". Nothing was removed; load or verify it, or save again elsewhere"};
}

}  // namespace

Status publish(Storage& storage, const Manifest& manifest, const std::string& text, const CommitOptions& options,
               std::optional<Manifest>* replaced) {
  const Publication publication{.name = kManifestName, .contents = as_bytes(text), .token = manifest.id.hex()};
  if (options.overwrite) {
    OSTRACA_ASSIGN_OR_RETURN(const std::unique_ptr<Lease> lease, storage.lease_replacing(kManifestName));
    OSTRACA_RETURN_IF_ERROR(publish_over(storage, manifest, publication, options.replaces, replaced));
    OSTRACA_RETURN_IF_ERROR(make_durable(storage));
  } else {
    OSTRACA_RETURN_IF_ERROR(check_base(storage, manifest));
    const Status status = storage.publish(publication);
    if (status.code() == Code::kExists)
      return exists("another save committed to '" + storage.path() + "' first; this one was discarded");
    OSTRACA_RETURN_IF_ERROR(status);
    OSTRACA_RETURN_IF_ERROR(make_durable(storage));
  }
  if (manifest.base_directory.empty()) return {};
  // From here on the manifest keeps the base's files; until here the intent did, if nobody disregarded it.
  const Status base = lease_base(*beside(storage, manifest.base_directory), manifest.base_id).status();
  if (base.ok()) return {};
  return {Code::kCommitUncertain, "the checkpoint at '" + storage.path() +
                                      "' is published, but its base went while it was saved (" + base.message() +
                                      "): verify it, or save again without a base"};
}

void remove_superseded(Storage& storage, const CheckpointId& id, const std::optional<Manifest>& replaced) {
  (void)storage.remove(intent_file_name(id));
  if (!replaced) return;
  const Manifest& old = *replaced;
  if (old.base_directory.empty()) {
    const Result<Claim> claim = claim_on(storage, old.id);
    if (!claim.ok() || claim->unknown || !claim->by.empty()) return;
  }
  std::vector<std::string> names{intent_file_name(old.id)};
  for (const ManifestFile& file : old.files) names.push_back(file.name);
  names.push_back(old.index.name);
  for (const std::string& name : names)
    if (!storage.remove(name).ok()) return;
  (void)storage.remove(tombstone_file_name(old.id));
}

}  // namespace ostraca
