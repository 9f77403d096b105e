#include "base/for_each.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <new>

#include "base/worker_pool.h"

namespace ostraca {

Status for_each_parallel(std::size_t count, unsigned threads, const std::string& name,
                         const std::function<Status(std::size_t)>& task) {
  std::mutex mutex;  // guards failure and failed_at
  Status failure;
  std::size_t failed_at = count;
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t i = next++; i < count; i = next++) {
      Status status;
      try {
        status = task(i);
      } catch (const std::bad_alloc&) {
        status = Status(Code::kOutOfMemory, "memory cannot be had (" + name + ")");
      }
      if (status.ok()) continue;
      const std::lock_guard lock(mutex);
      if (i < failed_at) failure = std::move(status), failed_at = i;
      next = count;
    }
  };
  threads = static_cast<unsigned>(std::min<std::size_t>(count, threads));
  if (threads <= 1) {
    work();
  } else {
    WorkerPool pool(threads, name.c_str());
    for (unsigned i = 0; i < threads; ++i) pool.submit(work);
    pool.wait_idle();
  }
  return failure;
}

}  // namespace ostraca
