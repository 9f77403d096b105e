/* The control: preloaded into the process that saves, it makes every sync a lie. Power cuts must then lose
 * checkpoints; where they do not, the harness is blind. */
#define _GNU_SOURCE
#include <fcntl.h>

int fsync(int fd) { return fcntl(fd, F_GETFD) < 0 ? -1 : 0; }
int fdatasync(int fd) { return fsync(fd); }
int syncfs(int fd) { return fsync(fd); }
int sync_file_range(int fd, off64_t at, off64_t bytes, unsigned flags) {
  (void)at, (void)bytes, (void)flags;
  return fsync(fd);
}
