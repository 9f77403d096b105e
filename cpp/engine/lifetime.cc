#include "engine/lifetime.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "base/host.h"
#include "base/limits.h"
#include "container/file_format.h"
#include "container/manifest.h"

namespace ostraca {
namespace {

// A neighbour, and what it may hold that concerns us.
struct Neighbour {
  const Run::Child& child;
  std::unique_ptr<Storage> storage;

  bool has_our_files() const {
    return !child.status.ok() ||
           std::ranges::any_of(child.files, [](const std::string& name) { return name.ends_with(".ostraca"); });
  }
};

// A neighbour's small file, if there is one; what cannot be read, but for want of permission, may say anything.
std::optional<std::string> read_if_there(const Neighbour& neighbour, const std::string& name, Claim* claim) {
  Result<std::string> text = neighbour.storage->read_small(name, kManifestBytesMax);
  if (text.ok()) return text.take();
  const bool is_closed = text.status().code() == Code::kNotFound || text.status().os_error() == EACCES;
  claim->unknown |= !is_closed && neighbour.has_our_files();
  return std::nullopt;
}

// Of the running saves to a neighbour.
void add_claims_of_intents(const Neighbour& neighbour, const CheckpointId& id, Claim* claim) {
  const Status& listed = neighbour.child.status;
  claim->unknown |= !listed.ok() && listed.os_error() != EACCES;
  for (const std::string& file : neighbour.child.files) {
    if (!file.starts_with("intent-")) continue;
    const std::optional<std::string> text = read_if_there(neighbour, file, claim);
    const Result<Intent> intent = text ? decode_intent(*text) : Result<Intent>(not_found(file));
    claim->unknown |= !intent.ok();
    if (intent.ok() && !intent->base_directory.empty() && intent->base_id == id && saver_of(*intent) != Saver::kGone)
      claim->by = "a save to '" + neighbour.child.name + "', by process " + std::to_string(intent->pid) + " on " +
                  intent->host + "; let it end, or prune what it left if it is dead";
  }
}

// Of the checkpoint there. A manifest that is damaged, or of a later release, may name anything; one that is another
// program's does not.
void add_claim_of_manifest(const Neighbour& neighbour, const CheckpointId& id, Claim* claim) {
  const std::optional<std::string> text = read_if_there(neighbour, kManifestName, claim);
  if (!text) return;
  const Result<BaseName> base = decode_base(*text);
  claim->unknown |= !base.ok() && neighbour.has_our_files();
  if (base.ok() && !base->directory.empty() && base->id == id)
    claim->by = "'" + neighbour.storage->path() + "'; save to another path, or remove that one first";
}

}  // namespace

Result<std::unique_ptr<Lease>> lease_base(Storage& storage, const CheckpointId& id) {
  // In this order: what is removed meanwhile is found as a tombstone. Another checkpoint may have taken its place.
  Result<std::unique_ptr<Lease>> lease = storage.lease(kManifestName);
  if (!lease.ok() && lease.status().code() != Code::kNotFound) return lease;
  if (lease.ok()) {
    const Result<std::string> text = storage.read_small(kManifestName, kManifestBytesMax);
    if (text.status().code() == Code::kSystem) return text.status();
    const Result<Manifest> manifest = text.ok() ? decode_manifest(*text) : Result<Manifest>(text.status());
    if (manifest.ok() && manifest->id == id && (*lease)->current()) return lease;
  }
  return storage.lease(tombstone_file_name(id));
}

Status check_live_base(Storage& storage, const std::string& name, const CheckpointId& id) {
  const std::unique_ptr<Storage> base = beside(storage, name);
  const Result<std::string> text = base->read_small(kManifestName, kManifestBytesMax);
  const Result<Manifest> manifest = text.ok() ? decode_manifest(*text) : Result<Manifest>(text.status());
  if (manifest.ok() && manifest->id == id) return {};
  if (text.status().code() == Code::kSystem && text.status().os_error() != ENOTDIR)
    return text.status().with_context("the base of the save to '" + storage.path() + "'");
  return not_found("the base of the save to '" + storage.path() + "' is not beside it: expected checkpoint " +
                   id.hex() + " at '" + base->path() + "', found " +
                   (manifest.ok() ? "checkpoint " + manifest->id.hex() : "none: " + manifest.status().message()) +
                   ". Save without a base, or against another checkpoint of the same directory");
}

Result<Claim> claim_on(Storage& storage, const CheckpointId& id) {
  OSTRACA_ASSIGN_OR_RETURN(const std::string own, storage.name());
  const std::unique_ptr<Run> run = storage.run();
  const Result<std::vector<Run::Child>> children = run->scan();
  if (!children.ok() && children.status().os_error() != EACCES) return children.status();
  Claim claim{.unknown = !children.ok()};
  if (!children.ok()) return claim;
  std::vector<Neighbour> neighbours;
  for (const Run::Child& child : *children)
    if (child.name != own) neighbours.push_back({child, run->checkpoint(child.name)});
  // Intents first: a save publishes its manifest before it removes its intent, so that one of them is seen. The id
  // alone decides: the base may have been renamed.
  for (const Neighbour& neighbour : neighbours) add_claims_of_intents(neighbour, id, &claim);
  for (const Neighbour& neighbour : neighbours) add_claim_of_manifest(neighbour, id, &claim);
  return claim;
}

Status check_no_claim(Storage& storage, const Manifest& manifest) {
  if (!manifest.base_directory.empty()) return {};
  OSTRACA_ASSIGN_OR_RETURN(const Claim claim, claim_on(storage, manifest.id));
  if (claim.by.empty()) return {};
  return exists("'" + storage.path() + "' cannot be overwritten: it is the base of " + claim.by);
}

Result<InPlace> manifest_in_place(Storage& storage) {
  const Result<Document> document = storage.read_document(kManifestName, kManifestBytesMax);
  if (document.status().code() == Code::kNotFound) return InPlace();
  if (document.status().code() == Code::kSystem) return document.status();
  InPlace found{.is_there = true, .expected = Expected::any()};
  if (!document.ok()) return found;
  found.expected = Expected::version(document->version);
  if (Result<Manifest> manifest = decode_manifest(document->text); manifest.ok()) found.manifest = manifest.take();
  return found;
}

Saver saver_of(const Intent& intent) {
  if (intent.host != host_name() || intent.pid <= 0) return Saver::kUnknown;
  const std::string boot = boot_id();
  if (!intent.boot_id.empty() && !boot.empty() && intent.boot_id != boot) return Saver::kGone;
  const std::optional<std::uint64_t> started = start_ticks(intent.pid);
  if (started) return !intent.start_ticks || *intent.start_ticks == *started ? Saver::kRuns : Saver::kGone;
  // Without /proc the number has to do.
  const bool gone = start_ticks(::getpid()) || (::kill(static_cast<pid_t>(intent.pid), 0) != 0 && errno == ESRCH);
  return gone ? Saver::kGone : Saver::kRuns;
}

}  // namespace ostraca
