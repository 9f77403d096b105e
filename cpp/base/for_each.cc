#include "base/for_each.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <new>
#include <string>

#include "base/worker_pool.h"

namespace ostraca {

void in_parallel(std::size_t count, std::size_t threads, const char* name,
                 const std::function<bool(std::size_t)>& task) {
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t i = next++; i < count; i = next++)
      if (!task(i)) next = count;
  };
  threads = std::min(count, threads);
  if (threads <= 1) return work();
  WorkerPool pool(static_cast<unsigned>(threads), name);
  for (std::size_t i = 0; i < threads; ++i) pool.submit(work);
  pool.wait_idle();
}

Status for_each_parallel(std::size_t count, std::size_t threads, const char* name,
                         const std::function<Status(std::size_t)>& task) {
  std::mutex mutex;  // guards failure and failed_at
  Status failure;
  std::size_t failed_at = count;
  in_parallel(count, threads, name, [&](std::size_t i) {
    Status status;
    try {
      status = task(i);
    } catch (const std::bad_alloc&) {
      status = Status(Code::kOutOfMemory, std::string("memory cannot be had (") + name + ")");
    }
    if (status.ok()) return true;
    const std::lock_guard lock(mutex);
    if (i < failed_at) failure = std::move(status), failed_at = i;
    return false;
  });
  return failure;
}

}  // namespace ostraca
