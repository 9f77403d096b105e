#include "base/worker_pool.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <memory>

namespace ostraca {
namespace {

TEST(WorkerPool, OneThreadRunsInOrder) {
  std::vector<int> seen;
  WorkerPool pool(1);
  for (int i = 0; i < 100; ++i) pool.submit([&, i] { seen.push_back(i); });
  pool.wait_idle();
  ASSERT_EQ(seen.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(seen[i], i);
}

TEST(WorkerPool, TasksRunAtOnce) {
  WorkerPool pool(3);
  EXPECT_EQ(pool.threads(), 3u);
  std::atomic<int> here{0};
  for (int i = 0; i < 3; ++i)
    pool.submit([&] {
      ++here;
      while (here < 3) std::this_thread::yield();  // none returns before all are running
    });
  pool.wait_idle();
  EXPECT_EQ(here, 3);
}

TEST(WorkerPool, WaitIdleCoversTasksOfTasks) {
  std::atomic<int> runs{0};
  WorkerPool pool(2);
  std::function<void(int)> spawn = [&](int depth) {
    ++runs;
    if (depth > 0)
      for (int i = 0; i < 2; ++i) pool.submit([&, depth] { spawn(depth - 1); });
  };
  pool.submit([&] { spawn(6); });
  pool.wait_idle();
  EXPECT_EQ(runs, 127);
  pool.wait_idle();
}

TEST(WorkerPool, DestructorRunsWhatIsQueuedAndWhatThatSubmits) {
  std::atomic<int> runs{0};
  {
    WorkerPool pool(2);
    for (int i = 0; i < 50; ++i) pool.submit([&] { pool.submit([&] { ++runs; }); });
  }
  EXPECT_EQ(runs, 50);
}

TEST(WorkerPool, CapturesAreReleasedBeforeIdle) {
  auto token = std::make_shared<int>(1);
  WorkerPool pool(2);
  for (int i = 0; i < 20; ++i) pool.submit([token] {});
  pool.wait_idle();
  EXPECT_EQ(token.use_count(), 1);
}

TEST(WorkerPool, ThreadsAreNamedAndBlockSignals) {
  WorkerPool pool(0, "a-role-with-a-long-name");
  EXPECT_EQ(pool.threads(), 1u);
  char name[16] = "";
  sigset_t mask;
  pool.submit([&] {
    // The name is given by the thread that starts this one: perhaps a little later.
    while (std::string(name).rfind("ostraca-", 0) != 0) pthread_getname_np(pthread_self(), name, sizeof name);
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  });
  pool.wait_idle();
  EXPECT_STREQ(name, "ostraca-a-role-");
  for (int signal : {SIGINT, SIGTERM, SIGUSR1, SIGALRM, SIGCHLD}) EXPECT_EQ(sigismember(&mask, signal), 1) << signal;
  EXPECT_EQ(sigismember(&mask, SIGSEGV), 0);
  sigset_t here;
  pthread_sigmask(SIG_SETMASK, nullptr, &here);
  EXPECT_EQ(sigismember(&here, SIGINT), 0);
}

}  // namespace
}  // namespace ostraca
