#include "ostraca/notes.h"

#include <algorithm>
#include <vector>

#include "base/limits.h"
#include "container/file_format.h"
#include "container/manifest.h"
#include "engine/catalog.h"
#include "engine/on_storage.h"
#include "engine/stored_file.h"
#include "engine/stores.h"

namespace ostraca {
namespace {

// Of the notes about a checkpoint the last ones stay. A listing may miss a file that is made while it runs, and one
// that is removed: whoever looks whether somebody was faster sees one of so many.
constexpr std::uint64_t kNotesKept = 8;

struct Numbered {
  std::uint64_t number;
  std::string name;
};

// The notes in a checkpoint's directory, newest first.
Result<std::vector<Numbered>> all_notes(Storage& storage) {
  OSTRACA_ASSIGN_OR_RETURN(const std::vector<std::string> names, storage.list());
  std::vector<Numbered> found;
  for (const std::string& name : names)
    if (const std::uint64_t number = notes_number(name); number != 0) found.push_back({number, name});
  std::ranges::sort(found, std::greater{}, &Numbered::number);
  return found;
}

Result<CheckpointId> id_of(Storage& storage) {
  OSTRACA_ASSIGN_OR_RETURN(const std::string text, read_manifest(storage));
  const Result<Manifest> manifest = decode_manifest(text);
  if (!manifest.ok()) return manifest.status().with_context("file '" + storage.path_of(kManifestName) + "'");
  return manifest->id;
}

}  // namespace

Result<Notes> read_notes_on(Storage& storage, const std::optional<CheckpointId>& about) {
  while (true) {
    const Result<CheckpointId> id = about ? Result<CheckpointId>(*about) : id_of(storage);
    if (!id.ok()) return id.status();
    NotesAbout notes(*id);
    OSTRACA_ASSIGN_OR_RETURN(const std::vector<Numbered> found, all_notes(storage));
    bool vanished = false;  // newer ones have taken the place of one, so that it was removed
    for (const Numbered& one : found) {
      const Result<std::string> text = storage.read_small(one.name, kNotesBytesMax);
      if (text.status().code() == Code::kSystem) return text.status();
      vanished = text.status().code() == Code::kNotFound;
      if (vanished || notes.take(one.number, text.ok() ? decode_note(*text) : Result<Note>(text.status()))) break;
    }
    if (vanished) continue;
    Notes result = notes.notes();
    if (!found.empty()) result.last = found.front().number;
    return result;
  }
}

Status write_notes_on(Storage& storage, const Notes& after, const std::string& facts, bool ahead) {
  OSTRACA_ASSIGN_OR_RETURN(const std::string text, encode_note({after.id, facts}));
  if (text.size() > kNotesBytesMax)
    return invalid_argument("notes may have " + std::to_string(kNotesBytesMax) + " bytes, not " +
                            std::to_string(text.size()));
  if (after.last >= kNotesNumberMax)
    return format_error("'" + storage.path_of(notes_file_name(after.last)) +
                        "' has the last number that notes can have: rename it, and newer ones, to lower numbers");
  const std::string name = notes_file_name(after.last + 1);
  const auto check_place = [&]() -> Status {
    OSTRACA_ASSIGN_OR_RETURN(const CheckpointId id, id_of(storage));
    if (id == after.id) return {};
    return not_found("checkpoint " + after.id.hex() + " is not at '" + storage.path() + "' any more: " + id.hex() +
                     " has taken its place");
  };
  if (!ahead) OSTRACA_RETURN_IF_ERROR(check_place());
  OSTRACA_RETURN_IF_ERROR(storage.publish({.name = name,
                                           .contents = as_bytes(text),
                                           .expected = Expected::absent(),
                                           .token = CheckpointId::random().hex()}));
  // The number may have been taken, and removed for a higher one, since `after` was read.
  const Result<std::vector<Numbered>> found = all_notes(storage);
  Status status = found.status();
  if (status.ok() && !found->empty() && found->front().number > after.last + 1)
    status = exists("somebody else has written later notes to '" + storage.path() + "'");
  if (status.ok()) status = storage.sync_directory();
  if (status.ok()) status = storage.sync_file(name);
  // Again: `compact` copies the notes that it finds after its commit, so that one of the two sees the other.
  if (status.ok() && !ahead) status = check_place();
  // What failed stays: its number must not be taken again, as somebody may have read the notes that had it.
  if (!status.ok() || ahead) return status;
  // Those about another checkpoint stay: `compact`, which has just replaced it, may still have to carry them over.
  for (const Numbered& one : *found) {
    if (one.number + kNotesKept > after.last + 1) continue;
    const Result<std::string> older = storage.read_small(one.name, kNotesBytesMax);
    const Result<Note> note = older.ok() ? decode_note(*older) : Result<Note>(older.status());
    if (note.ok() && note->id == after.id) (void)storage.remove(one.name);
  }
  return {};
}

Result<Notes> read_notes(const std::string& path, const std::optional<CheckpointId>& about) {
  return read_notes_on(*open_storage(path), about);
}

Status write_notes(const std::string& path, const Notes& after, const std::string& facts, bool ahead) {
  return write_notes_on(*open_storage(path), after, facts, ahead);
}

}  // namespace ostraca
