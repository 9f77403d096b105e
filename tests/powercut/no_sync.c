/* The control: preloaded into the process that saves, it makes syncs a lie, those of NO_SYNC=files, directories or all.
 * Power cuts must then lose checkpoints; where they do not, the harness is blind. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* 1: say that it is done; 0: do it; -1: there is no such file. */
static int lie(int fd) {
  const char* which = getenv("NO_SYNC");
  struct stat status;
  if (fstat(fd, &status) != 0) return -1;
  return !which || strcmp(which, "all") == 0 || (strcmp(which, "directories") == 0) == S_ISDIR(status.st_mode);
}

#define SYNC(name)                                      \
  int name(int fd) {                                    \
    const int lies = lie(fd);                           \
    if (lies) return lies < 0 ? -1 : 0;                 \
    return ((int (*)(int))dlsym(RTLD_NEXT, #name))(fd); \
  }
SYNC(fsync)
SYNC(fdatasync)
