// Threads that run tasks in the order they were submitted.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace ostraca {

// For whoever needs at least one.
inline constexpr char kNoThreads[] =
    "no thread could be started: the process or user is at its limit of threads or of memory";

// Owns its threads. They are named "ostraca-<role>", and block signals, so that handlers run in the application's
// threads (Python's in its main one). Thread-safe, but the destructor, which first runs what is queued.
// A forked child has none of the threads: it must neither use nor destroy the pool.
class WorkerPool {
 public:
  explicit WorkerPool(unsigned threads, const std::string& role = "work");  // at least one is started
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // Fewer than asked for where the system refuses more; with none at all, submit() runs the task itself.
  unsigned threads() const { return static_cast<unsigned>(threads_.size()); }

  // REQUIRES: `task` throws nothing. A task may submit others; it must not wait_idle().
  void submit(std::function<void()> task);
  // Until every task submitted so far, and by them, has run.
  void wait_idle();

 private:
  void work();

  std::mutex mutex_;  // guards tasks_, running_, stopping_
  std::condition_variable has_work_;
  std::condition_variable idle_;
  std::deque<std::function<void()>> tasks_;
  std::size_t running_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;  // fixed after construction
};

}  // namespace ostraca
