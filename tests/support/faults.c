/* The n-th system call below one folder fails, or kills the process. Preloaded by tests.support.fault_zygote.

   Calls are of classes: SPACE needs room, CHANGE changes the disk, ANY is every one. `fault_arm` says which of them count
   and what happens at the n-th: an errno, once or from then on, or SIGKILL (error -1). What was met is kept in memory
   that is shared with the parent, so that it outlives a kill. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { SPACE = 1, CHANGE = 2, ANY = 4 };

struct state {
  atomic_long count;
  atomic_long fired;
  char where[1024];
};

static struct state *state;
static char root[1024];
static size_t root_length;
static int mask, error, stay;
static long at;

__attribute__((constructor)) static void begin(void) {
  state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

struct state *fault_state(void) { return state; }

void fault_arm(const char *folder, int classes, int what, long number, int from_then_on) {
  snprintf(root, sizeof root, "%s", folder);
  root_length = strlen(root);
  error = what, at = number, stay = from_then_on;
  atomic_store(&state->count, 0);
  atomic_store(&state->fired, 0);
  state->where[0] = 0;
  mask = classes;
}

static int meets(int classes, const char *call, const char *path) {
  if (!(classes & mask) || path == NULL || strncmp(path, root, root_length) != 0) return 0;
  long number = atomic_fetch_add(&state->count, 1) + 1;
  if (at == 0 || (stay ? number < at : number != at)) return 0;
  if (atomic_fetch_add(&state->fired, 1) == 0) snprintf(state->where, sizeof state->where, "%s %s", call, path);
  if (error < 0) syscall(SYS_kill, getpid(), SIGKILL);
  errno = error;
  return 1;
}

static int meets_open_file(int classes, const char *call, int handle) {
  char link[64], path[1024];
  if (!(classes & mask)) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  long length = syscall(SYS_readlink, link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return meets(classes, call, path);
}

#define NEXT(name) (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define CALL(result, name, parameters, arguments, bad) \
  result name parameters {                             \
    static __typeof__(name) *next;                     \
    if (next == NULL) next = NEXT(name);               \
    if (bad) return (result)-1;                        \
    return next arguments;                             \
  }
#define PATH(classes, name) meets(classes, #name, path)
#define FILE_(classes, name) meets_open_file(classes, #name, handle)

static int classes_of(int flags) {
  if (flags & O_CREAT) return SPACE | CHANGE | ANY;
  return (flags & O_ACCMODE) != O_RDONLY ? CHANGE | ANY : ANY;
}

#define OPEN(name, parameters, arguments)                 \
  int name parameters {                                   \
    static __typeof__(name) *next;                        \
    mode_t mode = 0;                                      \
    if (next == NULL) next = NEXT(name);                  \
    if (flags & (O_CREAT | O_TMPFILE)) {                  \
      va_list more;                                       \
      va_start(more, flags);                              \
      mode = va_arg(more, mode_t);                        \
      va_end(more);                                       \
    }                                                     \
    if (meets(classes_of(flags), "open", path)) return -1; \
    return next arguments;                                \
  }
OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))
OPEN(openat, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
OPEN(openat64, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))

CALL(ssize_t, read, (int handle, void *data, size_t size), (handle, data, size), FILE_(ANY, read))
CALL(ssize_t, pread64, (int handle, void *data, size_t size, off64_t from), (handle, data, size, from),
     FILE_(ANY, pread64))
#define WRITTEN (SPACE | CHANGE | ANY)
CALL(ssize_t, write, (int handle, const void *data, size_t size), (handle, data, size), FILE_(WRITTEN, write))
CALL(ssize_t, pwrite64, (int handle, const void *data, size_t size, off64_t to), (handle, data, size, to),
     FILE_(WRITTEN, pwrite64))
CALL(ssize_t, pwritev64v2, (int handle, const struct iovec *parts, int count, off64_t to, int flags),
     (handle, parts, count, to, flags), FILE_(WRITTEN, pwritev64v2))
CALL(int, fsync, (int handle), (handle), FILE_(WRITTEN, fsync))
CALL(int, fdatasync, (int handle), (handle), FILE_(WRITTEN, fdatasync))
CALL(int, ftruncate64, (int handle, off64_t size), (handle, size), FILE_(CHANGE | ANY, ftruncate64))
CALL(int, truncate64, (const char *path, off64_t size), (path, size), PATH(CHANGE | ANY, truncate64))
CALL(int, fchmod, (int handle, mode_t mode), (handle, mode), FILE_(CHANGE | ANY, fchmod))
CALL(int, chmod, (const char *path, mode_t mode), (path, mode), PATH(CHANGE | ANY, chmod))
CALL(int, futimens, (int handle, const struct timespec times[2]), (handle, times), FILE_(CHANGE | ANY, futimens))
CALL(int, utimensat, (int folder, const char *path, const struct timespec times[2], int flags),
     (folder, path, times, flags), PATH(CHANGE | ANY, utimensat))
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode), PATH(WRITTEN, mkdir))
CALL(int, rmdir, (const char *path), (path), PATH(CHANGE | ANY, rmdir))
CALL(int, unlink, (const char *path), (path), PATH(CHANGE | ANY, unlink))
CALL(int, unlinkat, (int folder, const char *path, int flags), (folder, path, flags), PATH(CHANGE | ANY, unlinkat))
CALL(int, rename, (const char *from, const char *path), (from, path), PATH(WRITTEN, rename))
CALL(int, linkat, (int one, const char *from, int two, const char *path, int flags), (one, from, two, path, flags),
     PATH(WRITTEN, linkat))
CALL(int, link, (const char *from, const char *path), (from, path), PATH(WRITTEN, link))
CALL(int, flock, (int handle, int how), (handle, how), FILE_(ANY, flock))
CALL(int, stat64, (const char *path, struct stat64 *facts), (path, facts), PATH(ANY, stat64))
CALL(int, lstat64, (const char *path, struct stat64 *facts), (path, facts), PATH(ANY, lstat64))
CALL(int, fstat64, (int handle, struct stat64 *facts), (handle, facts), FILE_(ANY, fstat64))
CALL(int, fstatat64, (int folder, const char *path, struct stat64 *facts, int flags), (folder, path, facts, flags),
     PATH(ANY, fstatat64))
CALL(int, statvfs64, (const char *path, struct statvfs64 *facts), (path, facts), PATH(ANY, statvfs64))

DIR *opendir(const char *path) {
  static __typeof__(opendir) *next;
  if (next == NULL) next = NEXT(opendir);
  return meets(ANY, "opendir", path) ? NULL : next(path);
}
