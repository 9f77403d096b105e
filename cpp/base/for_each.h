// One task for each of many things, some at a time.
#pragma once

#include <cstddef>
#include <functional>

#include "ostraca/status.h"

namespace ostraca {

// Calls task(i) for every i below `count`, in up to `threads` threads called `name`. Once it has said false no more are
// begun. REQUIRES: it throws nothing.
void in_parallel(std::size_t count, std::size_t threads, const char* name,
                 const std::function<bool(std::size_t)>& task);

// The same for tasks that fail, and may lack memory: the failure of the lowest i is returned.
Status for_each_parallel(std::size_t count, std::size_t threads, const char* name,
                         const std::function<Status(std::size_t)>& task);

}  // namespace ostraca
