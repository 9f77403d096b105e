/* A disk that remembers: a FUSE file system with the file `disk`, in which a loop device and a real file system live,
 * and the file `marks`. Every write and flush of `disk`, and every write to `marks`, is appended to one log, in the
 * order in which the daemon answers them. One thread answers all, so an answer never overtakes its record.
 *
 *   log_device MOUNT_POINT IMAGE LOG
 *
 * A record is a header (struct record below, in this machine's byte order), and for writes and marks the bytes. */
#define FUSE_USE_VERSION 35
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { WRITE = 1, FLUSH = 2, MARK = 3 };
struct record {
  uint64_t kind, offset, bytes;
};

static const char disk_path[] = "/disk", marks_path[] = "/marks";
static int image_fd, log_fd;
static off_t image_bytes;

/* A record that is cut short would make all later ones unreadable, so the disk fails for good. */
static int append(enum kind kind, off_t offset, const void* data, size_t bytes) {
  static int broken;
  const struct record head = {kind, (uint64_t)offset, bytes};
  const struct iovec parts[] = {{(void*)&head, sizeof head}, {(void*)data, bytes}};
  if (!broken && writev(log_fd, parts, 2) != (ssize_t)(sizeof head + bytes)) broken = 1;
  return broken ? -EIO : 0;
}

static int disk_getattr(const char* path, struct stat* status, struct fuse_file_info* info) {
  (void)info;
  memset(status, 0, sizeof *status);
  status->st_nlink = 1;
  status->st_mode = S_IFREG | 0600;
  if (strcmp(path, "/") == 0)
    status->st_mode = S_IFDIR | 0700;
  else if (strcmp(path, disk_path) == 0)
    status->st_size = image_bytes;
  else if (strcmp(path, marks_path) != 0)
    return -ENOENT;
  return 0;
}

/* Nothing of the disk stays in the page cache of this file: the loop device's own is enough, and a write that the file
 * system thinks done has reached the log. */
static int disk_open(const char* path, struct fuse_file_info* info) {
  (void)path;
  info->direct_io = 1;
  return 0;
}

static int disk_read(const char* path, char* out, size_t bytes, off_t offset, struct fuse_file_info* info) {
  (void)path, (void)info;
  const ssize_t got = pread(image_fd, out, bytes, offset);
  return got < 0 ? -errno : (int)got;
}

static int disk_write(const char* path, const char* data, size_t bytes, off_t offset, struct fuse_file_info* info) {
  (void)info;
  const int mark = strcmp(path, marks_path) == 0;
  if (!mark && pwrite(image_fd, data, bytes, offset) != (ssize_t)bytes) return -EIO;
  const int failed = mark ? append(MARK, 0, data, bytes) : append(WRITE, offset, data, bytes);
  return failed ? failed : (int)bytes;
}

static int disk_fsync(const char* path, int data_only, struct fuse_file_info* info) {
  (void)data_only, (void)info;
  return strcmp(path, disk_path) == 0 ? append(FLUSH, 0, "", 0) : 0;
}

/* Once it is mounted, the daemon leaves the mount namespace of those it serves. Killed together with them it would else
 * be the last in it, unmount the file system on its own disk while it exits, and wait for itself for ever. */
static void* disk_init(struct fuse_conn_info* connection, struct fuse_config* config) {
  (void)connection, (void)config;
  if (unshare(CLONE_NEWNS) != 0) _exit(1);
  return NULL;
}

int main(int count, char** arguments) {
  if (count != 4) return 2;
  image_fd = open(arguments[2], O_RDWR | O_CLOEXEC);
  log_fd = open(arguments[3], O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
  if (image_fd < 0 || log_fd < 0) return 1;
  image_bytes = lseek(image_fd, 0, SEEK_END);
  static const struct fuse_operations operations = {.init = disk_init,
                                                    .getattr = disk_getattr,
                                                    .open = disk_open,
                                                    .read = disk_read,
                                                    .write = disk_write,
                                                    .fsync = disk_fsync};
  char* options[] = {arguments[0], arguments[1], "-f", "-s", NULL};
  return fuse_main(4, options, &operations, NULL);
}
