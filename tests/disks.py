"""Disks that are slow, or become full or read-only: a library that stands before libc's calls."""

import pathlib

import preload

# The environment variable with the folder whose disk is broken while FOLDER.full or FOLDER.read-only exists.
FOLDER = "DISK_FOLDER"

# Every call that writes to a file is held for a moment, whatever library makes it: orbax's, NumPy's, ours.
_SLOW = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static void hold(int descriptor) {
  struct stat status;
  if (!fstat(descriptor, &status) && S_ISREG(status.st_mode)) usleep(20000);
}

#define HELD(type, name, parameters, arguments)      \\
  type name parameters {                             \\
    static type(*next) parameters;                   \\
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, #name); \\
    hold(descriptor);                                \\
    return next arguments;                           \\
  }

HELD(ssize_t, write, (int descriptor, const void *data, size_t size), (descriptor, data, size))
HELD(ssize_t, writev, (int descriptor, const struct iovec *parts, int count), (descriptor, parts, count))
HELD(int, fsync, (int descriptor), (descriptor))
"""

# On a full disk files are made, but take no bytes; on a read-only one nothing is changed.
_BROKEN = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int is(const char *state) {
  char path[4096];
  snprintf(path, sizeof path, "%s.%s", getenv("DISK_FOLDER"), state);
  return !access(path, F_OK);
}

static int inside(const char *path) {
  const char *folder = getenv("DISK_FOLDER");
  size_t length = strlen(folder);
  return !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int descriptor_inside(int descriptor) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return inside(path);
}

static int at_inside(int folder, const char *path) {
  return *path == '/' || folder == AT_FDCWD ? inside(path) : descriptor_inside(folder);
}

static int refused(int error) {
  errno = error;
  return -1;
}

static int write_error(int descriptor) {
  if (is("read-only")) return descriptor_inside(descriptor) ? EROFS : 0;
  return is("full") && descriptor_inside(descriptor) ? ENOSPC : 0;
}

#define CALL(type, name, parameters, arguments, error)    \\
  type name parameters {                                  \\
    static type(*next) parameters;                        \\
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, #name); \\
    int found = error;                                    \\
    return found ? refused(found) : next arguments;       \\
  }
#define PATH(condition) (is("read-only") && (condition) ? EROFS : 0)

CALL(ssize_t, write, (int d, const void *data, size_t size), (d, data, size), write_error(d))
CALL(ssize_t, pwrite64, (int d, const void *data, size_t size, off64_t o), (d, data, size, o), write_error(d))
CALL(ssize_t, writev, (int d, const struct iovec *parts, int count), (d, parts, count), write_error(d))
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode), PATH(inside(path)))
CALL(int, mkdirat, (int d, const char *path, mode_t mode), (d, path, mode), PATH(at_inside(d, path)))
CALL(int, rmdir, (const char *path), (path), PATH(inside(path)))
CALL(int, unlink, (const char *path), (path), PATH(inside(path)))
CALL(int, unlinkat, (int d, const char *path, int flags), (d, path, flags), PATH(at_inside(d, path)))
CALL(int, rename, (const char *from, const char *to), (from, to), PATH(inside(to)))
CALL(int, renameat, (int d, const char *a, int e, const char *b), (d, a, e, b), PATH(at_inside(e, b)))

#define OPEN(name, parameters, arguments, place)          \\
  int name parameters {                                   \\
    static int(*next) parameters;                         \\
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, #name); \\
    va_list rest;                                         \\
    va_start(rest, flags);                                \\
    mode_t mode = va_arg(rest, mode_t);                   \\
    va_end(rest);                                         \\
    if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && is("read-only") && place) return refused(EROFS); \\
    return next arguments;                                \\
  }

OPEN(open, (const char *path, int flags, ...), (path, flags, mode), inside(path))
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode), inside(path))
OPEN(openat, (int d, const char *path, int flags, ...), (d, path, flags, mode), at_inside(d, path))
OPEN(openat64, (int d, const char *path, int flags, ...), (d, path, flags, mode), at_inside(d, path))
"""


def library(kind: str, folder: pathlib.Path) -> pathlib.Path:
    """Compiles the "slow" or the "broken" disk into a folder; returns what to preload."""
    return preload.library(kind, {"slow": _SLOW, "broken": _BROKEN}[kind], folder)
