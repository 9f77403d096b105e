/* Preloaded into a process, it counts the calls that touch files under one directory, in the order in which all of
 * the process's threads make them, and at the one it is told to kills the process or makes the call fail. (strace
 * injects too, but counts in each thread and for each system call by itself: most points cannot be named that way.) */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT = 0, KILL_BEFORE = 1, KILL_AFTER = 2, FAIL = 3, STOP = 4 };

static char prefix[PATH_MAX];
static long fatal_call, calls;
static int mode, failure, log_fd = -1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* Calls under `directory` count from 1; at number `call` what `what` says happens. Each is written to `log`. */
__attribute__((visibility("default"))) void interpose_arm(const char* directory, long call, int what, int error, int log) {
  snprintf(prefix, sizeof prefix, "%s", directory);
  fatal_call = call, mode = what, failure = error, log_fd = log, calls = 0;
}

static void path_of(int fd, const char* name, char* out) {
  char link[64], directory[PATH_MAX] = "";
  if (name && name[0] == '/') {
    snprintf(out, PATH_MAX, "%s", name);
    return;
  }
  snprintf(link, sizeof link, fd == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", fd);
  const ssize_t n = readlink(link, directory, sizeof directory - 1);
  directory[n > 0 ? n : 0] = 0;
  if (name)
    snprintf(out, PATH_MAX, "%.2000s/%.2000s", directory, name);
  else
    snprintf(out, PATH_MAX, "%s", directory);
}

/* 0: go on; 1: go on and die; -1: fail. */
static int meet(const char* function, int fd, const char* name) {
  if (!prefix[0]) return 0;
  const int saved = errno;
  char path[PATH_MAX];
  path_of(fd, name, path);
  errno = saved;
  if (strncmp(path, prefix, strlen(prefix)) != 0) return 0;
  pthread_mutex_lock(&mutex);
  const long call = ++calls;
  if (log_fd >= 0) dprintf(log_fd, "%s %s\n", function, path);
  pthread_mutex_unlock(&mutex);
  errno = saved;
  if (call != fatal_call) return 0;
  if (mode == KILL_BEFORE) raise(SIGKILL);
  if (mode == STOP) raise(SIGSTOP);
  if (mode == KILL_AFTER) return 1;
  if (mode != FAIL) return 0;
  errno = failure;
  return -1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CALL(type, fd, path, name, ...)              \
  const int fate = meet(#name, fd, path);            \
  if (fate < 0) return -1;                           \
  const type result = REAL(name)(__VA_ARGS__);       \
  if (fate > 0) raise(SIGKILL);                      \
  return result

#define OPEN(name)                                                   \
  int name(const char* path, int flags, ...) {                       \
    va_list rest;                                                    \
    va_start(rest, flags);                                           \
    const int bits = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0; \
    va_end(rest);                                                    \
    CALL(int, AT_FDCWD, path, name, path, flags, bits);              \
  }
#define OPENAT(name)                                                 \
  int name(int at, const char* path, int flags, ...) {               \
    va_list rest;                                                    \
    va_start(rest, flags);                                           \
    const int bits = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0; \
    va_end(rest);                                                    \
    CALL(int, at, path, name, at, path, flags, bits);                \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

ssize_t pwrite(int fd, const void* p, size_t n, off_t at) { CALL(ssize_t, fd, NULL, pwrite, fd, p, n, at); }
ssize_t pwrite64(int fd, const void* p, size_t n, off64_t at) { CALL(ssize_t, fd, NULL, pwrite64, fd, p, n, at); }
ssize_t pread(int fd, void* p, size_t n, off_t at) { CALL(ssize_t, fd, NULL, pread, fd, p, n, at); }
ssize_t pread64(int fd, void* p, size_t n, off64_t at) { CALL(ssize_t, fd, NULL, pread64, fd, p, n, at); }
ssize_t write(int fd, const void* p, size_t n) { CALL(ssize_t, fd, NULL, write, fd, p, n); }
int fallocate(int fd, int mode, off_t at, off_t n) { CALL(int, fd, NULL, fallocate, fd, mode, at, n); }
int ftruncate(int fd, off_t n) { CALL(int, fd, NULL, ftruncate, fd, n); }
int fsync(int fd) { CALL(int, fd, NULL, fsync, fd); }
int fdatasync(int fd) { CALL(int, fd, NULL, fdatasync, fd); }
int mkdir(const char* path, mode_t bits) { CALL(int, AT_FDCWD, path, mkdir, path, bits); }
int rmdir(const char* path) { CALL(int, AT_FDCWD, path, rmdir, path); }
int unlink(const char* path) { CALL(int, AT_FDCWD, path, unlink, path); }
int unlinkat(int at, const char* path, int flags) { CALL(int, at, path, unlinkat, at, path, flags); }
int rename(const char* from, const char* to) { CALL(int, AT_FDCWD, to, rename, from, to); }
int renameat(int a, const char* from, int b, const char* to) { CALL(int, b, to, renameat, a, from, b, to); }
int renameat2(int a, const char* from, int b, const char* to, unsigned flags) {
  CALL(int, b, to, renameat2, a, from, b, to, flags);
}
int linkat(int a, const char* from, int b, const char* to, int flags) { CALL(int, b, to, linkat, a, from, b, to, flags); }

int utimensat(int at, const char* path, const struct timespec* times, int flags) {
  CALL(int, at, path, utimensat, at, path, times, flags);
}
int futimens(int fd, const struct timespec* times) { CALL(int, fd, NULL, futimens, fd, times); }
int flock(int fd, int operation) { CALL(int, fd, NULL, flock, fd, operation); }

int close(int fd) {
  const int fate = meet("close", fd, NULL), error = errno;
  const int result = REAL(close)(fd);
  if (fate > 0) raise(SIGKILL);
  if (fate == 0) return result;
  errno = error;
  return -1;
}
