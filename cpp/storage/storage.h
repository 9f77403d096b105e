// The one door to bytes at rest: a run, the checkpoints in it, their files. It knows names and bytes, no format. All
// I/O of the engine passes here, so that tests inject faults by wrapping these interfaces.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "ostraca/options.h"
#include "ostraca/status.h"

namespace ostraca {

// A file being written: created by this process, front to back, at offsets the caller assigns. Thread-safe, but that
// nothing may be written any more when it is closed. Destroying it closes the descriptor and leaves the file where it
// is.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  // Bytes that offsets, sizes and addresses must be multiples of (a power of two; kAlignmentMin at least).
  virtual std::size_t alignment() const = 0;
  // Says how large the file may become, before the first write: a file system that takes one writer at a time where a
  // file grows can then take several. Best effort; what is not used is given back by sync_and_close.
  virtual void reserve(std::uint64_t bytes) = 0;
  // Writes all of `data` at `offset`. REQUIRES: both, and the address of `data`, are multiples of alignment().
  virtual Status write_at(std::uint64_t offset, Bytes data) = 0;
  // Makes everything written durable (fdatasync) and closes. After an error the file must not be used or retried.
  virtual Status sync_and_close() = 0;
};

// A file being read. Thread-safe.
class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  virtual std::uint64_t size() const = 0;
  virtual const std::string& path() const = 0;  // for messages
  // Which version of the file this is, in the store's own words: an ETag, or what stat says.
  virtual const std::string& version() const = 0;
  // Reads exactly out.size() bytes at `offset`; a file that ends before that is kCorruption.
  virtual Status read_at(std::uint64_t offset, MutableBytes out) = 0;
  // Reads what memory holds, up to the first byte that would wait for the device; returns how many bytes these are.
  virtual std::size_t read_cached(std::uint64_t offset, MutableBytes out) = 0;
  // Like read_at, past the page cache where the file system allows it (buffered otherwise).
  // REQUIRES: offset, out.size() and the address of `out` are multiples of direct_alignment().
  // The last request may reach past the end of the file; the bytes beyond it are unspecified.
  virtual Status read_direct(std::uint64_t offset, MutableBytes out) = 0;
  virtual std::size_t direct_alignment() const = 0;
};

// A lease on a file, held until it is destroyed; the system lets go of those of a process that died. Where the store
// has no leases it holds nothing. Thread-safe.
class Lease {
 public:
  virtual ~Lease() = default;
  // Whether the name that was leased still is this file's.
  virtual bool current() const = 0;
  // Ends it, and says what could not be taken away with it. The destructor does so without a word.
  virtual Status let_go() { return {}; }
};

// Where there is nothing to hold.
class NoLease final : public Lease {
 public:
  bool current() const override { return true; }
};

// What a store is like: the engine asks instead of knowing.
struct StoreTraits {
  unsigned io_threads = 1;       // calls in flight that still gain, of one reader or writer
  unsigned small_reads = 1;      // the same of calls that read little, and wait for a server more than for bytes
  std::uint64_t file_bytes = 0;  // of a data file at most, as it is in memory until it is complete; 0: any
  bool is_shared = true;         // what one process publishes others find whole; learned by the first publish()
};

// A small file and which version of it was read.
struct Document {
  std::string text;
  std::string version;
};

// What must have a name for publish() to give it to something else.
class Expected {
 public:
  static Expected absent() { return Expected(Kind::kAbsent, {}); }
  static Expected any() { return Expected(Kind::kAny, {}); }
  static Expected version(std::string version) { return Expected(Kind::kVersion, std::move(version)); }

  bool is_absent() const { return kind_ == Kind::kAbsent; }
  // Of what must be there; null where it does not matter.
  const std::string* is_version() const { return kind_ == Kind::kVersion ? &version_ : nullptr; }

 private:
  enum class Kind { kAbsent, kAny, kVersion };
  Expected(Kind kind, std::string version) : kind_(kind), version_(std::move(version)) {}

  Kind kind_;
  std::string version_;
};

struct Publication {
  std::string name;
  Bytes contents;
  Expected expected = Expected::absent();
  // The caller's own, 32 hexadecimal digits: a store that needs another name first makes it of this.
  std::string token;
  std::string retired = {};  // the name that what is replaced has from then on; empty: none
};

class Run;

// A checkpoint's directory, or prefix. Names are single validated path components. Thread-safe.
class Storage {
 public:
  virtual ~Storage() = default;
  virtual StoreTraits traits() const = 0;
  virtual const std::string& path() const = 0;  // for messages
  virtual std::string path_of(const std::string& name) const = 0;

  // The checkpoint's own name in its run: the real one, where a symbolic link leads here. No directory: kNotFound.
  virtual Result<std::string> name() = 0;
  virtual std::unique_ptr<Run> run() = 0;

  // Creates the directory and its missing parents. Remembers which directories are new, for sync_directory.
  virtual Status create_directory() = 0;
  // Opens a new file; one that is there is kExists.
  virtual Result<std::unique_ptr<WritableFile>> create(const std::string& name, IoMode mode) = 0;
  virtual Result<std::unique_ptr<ReadableFile>> open(const std::string& name) = 0;  // absent: kNotFound
  // A whole small file. Larger than `max_bytes`: kFormat. Absent: kNotFound.
  virtual Result<Document> read_document(const std::string& name, std::size_t max_bytes) = 0;
  Result<std::string> read_small(const std::string& name, std::size_t max_bytes);
  // A new small file, durable. One that is there is kExists; one that is cut off may stay when the process is killed.
  virtual Status write_small(const std::string& name, Bytes data) = 0;
  // Gives a name to contents, which are durable by then: readers see what was there or all of what is there now.
  // kExists: what is expected is not there. kCommitUncertain: nobody can tell. Any other failure: nothing changed.
  // A version is compared under the caller's lease_replacing() where the store has leases, by the store where not.
  virtual Status publish(const Publication& publication) = 0;
  // Makes names durable: fsyncs the directory, its parent after create_directory, and the parents of every other
  // directory that it made.
  virtual Status sync_directory() = 0;
  // Fsyncs a file. After sync_directory: a file system that stopped before it (XFS does on an error of its disk) may
  // say that a directory is synced, but not that a file is.
  virtual Status sync_file(const std::string& name) = 0;
  // The file changed now, by the server's clock: a sign of life from who keeps it. Absent: kNotFound, and it stays so.
  virtual Status touch(const std::string& name) = 0;
  virtual Status remove(const std::string& name) = 0;  // absent is ok
  // Takes the name from exactly this version of a file, which has another one from then on, and is dated now: first, so
  // that it never looks older than that. kExists: the version is not there any more, and nothing changed. A file that
  // has the other name is replaced.
  virtual Status retire(const std::string& name, const std::string& version, const std::string& retired) = 0;
  // Gives a retired file its name again, unless another has it: then the retired one goes.
  virtual Status restore(const std::string& retired, const std::string& name) = 0;
  // Removes the directories that create_directory made, those of them that are empty. Best effort.
  virtual void remove_created_directories() = 0;
  virtual Result<std::vector<std::string>> list() = 0;  // names of plain files, sorted; no directory: kNotFound

  // For who reads: shared. Whoever wants to remove the file asks for an exclusive one first. It stays with the file
  // when its name changes. Waits, briefly, for whoever holds the file exclusively. Absent: kNotFound.
  virtual Result<std::unique_ptr<Lease>> lease(const std::string& name) = 0;
  // For who replaces or removes what has this name, or puts something there: exclusive among those, and nothing to
  // readers. It is on the name: there need not be a file. Waits for whoever has it; after a minute kSystem, ETIMEDOUT.
  virtual Result<std::unique_ptr<Lease>> lease_replacing(const std::string& name) = 0;
  // The two for who removes: they never wait, and somebody else's lease is kSystem, EWOULDBLOCK. The first is exclusive
  // against those who read the file. The second is lease_replacing(), but that it holds nothing on a full disk: what is
  // to be removed makes room.
  virtual Result<std::unique_ptr<Lease>> lease_exclusive(const std::string& name) = 0;
  virtual Result<std::unique_ptr<Lease>> lease_removing(const std::string& name) = 0;
};

// A file that a scan saw.
struct ScannedFile {
  enum class Kind { kPlain, kLink, kOther };  // kOther: a directory, a pipe, a device

  std::string name;
  Kind kind = Kind::kPlain;
  std::uint64_t bytes = 0;
  std::int64_t changed_ns = 0;          // since 1970, by the store's clock: the later of modification and change
  std::int64_t modified_ns = 0;         // which copying tools bring along
  std::string version;                  // of a document
  std::optional<std::string> contents;  // of a document whose version was not known
  Status status;                        // why it, or its contents, could not be read
};

// What a scan reads beside names, sizes and dates.
struct ScanOptions {
  std::function<bool(const std::string& name)> is_document;  // whose contents are wanted; null: of none
  std::function<bool(const std::string& name, const std::string& version)> is_known;  // and are had; null: none is
  std::size_t document_bytes_max = 0;                                                 // a larger one is kFormat
  // A document that is looked at after all others of its directory were read, listed or not, and through a link.
  std::string last = {};
  bool last_only = false;  // nothing else is looked at; of `last` its date, no contents
};

// A directory, or prefix, of checkpoints. Thread-safe.
class Run {
 public:
  // A directory in the run, or a symbolic link.
  struct Child {
    std::string name;
    bool is_link = false;
    std::string leads_to = {};    // of a link: the child to which or into which it leads; empty: elsewhere, or nowhere
    bool leads_to_whole = false;  // to that child itself
    bool is_directory = true;     // false: a link that leads into the run, or to no directory; then there are no files
    std::string identity = {};    // which directory it is, for child()
    std::int64_t changed_ns = 0;  // the directory itself
    std::vector<ScannedFile> files = {};  // sorted by name, without links and `last`
    std::vector<std::string> links = {};  // the children to which symbolic links in it lead, or into which
    ScannedFile last = {.status = not_found({})};
    Status status = {};  // why not all of this is known
  };

  virtual ~Run() = default;
  virtual const std::string& path() const = 0;  // for messages
  virtual std::unique_ptr<Storage> checkpoint(const std::string& name) = 0;
  // The same of a directory that a scan saw, and of no other that has its name now: kNotFound.
  virtual Result<std::unique_ptr<Storage>> child(const std::string& name, const std::string& identity) = 0;
  // All children, sorted by name; in one listing where the store can. A file that vanishes meanwhile is left out.
  virtual Result<std::vector<Child>> scan(const ScanOptions& options) = 0;
  // When a child last came, went or was renamed, nanoseconds since 1970; 0 where the store does not say.
  virtual Result<std::int64_t> changed_ns() = 0;
  // The run itself, as if it were a child.
  virtual Child itself(const ScanOptions& options) = 0;
  // The time, nanoseconds since 1970, of the clock that dates what changes here. Where it takes a write to learn it,
  // and there may be none, this machine's.
  virtual Result<std::int64_t> now(bool may_write) = 0;
  // Removes a child's directory if it is empty; otherwise it stays, and that is ok.
  virtual Status remove_directory(const std::string& name) = 0;
};

// A file's name: one path component of at most kNameBytesMax bytes.
Status check_name(const std::string& name);
// The name that a store may use while it publishes; what a killed process leaves under it is swept with its attempt.
std::string temporary_name(const std::string& token);

std::unique_ptr<Storage> make_posix_storage(const std::string& directory);
std::unique_ptr<Run> make_posix_run(const std::string& directory);
// Links followed as far as they lead; what is not there is taken as it is.
std::string posix_real_path(const std::string& path);

}  // namespace ostraca
