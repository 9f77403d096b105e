// What an incremental save is made against: a keyframe, and as much of its content as is kept in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "ostraca/status.h"
#include "ostraca/types.h"

namespace ostraca {

// Holds a lease on the keyframe, so that nobody prunes it meanwhile. Serves any number of saves, also at once.
// Thread-safe.
class BaseSnapshot {
 public:
  // Opens the checkpoint at `path`, or its keyframe if it is a delta. Chunks that saves read back from it are kept
  // decoded for the next save, up to `budget_bytes`. kNotFound, kFormat, kCorruption as when it is read.
  static Result<std::shared_ptr<BaseSnapshot>> open(const std::string& path, std::uint64_t budget_bytes);
  virtual ~BaseSnapshot() = default;

  virtual std::string path() const = 0;  // of the keyframe
  virtual const CheckpointId& id() const = 0;
  virtual std::uint64_t kept_bytes() const = 0;  // decoded bytes in memory
};

}  // namespace ostraca
