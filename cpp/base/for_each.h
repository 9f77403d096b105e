// One task for each of many things, some at a time.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "ostraca/status.h"

namespace ostraca {

// Calls task(i) for every i below `count`, in up to `threads` threads called `name`. After a failure no more are begun;
// of several the one of the lowest i is returned.
Status for_each_parallel(std::size_t count, unsigned threads, const std::string& name,
                         const std::function<Status(std::size_t)>& task);

}  // namespace ostraca
