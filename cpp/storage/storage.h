// The one door to bytes at rest. Storage knows names and bytes, no format. All I/O of the engine passes here, so
// that tests inject faults by wrapping this interface.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "ostraca/options.h"
#include "ostraca/status.h"

namespace ostraca {

// A file being written: created by this process, front to back, at offsets the caller assigns. reserve and
// write_at are thread-safe; the rest is not. Destroying it closes the descriptor and leaves the file where it is.
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

// A lease on a file, held until it is destroyed; the system lets go of those of a process that died. Where the file
// system has no leases it holds nothing. Thread-safe.
class Lease {
 public:
  virtual ~Lease() = default;
  // Whether the name that was leased still is this file's.
  virtual bool current() const = 0;
};

// A checkpoint's directory. Names are single validated path components. Thread-safe.
class Storage {
 public:
  virtual ~Storage() = default;
  virtual const std::string& path() const = 0;  // for messages
  virtual std::string path_of(const std::string& name) const = 0;

  // Creates the directory and its missing parents. Remembers which directories are new, for sync_directory.
  virtual Status create_directory() = 0;
  // Opens a new file (O_EXCL).
  virtual Result<std::unique_ptr<WritableFile>> create(const std::string& name, IoMode mode) = 0;
  virtual Result<std::unique_ptr<ReadableFile>> open(const std::string& name) = 0;  // absent: kNotFound
  // A whole small file. Larger than `max_bytes`: kFormat. Absent: kNotFound.
  virtual Result<std::string> read_small(const std::string& name, std::size_t max_bytes) = 0;
  // Creates (O_EXCL), writes, fsyncs, closes.
  virtual Status write_small(const std::string& name, Bytes data) = 0;
  // Makes the durable file `from` appear as `to`, atomically. With `replace` it takes the place of an existing `to`
  // (rename); without, an existing `to` is kExists (link, then unlink of `from`).
  // Any other failure means that `to` is as it was, but for kCommitUncertain: then nobody can tell.
  virtual Status publish(const std::string& from, const std::string& to, bool replace) = 0;
  // Gives the file `from` a second name; a copy of it, durable, where the file system has no links. An existing `to`
  // is kExists.
  virtual Status add_name(const std::string& from, const std::string& to) = 0;
  // Makes names durable: fsyncs the directory, its parent after create_directory, and the parents of every other
  // directory that it made.
  virtual Status sync_directory() = 0;
  // Fsyncs a file. After sync_directory: a file system that stopped before it (XFS does on an error of its disk) may
  // say that a directory is synced, but not that a file is.
  virtual Status sync_file(const std::string& name) = 0;
  virtual Status remove(const std::string& name) = 0;  // absent is ok
  // Removes the directories that create_directory made, those of them that are empty. Best effort.
  virtual void remove_created_directories() = 0;
  virtual Result<std::vector<std::string>> list() = 0;  // names of plain files, sorted; no directory: kNotFound

  // For who reads: shared. Whoever wants to remove the file asks for an exclusive one first. It stays with the file
  // when its name changes. Waits, briefly, for whoever holds the file exclusively. Absent: kNotFound.
  virtual Result<std::unique_ptr<Lease>> lease(const std::string& name) = 0;
  // For who replaces or removes what has this name, or puts something there: exclusive among those, and nothing to
  // readers. It is on the name: there need not be a file. Waits for whoever has it; after a minute kSystem, ETIMEDOUT.
  virtual Result<std::unique_ptr<Lease>> lease_replacing(const std::string& name) = 0;
  // The directory's own name, and those of the directories beside it, sorted. Symbolic links are directories here,
  // but the own name is the real one. No directory: kNotFound.
  struct Siblings {
    std::string own;
    std::vector<std::string> others;
  };
  virtual Result<Siblings> siblings() = 0;
  virtual std::unique_ptr<Storage> sibling(const std::string& name) = 0;
};

std::unique_ptr<Storage> make_posix_storage(const std::string& directory);

}  // namespace ostraca
