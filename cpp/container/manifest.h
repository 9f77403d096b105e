// manifest.json, the intent and notes (docs/format.md, section 8). Text <-> structs, no I/O.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ostraca/status.h"
#include "ostraca/types.h"

namespace ostraca {

struct ManifestFile {
  std::string name;
  std::uint64_t bytes = 0;
  std::uint32_t footer_crc = 0;
  std::uint32_t process_index = 0;  // of a data file; decode_manifest takes it, and the part, from the name
  std::uint32_t part = 0;
};

struct Manifest {
  std::uint64_t features = 0;
  std::uint64_t compatible_features = 0;  // what readers may ignore
  CheckpointId id;
  std::optional<std::int64_t> step;
  std::string created;                    // UTC, "2026-11-20T12:00:00Z"
  std::uint32_t created_nanoseconds = 0;  // what `created` leaves out
  std::string writer;
  std::uint32_t process_count = 1;
  std::uint64_t logical_bytes = 0;
  std::uint64_t stored_bytes = 0;
  std::uint64_t referenced_bytes = 0;
  std::uint64_t arrays = 0;
  std::uint64_t chunks = 0;
  double seconds = 0;
  double stall_seconds = 0;
  std::string base_directory;  // empty: no base
  CheckpointId base_id;
  std::optional<CheckpointId> parent;  // what the state was loaded from, or saved as, before; it need not exist
  std::string metadata = "null";       // JSON text
  ManifestFile index;
  std::vector<ManifestFile> files;
};

// kInvalidArgument when `metadata` is not JSON.
Result<std::string> encode_manifest(const Manifest& manifest);
// Checks the closing CRC first, then version, features, and every member; file names must be those that ids, process
// indices and parts give.
Result<Manifest> decode_manifest(std::string_view text);

struct Intent {
  CheckpointId id;
  std::string base_directory;  // empty: no base
  CheckpointId base_id;
  std::uint32_t process_count = 1;
  std::string created;
  std::string host;
  std::int64_t pid = 0;
  // These say which process of that number; not known to writers before November 2026, and where there is no /proc.
  std::string boot_id;
  std::optional<std::uint64_t> start_ticks;
};
// kInvalidArgument when the base's name cannot be written.
Result<std::string> encode_intent(const Intent& intent);
Result<Intent> decode_intent(std::string_view text);

// Facts about a checkpoint that change after its commit, in `notes-<number>.json`: the newest that can be read counts.
struct Note {
  CheckpointId id;           // of the checkpoint that it is about
  std::string facts = "{}";  // JSON text of an object
};
// kInvalidArgument when `facts` is not the JSON of an object, or too large.
Result<std::string> encode_note(const Note& note);
Result<Note> decode_note(std::string_view text);

// What deletion has to know of a manifest or an intent, whatever features it requires: the base that it names.
struct BaseName {
  std::string directory;  // empty: no base
  CheckpointId id;
};
// Checks the closing CRC, that it is one of the two, its version, and the base.
Result<BaseName> decode_base(std::string_view text);

// Both members that say when, as nanoseconds since 1970.
void set_created(Manifest* manifest, std::int64_t nanoseconds_since_1970);
std::int64_t created_ns(const Manifest& manifest);  // REQUIRES: decoding accepted it

std::string utc_now();

}  // namespace ostraca
