/* A file system in user space that shows one directory at another place: `mirror_fuse SOURCE MOUNTPOINT`, in the
 * foreground. As NFS does, it renames what is unlinked while somebody has it open, to `.fuse_hidden...`: FUSE's own way
 * unless a file system asks for hard removal. */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char source[PATH_MAX];

#define AT(name, path) \
  char name[PATH_MAX]; \
  snprintf(name, sizeof name, "%.2000s%.2000s", source, path)
#define ANSWER(call) return (call) == -1 ? -errno : 0

static int mirror_getattr(const char* path, struct stat* out, struct fuse_file_info* file) {
  if (file) ANSWER(fstat((int)file->fh, out));
  AT(real, path);
  ANSWER(lstat(real, out));
}

static int mirror_readlink(const char* path, char* out, size_t size) {
  AT(real, path);
  const ssize_t n = readlink(real, out, size - 1);
  if (n < 0) return -errno;
  out[n] = 0;
  return 0;
}

static int mirror_mkdir(const char* path, mode_t mode) {
  AT(real, path);
  ANSWER(mkdir(real, mode));
}

static int mirror_unlink(const char* path) {
  AT(real, path);
  ANSWER(unlink(real));
}

static int mirror_rmdir(const char* path) {
  AT(real, path);
  ANSWER(rmdir(real));
}

static int mirror_symlink(const char* target, const char* path) {
  AT(real, path);
  ANSWER(symlink(target, real));
}

static int mirror_rename(const char* from, const char* to, unsigned flags) {
  AT(old, from);
  AT(new, to);
  ANSWER(renameat2(AT_FDCWD, old, AT_FDCWD, new, flags));
}

static int mirror_link(const char* from, const char* to) {
  AT(old, from);
  AT(new, to);
  ANSWER(link(old, new));
}

static int mirror_chmod(const char* path, mode_t mode, struct fuse_file_info* file) {
  (void)file;
  AT(real, path);
  ANSWER(chmod(real, mode));
}

static int mirror_truncate(const char* path, off_t size, struct fuse_file_info* file) {
  if (file) ANSWER(ftruncate((int)file->fh, size));
  AT(real, path);
  ANSWER(truncate(real, size));
}

static int mirror_utimens(const char* path, const struct timespec times[2], struct fuse_file_info* file) {
  if (file) ANSWER(futimens((int)file->fh, times));
  AT(real, path);
  ANSWER(utimensat(AT_FDCWD, real, times, AT_SYMLINK_NOFOLLOW));
}

static int opened(const char* path, struct fuse_file_info* file, mode_t mode) {
  AT(real, path);
  const int fd = open(real, file->flags & ~O_DIRECT, mode);
  if (fd < 0) return -errno;
  file->fh = (uint64_t)fd;
  return 0;
}

static int mirror_open(const char* path, struct fuse_file_info* file) { return opened(path, file, 0); }

static int mirror_create(const char* path, mode_t mode, struct fuse_file_info* file) {
  file->flags |= O_CREAT;
  return opened(path, file, mode);
}

static int mirror_read(const char* path, char* out, size_t n, off_t at, struct fuse_file_info* file) {
  (void)path;
  const ssize_t got = pread((int)file->fh, out, n, at);
  return got < 0 ? -errno : (int)got;
}

static int mirror_write(const char* path, const char* in, size_t n, off_t at, struct fuse_file_info* file) {
  (void)path;
  const ssize_t put = pwrite((int)file->fh, in, n, at);
  return put < 0 ? -errno : (int)put;
}

static int mirror_release(const char* path, struct fuse_file_info* file) {
  (void)path;
  ANSWER(close((int)file->fh));
}

static int mirror_fsync(const char* path, int data_only, struct fuse_file_info* file) {
  (void)path;
  ANSWER(data_only ? fdatasync((int)file->fh) : fsync((int)file->fh));
}

static int mirror_readdir(const char* path, void* out, fuse_fill_dir_t fill, off_t at, struct fuse_file_info* file,
                          enum fuse_readdir_flags flags) {
  (void)at, (void)file, (void)flags;
  AT(real, path);
  DIR* directory = opendir(real);
  if (!directory) return -errno;
  for (struct dirent* entry; (entry = readdir(directory));) fill(out, entry->d_name, NULL, 0, 0);
  closedir(directory);
  return 0;
}

static const struct fuse_operations operations = {
    .getattr = mirror_getattr,   .readlink = mirror_readlink, .mkdir = mirror_mkdir,     .unlink = mirror_unlink,
    .rmdir = mirror_rmdir,       .symlink = mirror_symlink,   .rename = mirror_rename,   .link = mirror_link,
    .chmod = mirror_chmod,       .truncate = mirror_truncate, .utimens = mirror_utimens, .open = mirror_open,
    .create = mirror_create,     .read = mirror_read,         .write = mirror_write,     .release = mirror_release,
    .fsync = mirror_fsync,       .readdir = mirror_readdir,
};

int main(int argc, char** argv) {
  if (argc != 3 || !realpath(argv[1], source)) {
    fprintf(stderr, "mirror_fuse SOURCE MOUNTPOINT\n");
    return 2;
  }
  char* arguments[] = {argv[0], "-f", argv[2]};
  return fuse_main(3, arguments, &operations, NULL);
}
