// Where a path becomes a run, or a checkpoint's storage: here alone.
#pragma once

#include <memory>
#include <string>

#include "storage/storage.h"

namespace ostraca {

std::unique_ptr<Storage> open_storage(const std::string& path);
std::unique_ptr<Run> open_run(const std::string& path);

// The one name of a place, whatever links lead there. It need not be there.
std::string real_path(const std::string& path);

// For tests: what every store that is opened from now on is wrapped in. Null: nothing. REQUIRES: it outlives them.
class StoreWrapper {
 public:
  virtual ~StoreWrapper() = default;
  virtual std::unique_ptr<Storage> wrap(std::unique_ptr<Storage> storage) = 0;
  virtual std::unique_ptr<Run> wrap(std::unique_ptr<Run> run) = 0;
};
void wrap_stores(StoreWrapper* wrapper);

}  // namespace ostraca
