// Many small things at a time.
#pragma once

#include <atomic>
#include <cstddef>

#include "base/worker_pool.h"

namespace ostraca {

// Calls do_one(0 .. count - 1), each once, in as many threads. REQUIRES: it throws nothing, and may be called at once.
template <class DoOne>
void in_parallel(std::size_t count, std::size_t threads, const DoOne& do_one) {
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t i = next++; i < count; i = next++) do_one(i);
  };
  if (threads <= 1) return work();
  WorkerPool pool(static_cast<unsigned>(threads), "scan");
  for (std::size_t i = 0; i < threads; ++i) pool.submit(work);
  pool.wait_idle();
}

}  // namespace ostraca
