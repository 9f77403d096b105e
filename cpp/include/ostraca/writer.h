// Saving: a Writer streams one process's arrays into its data file; commit() makes the reported files a checkpoint.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ostraca/base_snapshot.h"
#include "ostraca/dims.h"
#include "ostraca/options.h"
#include "ostraca/status.h"
#include "ostraca/types.h"

namespace ostraca {

// A save that shows no sign of life for an hour is taken for dead.
inline constexpr std::chrono::minutes kRenewEvery{7};

struct WriterOptions {
  std::uint32_t process_index = 0;
  std::uint32_t process_count = 1;
  std::optional<CheckpointId> attempt;  // shared by all processes of a save; drawn when there is only one
  CodecPolicy codec = CodecPolicy::kAuto;
  IoMode io = IoMode::kAuto;
  unsigned threads = 0;          // that code chunks; 0: the usable cores
  std::size_t coding_bytes = 0;  // of output buffers; 0: kCodingBytesDefault
  // Unset: memory is read where it lies, when its turn comes. Set: mutable memory is copied first, as far as this
  // many bytes go, so that wait_copied() returns early.
  std::optional<std::size_t> staging_bytes;
  // Memory beside that, in whole blocks of 8 MiB, for copies that stay: see snapshot(). Not of an incremental save.
  std::size_t keep_bytes = 0;
  // Set: an incremental save. The keyframe must lie in the same parent directory as the checkpoint to be.
  std::shared_ptr<BaseSnapshot> base;
  Dims chunk_shape;  // for arrays of this rank; empty: leading axes are cut
  bool overwrite = false;
  bool opens_later = false;  // somebody else makes the directory meanwhile: see Writer::open
  // Of a data file that holds more than 8 MiB: beyond it the process begins another. Unset: as the store likes it;
  // 0: one file.
  std::optional<std::uint64_t> file_bytes;
  std::chrono::nanoseconds renew_every = kRenewEvery;  // so old an intent becomes: see Writer::renew
};

// One shard of one leaf: where its elements are and where they belong.
struct ArraySource {
  std::string path;  // encoded key path
  LeafKind kind = LeafKind::kArray;
  DType dtype = DType::kNone;
  std::string detail;
  bool big_endian = false;  // the order of the elements in memory
  Dims shape;
  Strides strides;                  // bytes; empty: C order
  Dims global_shape;                // empty: `shape`
  Dims offset;                      // in the global shape; empty: zeros
  Dims chunk_shape;                 // of this source; empty: as the options say
  const std::byte* data = nullptr;  // element [0, ..., 0]
  bool immutable = false;           // nobody writes to it while the Writer needs it
  // The memory must stay valid until this is called, once: from an engine thread, or from add() where there is nothing
  // to read. Without it, until finish() or abort() returns. It must not call the Writer.
  std::function<void()> on_copied;
};

// What one process wrote: the committer finds its last file by it, checks that, and is told there of the others.
struct FileReport {
  std::uint32_t process_index = 0;
  std::uint32_t process_count = 1;
  CheckpointId attempt;
  std::uint32_t part = 0;  // of the last file: how many came before it
  std::uint64_t file_bytes = 0;
  std::uint32_t footer_crc = 0;
  std::uint64_t logical_bytes = 0;
  std::string base_directory;  // the keyframe's, one name; empty: none
  CheckpointId base_id;

  std::string file_name() const;
  std::string to_bytes() const;  // at most kReportBytesMax, 1 KiB, for a key-value store
  static Result<FileReport> from_bytes(std::string_view bytes);
};

// Writes one process's data files. add, seal and finish are for one thread at a time; the other members are
// thread-safe. Destroying a Writer that neither finished nor aborted aborts it.
class Writer {
 public:
  // Opens it too, unless the options say later.
  static Result<std::unique_ptr<Writer>> create(const std::string& path, WriterOptions options);
  virtual ~Writer() = default;

  virtual const CheckpointId& attempt() const = 0;
  // With `opens_later`, once, before finish(): creates the directory, the intent (process 0) and the first data file.
  // Until then memory is copied as far as `staging_bytes` goes, and nothing is coded. kExists when a checkpoint is
  // there already. Thread-safe; a failure leaves everything to abort().
  virtual Status open() = 0;
  // Checks and plans; large arrays begin to be written at once, small ones are packed at seal(). A leaf may come in
  // several shards: sources of one path, parts of one global shape.
  virtual Status add(ArraySource source) = 0;
  // Nothing more will be added.
  virtual void seal() = 0;
  // Whether all mutable memory has been read: it may change from here on. After a failure it never will be.
  virtual bool copied() const = 0;
  // Waits for copied(), which is not before seal(), or for a failure; at most `timeout`.
  virtual Result<bool> wait_copied(std::optional<std::chrono::nanoseconds> timeout) = 0;
  // Seals and waits until the files are complete and durable. A failure leaves them for abort() to remove.
  virtual Result<FileReport> finish(const Poll& poll = {}) = 0;
  // Tells those who prune that the save lives, where the last sign of it is `renew_every` old; otherwise costs nothing.
  // add() and finish() do so themselves: it is for who waits elsewhere with a save that is not committed. A failure is
  // passed over: the next call tries again. Thread-safe.
  virtual void renew() = 0;
  // After commit(): the checkpoint as a base for saves to come, with the copies that were kept, in the first one asked
  // for. kNotFound when it was replaced or removed meanwhile.
  virtual Result<std::shared_ptr<BaseSnapshot>> snapshot() = 0;
  virtual void cancel() = 0;
  // Cancels, waits for the threads, removes the files, the intent and the directories made. Also after finish(), when
  // the commit failed or will not happen; what was committed is left alone.
  virtual void abort() = 0;
  virtual std::uint64_t bytes_done() const = 0;
  virtual std::uint64_t bytes_total() const = 0;
};

struct CommitOptions {
  std::optional<std::int64_t> step;
  std::string metadata = "null";  // JSON text
  bool overwrite = false;
  double seconds = 0;  // for the manifest
  double stall_seconds = 0;
  // With `overwrite`: only over this checkpoint. Unset: over whichever is there when it is published.
  std::optional<CheckpointId> replaces = {};
  std::optional<CheckpointId> parent = {};  // for the manifest
  // When the checkpoint was created, since 1970; 0: now, but later than `created_after_ns`, whatever the clock says.
  std::int64_t created_ns = 0;
  std::int64_t created_after_ns = 0;
  // Counts up with each reported file that was checked, for a thread that watches the commit; outlives it.
  std::atomic<std::uint64_t>* files_checked = nullptr;
};

// Checks the reported files (which proves that all processes wrote to one directory), writes index and manifest and
// publishes them. Returns the manifest's text. kCommitUncertain: published, but perhaps not durable.
Result<std::string> commit(const std::string& path, const std::vector<FileReport>& reports,
                           const CommitOptions& options);

}  // namespace ostraca
