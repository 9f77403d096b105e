/* Preloaded into a process that saves: as soon as a manifest has its name, the file system stops (FS_IOC_SHUTDOWN,
 * without a flush of its journal), as one does that cannot write its journal. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int stop_after(int result, int directory, const char* name) {
  if (result != 0 || strcmp(name, "manifest.json") != 0) return result;
  uint32_t no_log_flush = 2;
  const int fd = openat(directory, ".", O_RDONLY | O_CLOEXEC);
  if (fd < 0 || ioctl(fd, _IOR('X', 125, uint32_t), &no_log_flush) != 0) _exit(3);
  close(fd);
  return 0;
}

int linkat(int a, const char* from, int b, const char* to, int flags) {
  return stop_after(REAL(linkat)(a, from, b, to, flags), b, to);
}
int renameat(int a, const char* from, int b, const char* to) {
  return stop_after(REAL(renameat)(a, from, b, to), b, to);
}
