#include "engine/lifetime.h"

#include <signal.h>

#include <cerrno>
#include <optional>

#include "base/host.h"
#include "base/limits.h"
#include "container/file_format.h"
#include "container/manifest.h"

namespace ostraca {
namespace {

Status refusal(Storage& storage, const std::string& who, const std::string& advice) {
  return exists("'" + storage.path() + "' cannot be overwritten: it is the base of " + who + "; " + advice);
}

bool is_gone(const Intent& intent) {
  return intent.host == host_name() && intent.pid > 0 && ::kill(static_cast<pid_t>(intent.pid), 0) != 0 &&
         errno == ESRCH;
}

// The text of a neighbour's file; nothing if it is gone, or is none that could be read by anybody.
Result<std::optional<std::string>> read_if_there(Storage& storage, const std::string& name) {
  Result<std::string> text = storage.read_small(name, kManifestBytesMax);
  if (text.ok()) return std::optional(text.take());
  if (text.status().code() != Code::kSystem || text.status().os_error() == EACCES) return std::optional<std::string>();
  return text.status();
}

Status check_intents(Storage& storage, Storage& neighbour, const std::string& name, const CheckpointId& id) {
  const Result<std::vector<std::string>> files = neighbour.list();
  if (!files.ok()) return {};  // not ours, or gone
  for (const std::string& file : *files) {
    if (!file.starts_with("intent-")) continue;
    OSTRACA_ASSIGN_OR_RETURN(const std::optional<std::string> text, read_if_there(neighbour, file));
    const Result<Intent> intent = text ? decode_intent(*text) : Result<Intent>(not_found(file));
    if (intent.ok() && !intent->base_directory.empty() && intent->base_id == id && !is_gone(*intent))
      return refusal(storage,
                     "a save to '" + name + "', by process " + std::to_string(intent->pid) + " on " + intent->host,
                     "let it end, or prune what it left if it is dead");
  }
  return {};
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
  const std::unique_ptr<Storage> base = storage.sibling(name);
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

Status check_names_no_delta(Storage& storage) {
  const Result<std::string> text = storage.read_small(kManifestName, kManifestBytesMax);
  if (!text.ok()) return text.status().code() == Code::kSystem ? text.status() : Status();
  const Result<Manifest> manifest = decode_manifest(*text);
  if (!manifest.ok() || !manifest->base_directory.empty()) return {};
  const Result<Storage::Siblings> siblings = storage.siblings();
  if (!siblings.ok()) return siblings.status().os_error() == EACCES ? Status() : siblings.status();
  // Intents first: a save publishes its manifest before it removes its intent, so that one of them is seen. The id
  // alone decides: the base may be named through a link.
  for (const std::string& name : siblings->others)
    OSTRACA_RETURN_IF_ERROR(check_intents(storage, *storage.sibling(name), name, manifest->id));
  for (const std::string& name : siblings->others) {
    const std::unique_ptr<Storage> neighbour = storage.sibling(name);
    OSTRACA_ASSIGN_OR_RETURN(const std::optional<std::string> other, read_if_there(*neighbour, kManifestName));
    const Result<BaseName> base = other ? decode_base(*other) : Result<BaseName>(not_found(name));
    if (base.ok() && !base->directory.empty() && base->id == manifest->id)
      return refusal(storage, "'" + neighbour->path() + "'", "save to another path, or remove that one first");
  }
  return {};
}

}  // namespace ostraca
