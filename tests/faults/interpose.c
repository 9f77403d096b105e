/* Preloaded into a process, it counts the calls that touch files under one directory, in the order in which all of
 * the process's threads make them, and at the one it is told to kills or stops the process or makes the call fail.
 * (strace injects too, but counts in each thread and for each system call by itself: most points cannot be named that
 * way.) Calls that only look are counted in the mode STOP_ANYWHERE alone: elsewhere they are no place for a fault. */
#define _GNU_SOURCE
#include <dirent.h>
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
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT = 0, KILL_BEFORE = 1, KILL_AFTER = 2, FAIL = 3, STOP = 4, STOP_ANYWHERE = 5 };

static char prefix[PATH_MAX];
static long fatal_call, calls;
static int mode, failure, log_fd = -1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local DIR* listed; /* the last call read an entry of it */

/* Calls under `directory` count from 1; at number `call` what `what` says happens. Each is written to `log`. */
__attribute__((visibility("default"))) void interpose_arm(const char* directory, long call, int what, int error,
                                                          int log) {
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
  const ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, directory, sizeof directory - 1);
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
  listed = NULL;
  pthread_mutex_lock(&mutex);
  const long call = ++calls;
  if (log_fd >= 0) dprintf(log_fd, "%s %s\n", function, path);
  pthread_mutex_unlock(&mutex);
  errno = saved;
  if (call != fatal_call) return 0;
  if (mode == KILL_BEFORE) raise(SIGKILL);
  if (mode == STOP || mode == STOP_ANYWHERE) raise(SIGSTOP);
  if (mode == KILL_AFTER) return 1;
  if (mode != FAIL) return 0;
  errno = failure;
  return -1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CALL(type, fd, path, name, ...)        \
  const int fate = meet(#name, fd, path);      \
  if (fate < 0) return -1;                     \
  const type result = REAL(name)(__VA_ARGS__); \
  if (fate > 0) raise(SIGKILL);                \
  return result

#define OPEN(name)                                                            \
  int name(const char* path, int flags, ...) {                                \
    va_list rest;                                                             \
    va_start(rest, flags);                                                    \
    const int bits = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0; \
    va_end(rest);                                                             \
    CALL(int, AT_FDCWD, path, name, path, flags, bits);                       \
  }
#define OPENAT(name)                                                          \
  int name(int at, const char* path, int flags, ...) {                        \
    va_list rest;                                                             \
    va_start(rest, flags);                                                    \
    const int bits = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0; \
    va_end(rest);                                                             \
    CALL(int, at, path, name, at, path, flags, bits);                         \
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
int mkdirat(int at, const char* path, mode_t bits) { CALL(int, at, path, mkdirat, at, path, bits); }
int mkdir(const char* path, mode_t bits) { CALL(int, AT_FDCWD, path, mkdir, path, bits); }
int rmdir(const char* path) { CALL(int, AT_FDCWD, path, rmdir, path); }
int unlink(const char* path) { CALL(int, AT_FDCWD, path, unlink, path); }
int unlinkat(int at, const char* path, int flags) { CALL(int, at, path, unlinkat, at, path, flags); }
int rename(const char* from, const char* to) { CALL(int, AT_FDCWD, to, rename, from, to); }
int renameat(int a, const char* from, int b, const char* to) { CALL(int, b, to, renameat, a, from, b, to); }
int renameat2(int a, const char* from, int b, const char* to, unsigned flags) {
  CALL(int, b, to, renameat2, a, from, b, to, flags);
}
int link(const char* from, const char* to) { CALL(int, AT_FDCWD, to, link, from, to); }
int linkat(int a, const char* from, int b, const char* to, int flags) {
  CALL(int, b, to, linkat, a, from, b, to, flags);
}

int utimensat(int at, const char* path, const struct timespec* times, int flags) {
  CALL(int, at, path, utimensat, at, path, times, flags);
}
int futimens(int fd, const struct timespec* times) { CALL(int, fd, NULL, futimens, fd, times); }
int flock(int fd, int operation) { CALL(int, fd, NULL, flock, fd, operation); }

#define LOOK(fd, path, name, ...)                         \
  if (mode == STOP_ANYWHERE) (void)meet(#name, fd, path); \
  return REAL(name)(__VA_ARGS__)

int stat(const char* path, struct stat* out) { LOOK(AT_FDCWD, path, stat, path, out); }
int stat64(const char* path, struct stat64* out) { LOOK(AT_FDCWD, path, stat64, path, out); }
int lstat(const char* path, struct stat* out) { LOOK(AT_FDCWD, path, lstat, path, out); }
int lstat64(const char* path, struct stat64* out) { LOOK(AT_FDCWD, path, lstat64, path, out); }
int fstat(int fd, struct stat* out) { LOOK(fd, NULL, fstat, fd, out); }
int fstat64(int fd, struct stat64* out) { LOOK(fd, NULL, fstat64, fd, out); }
int fstatat(int at, const char* path, struct stat* out, int flags) { LOOK(at, path, fstatat, at, path, out, flags); }
int fstatat64(int at, const char* path, struct stat64* out, int flags) {
  LOOK(at, path, fstatat64, at, path, out, flags);
}
int statx(int at, const char* path, int flags, unsigned mask, struct statx* out) {
  LOOK(at, path, statx, at, path, flags, mask, out);
}
int access(const char* path, int bits) { LOOK(AT_FDCWD, path, access, path, bits); }
int faccessat(int at, const char* path, int bits, int flags) { LOOK(at, path, faccessat, at, path, bits, flags); }
ssize_t readlink(const char* path, char* out, size_t n) { LOOK(AT_FDCWD, path, readlink, path, out, n); }
ssize_t readlinkat(int at, const char* path, char* out, size_t n) { LOOK(at, path, readlinkat, at, path, out, n); }
ssize_t read(int fd, void* out, size_t n) { LOOK(fd, NULL, read, fd, out, n); }
ssize_t preadv2(int fd, const struct iovec* parts, int n, off_t at, int flags) {
  LOOK(fd, NULL, preadv2, fd, parts, n, at, flags);
}
DIR* opendir(const char* path) { LOOK(AT_FDCWD, path, opendir, path); }
DIR* fdopendir(int fd) { LOOK(fd, NULL, fdopendir, fd); }

/* The first of a row of these makes a system call, the others take entries from its buffer. */
#define READDIR(type, name)                                                                      \
  struct type* name(DIR* directory) {                                                            \
    if (mode == STOP_ANYWHERE && directory != listed) (void)meet(#name, dirfd(directory), NULL); \
    listed = directory;                                                                          \
    return REAL(name)(directory);                                                                \
  }
READDIR(dirent, readdir)
READDIR(dirent64, readdir64)

int close(int fd) {
  const int fate = meet("close", fd, NULL), error = errno;
  const int result = REAL(close)(fd);
  if (fate > 0) raise(SIGKILL);
  if (fate == 0) return result;
  errno = error;
  return -1;
}
