// What an object store must do for checkpoints to live in it: seven calls. Whoever embeds the engine brings their own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ostraca/status.h"

namespace ostraca {

struct ObjectInfo {
  std::string key;
  std::uint64_t bytes = 0;
  std::string version;          // an ETag, or what else tells two contents of a key apart
  std::int64_t changed_ns = 0;  // nanoseconds since 1970, by the store's clock
};

// What must be there for put() to store something.
enum class PutIf : std::uint8_t { kAlways, kAbsent, kVersion };

// Keys are parts of text joined by '/'. All calls are of one object, whole or not at all, and what was put is seen by
// every later call. Errors that may pass (a timeout, a 503) are repeated inside; what is returned is final.
// Thread-safe.
class ObjectClient {
 public:
  virtual ~ObjectClient() = default;

  // Stores an object and returns its version. kExists: the condition did not hold. kCommitUncertain: the answer was
  // lost, and the object may have been stored by this very call.
  virtual Result<std::string> put(const std::string& key, std::span<const std::byte> contents, PutIf condition,
                                  const std::string& version) = 0;
  // Reads exactly out.size() bytes of that version. kNotFound: no such object; kCorruption: another version, or it ends
  // early.
  virtual Status get(const std::string& key, const std::string& version, std::uint64_t offset,
                     std::span<std::byte> out) = 0;
  virtual Result<ObjectInfo> head(const std::string& key) = 0;                  // absent: kNotFound
  virtual Result<std::vector<ObjectInfo>> list(const std::string& prefix) = 0;  // sorted by key
  // Of a version, if it is not empty: another one is kExists, and stays. Absent is ok.
  virtual Status remove(const std::string& key, const std::string& version) = 0;
  virtual Status copy(const std::string& from, const std::string& version, const std::string& to) = 0;
  virtual Result<std::int64_t> now() = 0;              // nanoseconds since 1970, by the clock of `changed_ns`
  virtual unsigned concurrency() const { return 16; }  // calls in flight that still gain, of one reader or writer
};

// An object store in memory, for tests and trials.
std::unique_ptr<ObjectClient> make_memory_client();

}  // namespace ostraca
