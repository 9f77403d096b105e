/* A directory seen as those who mount buckets show theirs: without hard links and without a rename that refuses to
 * replace. Everything else is the directory's.
 *
 *   bucket MOUNT_POINT DIRECTORY */
#define FUSE_USE_VERSION 35
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int root;

static const char* inside(const char* path) { return path[1] ? path + 1 : "."; }
static int answer(long result) { return result < 0 ? -errno : (int)result; }

static int bucket_getattr(const char* path, struct stat* status, struct fuse_file_info* info) {
  (void)info;
  return answer(fstatat(root, inside(path), status, AT_SYMLINK_NOFOLLOW));
}

static int bucket_readdir(const char* path, void* out, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info* info,
                          enum fuse_readdir_flags flags) {
  (void)offset, (void)info, (void)flags;
  int fd = openat(root, inside(path), O_RDONLY | O_DIRECTORY);
  DIR* listing = fd < 0 ? NULL : fdopendir(fd);
  if (!listing) return -errno;
  for (struct dirent* entry; (entry = readdir(listing));) fill(out, entry->d_name, NULL, 0, 0);
  closedir(listing);
  return 0;
}

static int bucket_open(const char* path, struct fuse_file_info* info) {
  int fd = openat(root, inside(path), info->flags & ~(O_CREAT | O_EXCL | O_DIRECT));
  info->fh = (uint64_t)fd;
  return fd < 0 ? -errno : 0;
}

static int bucket_create(const char* path, mode_t mode, struct fuse_file_info* info) {
  int fd = openat(root, inside(path), O_RDWR | O_CREAT | O_EXCL, mode);
  info->fh = (uint64_t)fd;
  return fd < 0 ? -errno : 0;
}

static int bucket_release(const char* path, struct fuse_file_info* info) {
  (void)path;
  return answer(close((int)info->fh));
}

static int bucket_read(const char* path, char* out, size_t bytes, off_t offset, struct fuse_file_info* info) {
  (void)path;
  return answer(pread((int)info->fh, out, bytes, offset));
}

static int bucket_write(const char* path, const char* data, size_t bytes, off_t offset, struct fuse_file_info* info) {
  (void)path;
  return answer(pwrite((int)info->fh, data, bytes, offset));
}

static int bucket_fsync(const char* path, int data_only, struct fuse_file_info* info) {
  (void)path, (void)data_only;
  return answer(fsync((int)info->fh));
}

static int bucket_truncate(const char* path, off_t bytes, struct fuse_file_info* info) {
  (void)path;
  return info ? answer(ftruncate((int)info->fh, bytes)) : -ENOTSUP;
}

static int bucket_mkdir(const char* path, mode_t mode) { return answer(mkdirat(root, inside(path), mode)); }
static int bucket_rmdir(const char* path) { return answer(unlinkat(root, inside(path), AT_REMOVEDIR)); }
static int bucket_unlink(const char* path) { return answer(unlinkat(root, inside(path), 0)); }

static int bucket_rename(const char* from, const char* to, unsigned flags) {
  return flags ? -EINVAL : answer(renameat(root, inside(from), root, inside(to)));
}

static int bucket_utimens(const char* path, const struct timespec times[2], struct fuse_file_info* info) {
  (void)info;
  return answer(utimensat(root, inside(path), times, AT_SYMLINK_NOFOLLOW));
}

static int bucket_statfs(const char* path, struct statvfs* status) {
  (void)path;
  return answer(fstatvfs(root, status));
}

int main(int count, char** arguments) {
  static const struct fuse_operations operations = {
      .getattr = bucket_getattr,   .readdir = bucket_readdir, .open = bucket_open,         .create = bucket_create,
      .release = bucket_release,   .read = bucket_read,       .write = bucket_write,       .fsync = bucket_fsync,
      .truncate = bucket_truncate, .mkdir = bucket_mkdir,     .rmdir = bucket_rmdir,       .unlink = bucket_unlink,
      .rename = bucket_rename,     .utimens = bucket_utimens, .statfs = bucket_statfs,
  };
  if (count != 3) return fprintf(stderr, "usage: bucket MOUNT_POINT DIRECTORY\n"), 2;
  root = open(arguments[2], O_RDONLY | O_DIRECTORY);
  if (root < 0) return perror(arguments[2]), 1;
  char* options[] = {arguments[0], arguments[1], "-f", "-s", NULL};
  return fuse_main(4, options, &operations, NULL);
}
