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
#include "engine/catalog.h"

namespace ostraca {
namespace {

bool has_our_files(const Run::Child& child) {
  return !child.status.ok() ||
         std::ranges::any_of(child.files, [](const ScannedFile& file) { return file.name.ends_with(".ostraca"); });
}

// When an attempt's files last changed.
std::int64_t changed_ns(const Run::Child& child, const CheckpointId& attempt) {
  std::int64_t newest = 0;
  for (const ScannedFile& file : child.files)
    if (file.name.find(attempt.hex()) != std::string::npos) newest = std::max(newest, file.changed_ns);
  return newest;
}

// Of the saves to a neighbour that may go on.
void add_claims_of_intents(Run& run, const Run::Child& child, const CheckpointId& id, Claim* claim) {
  claim->unknown |= !child.status.ok() && child.status.os_error() != EACCES;
  for (const ScannedFile& file : child.files) {
    if (!file.name.starts_with("intent-")) continue;
    const Result<Intent> intent = file.contents ? decode_intent(*file.contents) : Result<Intent>(not_found(file.name));
    claim->unknown |= !intent.ok();
    if (!intent.ok() || intent->base_directory.empty() || intent->base_id != id) continue;
    const Result<std::int64_t> now = run.now(false);
    const std::int64_t age_ns = now.ok() ? *now - changed_ns(child, intent->id) : 0;
    const Life life = life_of(&*intent, age_ns, kGraceNs);
    if (life == Life::kRuns || life == Life::kRecent)
      claim->by = "a save to '" + child.name + "', by process " + std::to_string(intent->pid) + " on " + intent->host +
                  "; let it end, or prune what it left if it is dead";
  }
}

// Of the checkpoint there. A manifest that is damaged, or of a later release, may name anything; one that is another
// program's, or in a directory that is closed to us, does not.
void add_claim_of_manifest(const Run& run, const Run::Child& child, const CheckpointId& id, Claim* claim) {
  const ScannedFile& file = child.last;
  if (file.status.code() == Code::kNotFound || file.status.os_error() == EACCES) return;
  const Result<BaseName> base = file.contents ? decode_base(*file.contents) : Result<BaseName>(not_found(file.name));
  claim->unknown |= !base.ok() && has_our_files(child);
  if (base.ok() && !base->directory.empty() && base->id == id)
    claim->by = "'" + run.path() + "/" + child.name + "'; save to another path, or remove that one first";
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
  const Result<std::vector<Run::Child>> children = run->scan(scan_of_intents());
  if (!children.ok() && children.status().os_error() != EACCES) return children.status();
  Claim claim{.unknown = !children.ok()};
  if (!children.ok()) return claim;
  // The id alone decides: the base may have been renamed.
  for (const Run::Child& child : *children) {
    if (child.name == own || !child.is_directory) continue;
    add_claims_of_intents(*run, child, id, &claim);
    add_claim_of_manifest(*run, child, id, &claim);
  }
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

Life life_of(const Intent* intent, std::int64_t age_ns, std::int64_t grace_ns) {
  const Saver saver = intent != nullptr ? saver_of(*intent) : Saver::kUnknown;
  if (saver == Saver::kRuns) return Life::kRuns;
  if (age_ns >= grace_ns) return Life::kOver;
  return saver == Saver::kGone ? Life::kGone : Life::kRecent;
}

}  // namespace ostraca
