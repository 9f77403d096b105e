#include "engine/catalog.h"

#include <algorithm>
#include <new>

#include "base/for_each.h"
#include "base/limits.h"
#include "container/file_format.h"
#include "engine/stored_file.h"

namespace ostraca {
namespace {

constexpr std::size_t kLookedAt = 3;      // manifests that changed last
constexpr std::size_t kForOneThread = 4;  // checkpoints

}  // namespace

ScanOptions scan_of_intents() {
  return {.is_document = [](const std::string& name) { return name.starts_with("intent-"); },
          .document_bytes_max = kManifestBytesMax,
          .last = kManifestName};
}

ScanOptions scan_of_documents() {
  ScanOptions options = scan_of_intents();
  options.is_document = [](const std::string& name) {
    return name.starts_with("intent-") || name.starts_with("tombstone-") || notes_number(name) != 0;
  };
  return options;
}

bool NotesAbout::take(std::uint64_t number, const Result<Note>& note) {
  notes_.unknown |= !note.ok();
  if (!note.ok() || note->id != notes_.id) return false;
  notes_.facts = note->facts;
  notes_.number = number;
  return true;
}

Result<std::int64_t> created_last(Run& run) {
  OSTRACA_ASSIGN_OR_RETURN(
      std::vector<Run::Child> children,
      run.scan({.document_bytes_max = kManifestBytesMax, .last = kManifestName, .last_only = true}));
  std::erase_if(children, [](const Run::Child& child) { return !child.last.status.ok(); });
  const std::size_t count = std::min(kLookedAt, children.size());
  const auto modified = [](const Run::Child& child) { return child.last.modified_ns; };
  std::ranges::partial_sort(children, children.begin() + static_cast<std::ptrdiff_t>(count), std::greater{}, modified);
  children.resize(count);
  std::int64_t last = 0;
  for (const Run::Child& child : children) {
    const Result<std::string> text = run.checkpoint(child.name)->read_small(kManifestName, kManifestBytesMax);
    const Result<Manifest> manifest = text.ok() ? decode_manifest(*text) : Result<Manifest>(text.status());
    if (manifest.ok()) last = std::max(last, created_ns(*manifest));
  }
  return last;
}

Status check_checkpoint(Storage& storage) {
  OSTRACA_ASSIGN_OR_RETURN(const StoredCheckpoint stored, open_checkpoint(storage));
  for (const ManifestFile& expected : stored.manifest.files) {
    const Result<std::unique_ptr<ReadableFile>> file = storage.open(expected.name);
    if (file.status().code() == Code::kNotFound) return corruption(expected.name + " is missing");
    OSTRACA_RETURN_IF_ERROR(file.status());
    if ((*file)->size() != expected.bytes)
      return corruption(expected.name + ": size in bytes: expected " + std::to_string(expected.bytes) + ", found " +
                        std::to_string((*file)->size()));
  }
  return {};
}

std::vector<Status> check_checkpoints(Run& run, const std::vector<std::pair<std::string, std::string>>& children) {
  std::vector<Status> found(children.size());
  const auto check = [&](std::size_t i) -> Status {
    try {
      const auto& [name, identity] = children[i];
      OSTRACA_ASSIGN_OR_RETURN(const std::unique_ptr<Storage> storage, run.child(name, identity));
      return check_checkpoint(*storage);
    } catch (const std::bad_alloc&) {
      return {Code::kOutOfMemory, "the memory for the index of '" + children[i].first + "' cannot be had"};
    }
  };
  const std::size_t threads = run.checkpoint(".")->traits().small_reads;
  in_parallel(children.size(), std::min(threads, children.size() / kForOneThread), "check", [&](std::size_t i) {
    found[i] = check(i);
    return true;
  });
  return found;
}

}  // namespace ostraca
