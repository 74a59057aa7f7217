/* A library to preload that makes chosen file operations of a process fail, and lists all of them.

   It sees the calls under certain folders ("roots") alone and gives each a name of its operation:
   open and create, read, pread, write, sync, ... whichever of libc's spellings was called. A rule
   strikes its n-th call (and so many after it) of an operation on paths of a pattern. Rules come
   from a file: one a line, five fields between tabs:

       write   /tmp/x/run/log.jsonl   2   1    5      the second write, once, ends with EIO (5)
       rename  /tmp/x/run/step-?      1   -1   28     the first and all that follow
       sync    /tmp/x/run/step-?      1   1    KILL   the process is killed before the call

   Other words than numbers: KILL; SHORT: half of the bytes are read or written; FULL: half of the
   bytes of the first write that is struck, then ENOSPC. Lines "root<TAB>FOLDER" name the roots. The
   log has a line a call: phase, thread (0 the first), operation, errno, 1 if it was struck, path.
   Nothing is ever really synced, for a killed process loses nothing that the kernel has.

   Armed by faults_arm(rules, log), or at the start of a process by the environment's
   COUNTERPOSE_FAULTS_RULES and COUNTERPOSE_FAULTS_LOG. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 64
enum { KILL = -1, SHORT = -2, FULL = -3 };

struct rule {
    char call[32], pattern[PATH_MAX];
    long nth, times;
    int action;
    atomic_long seen;
};

static struct rule rules[MOST];
static char roots[MOST][PATH_MAX];
static int rule_count, root_count, log_file = -1;
static atomic_int armed;
static char phase_name[32] = "start";

/* What one call meets: action 0 lets it through. */
struct call {
    const char *name;
    char path[PATH_MAX];
    int seen, action, error;
};

static void write_log(const struct call *call, int error) {
    char line[PATH_MAX + 128];
    int saved = errno;
    int first = syscall(SYS_gettid) == getpid() ? 0 : 1;
    int size = snprintf(line, sizeof line, "%s\t%d\t%s\t%d\t%d\t%s\n", phase_name, first,
                        call->name, error, call->action != 0, call->path);
    if (log_file >= 0 && size > 0 && syscall(SYS_write, log_file, line, (size_t)size) < 0)
        syscall(SYS_exit_group, 99); /* a case that cannot be judged */
    errno = saved;
}

static int under_root(const char *path) {
    for (int i = 0; i < root_count; i++) {
        size_t size = strlen(roots[i]);
        if (!strncmp(path, roots[i], size) && (!path[size] || path[size] == '/')) return 1;
    }
    return 0;
}

static int of_descriptor(int descriptor, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    long size = syscall(SYS_readlinkat, AT_FDCWD, link, out, PATH_MAX - 1);
    if (size <= 0 || out[0] != '/') return 0;
    out[size] = 0;
    return 1;
}

static int resolve(int folder, const char *name, char *out) {
    if (!name || !*name) return folder >= 0 && of_descriptor(folder, out);
    if (*name == '/') return snprintf(out, PATH_MAX, "%s", name) < PATH_MAX;
    char base[PATH_MAX];
    if (folder == AT_FDCWD && syscall(SYS_getcwd, base, PATH_MAX) < 0) return 0;
    if (folder != AT_FDCWD && !of_descriptor(folder, base)) return 0;
    size_t size = strlen(base);
    if (size + strlen(name) + 2 > PATH_MAX) return 0;
    memcpy(out, base, size);
    out[size] = '/';
    strcpy(out + size + 1, name);
    return 1;
}

/* Decide a call's fate; ``other``: a second path that may match. */
static void judge(struct call *call, const char *other) {
    call->seen = call->action = call->error = 0;
    if (!under_root(call->path) && !(other && under_root(other))) return;
    call->seen = 1;
    for (int i = 0; i < rule_count && !call->action; i++) {
        struct rule *rule = &rules[i];
        if (fnmatch(rule->call, call->name, 0)) continue;
        int meant = !fnmatch(rule->pattern, call->path, 0);
        if (!meant && !(other && !fnmatch(rule->pattern, other, 0))) continue;
        long number = atomic_fetch_add(&rule->seen, 1) + 1;
        if (number < rule->nth || (rule->times >= 0 && number >= rule->nth + rule->times)) continue;
        call->action = rule->action;
        if (rule->action == FULL && number > rule->nth) call->action = ENOSPC;
    }
    if (call->action == KILL) {
        write_log(call, 0);
        syscall(SYS_kill, getpid(), SIGKILL);
        for (;;) pause();
    }
    if (call->action > 0) call->error = call->action;
}

static void begin_path(struct call *call, const char *name, int folder, const char *path) {
    int saved = errno;
    call->name = name;
    call->seen = call->action = call->error = 0;
    if (atomic_load(&armed) && resolve(folder, path, call->path)) judge(call, NULL);
    errno = saved;
}

static void begin_file(struct call *call, const char *name, int descriptor) {
    int saved = errno;
    call->name = name;
    call->seen = call->action = call->error = 0;
    if (atomic_load(&armed) && descriptor >= 0 && descriptor != log_file
        && of_descriptor(descriptor, call->path)) judge(call, NULL);
    errno = saved;
}

static void begin_pair(struct call *call, const char *name, int from, const char *old, int to,
                       const char *new) {
    int saved = errno;
    char other[PATH_MAX];
    call->name = name;
    call->seen = call->action = call->error = 0;
    if (atomic_load(&armed) && resolve(to, new, call->path) && resolve(from, old, other))
        judge(call, other);
    errno = saved;
}

/* Whether the call is to fail; else it is made and ``end`` is told how it went. */
static int fails(struct call *call) {
    if (!call->error) return 0;
    write_log(call, call->error);
    errno = call->error;
    return 1;
}

static void end(const struct call *call, int failed) {
    int saved = errno;
    if (call->seen) write_log(call, failed ? saved : 0);
    errno = saved;
}

static size_t cut(const struct call *call, size_t size) {
    return (call->action == SHORT || call->action == FULL) && size > 1 ? size / 2 : size;
}

int faults_arm(const char *file, const char *log) {
    atomic_store(&armed, 0);
    rule_count = root_count = 0;
    strcpy(phase_name, "start");
    FILE *in = fopen(file, "r");
    if (!in) return -1;
    char line[2 * PATH_MAX];
    while (fgets(line, sizeof line, in)) {
        char *fields[5], *rest = line;
        int count = 0;
        line[strcspn(line, "\n")] = 0;
        while (count < 5 && (fields[count] = strsep(&rest, "\t"))) count++;
        if (count == 2 && !strcmp(fields[0], "root") && root_count < MOST) {
            snprintf(roots[root_count++], PATH_MAX, "%s", fields[1]);
        } else if (count == 5 && rule_count < MOST) {
            struct rule *rule = &rules[rule_count++];
            snprintf(rule->call, sizeof rule->call, "%s", fields[0]);
            snprintf(rule->pattern, PATH_MAX, "%s", fields[1]);
            rule->nth = atol(fields[2]);
            rule->times = atol(fields[3]);
            rule->action = !strcmp(fields[4], "KILL") ? KILL : !strcmp(fields[4], "SHORT") ? SHORT
                           : !strcmp(fields[4], "FULL") ? FULL : atoi(fields[4]);
            atomic_store(&rule->seen, 0);
        } else {
            fclose(in);
            return -2;
        }
    }
    fclose(in);
    log_file = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_file < 0) return -3;
    atomic_store(&armed, 1);
    return 0;
}

void faults_phase(const char *name) {
    snprintf(phase_name, sizeof phase_name, "%s", name);
}

__attribute__((constructor)) static void start(void) {
    const char *file = getenv("COUNTERPOSE_FAULTS_RULES"), *log = getenv("COUNTERPOSE_FAULTS_LOG");
    if (!file || !log) return;
    if (faults_arm(file, log)) _exit(98);
    faults_phase("steps"); /* nobody tells it; a loader's worker is there for them */
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* A function of a path or of a descriptor, with its arguments as declared and as passed on. */
#define BY_PATH(type, bad, name, label, folder, path, declared, passed) \
    type name declared { \
        REAL(type, name, ); \
        struct call call; \
        begin_path(&call, label, folder, path); \
        if (fails(&call)) return bad; \
        type out = ((type (*) declared)real) passed; \
        end(&call, out == bad); \
        return out; \
    }

#define BY_FILE(type, bad, name, label, descriptor, declared, passed) \
    type name declared { \
        REAL(type, name, ); \
        struct call call; \
        begin_file(&call, label, descriptor); \
        if (fails(&call)) return bad; \
        type out = ((type (*) declared)real) passed; \
        end(&call, out == bad); \
        return out; \
    }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        va_list list; \
        va_start(list, flags); \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(list, mode_t) : 0; \
        va_end(list); \
        struct call call; \
        begin_path(&call, flags & O_CREAT ? "create" : "open", AT_FDCWD, path); \
        if (fails(&call)) return -1; \
        int out = real(path, flags, mode); \
        end(&call, out < 0); \
        return out; \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(int, name, int, const char *, int, ...); \
        va_list list; \
        va_start(list, flags); \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(list, mode_t) : 0; \
        va_end(list); \
        struct call call; \
        begin_path(&call, flags & O_CREAT ? "create" : "open", folder, path); \
        if (fails(&call)) return -1; \
        int out = real(folder, path, flags, mode); \
        end(&call, out < 0); \
        return out; \
    }
OPENAT(openat)
OPENAT(openat64)

/* Reads and writes, which may be cut short. */
#define MOVE(name, label, declared, passed) \
    ssize_t name declared { \
        REAL(ssize_t, name, ); \
        struct call call; \
        begin_file(&call, label, file); \
        if (fails(&call)) return -1; \
        size = cut(&call, size); \
        ssize_t out = ((ssize_t (*) declared)real) passed; \
        end(&call, out < 0); \
        return out; \
    }
MOVE(read, "read", (int file, void *data, size_t size), (file, data, size))
MOVE(pread, "pread", (int file, void *data, size_t size, off_t at), (file, data, size, at))
MOVE(pread64, "pread", (int file, void *data, size_t size, off64_t at), (file, data, size, at))
MOVE(write, "write", (int file, const void *data, size_t size), (file, data, size))
MOVE(pwrite, "write", (int file, const void *data, size_t size, off_t at), (file, data, size, at))
MOVE(pwrite64, "write", (int file, const void *data, size_t size, off64_t at),
     (file, data, size, at))
MOVE(sendfile, "write", (int file, int from, off_t *at, size_t size), (file, from, at, size))
MOVE(sendfile64, "write", (int file, int from, off64_t *at, size_t size), (file, from, at, size))
BY_FILE(ssize_t, -1, readv, "read", file,
        (int file, const struct iovec *parts, int count), (file, parts, count))
BY_FILE(ssize_t, -1, writev, "write", file,
        (int file, const struct iovec *parts, int count), (file, parts, count))
BY_FILE(int, -1, ftruncate, "truncate", file, (int file, off_t size), (file, size))
BY_FILE(int, -1, ftruncate64, "truncate", file, (int file, off64_t size), (file, size))
BY_PATH(int, -1, truncate, "truncate", AT_FDCWD, path, (const char *path, off_t size), (path, size))
BY_PATH(int, -1, truncate64, "truncate", AT_FDCWD, path,
        (const char *path, off64_t size), (path, size))

/* These give the number itself. */
#define ALLOCATE(name, offset) \
    int name(int file, offset at, offset size) { \
        REAL(int, name, int, offset, offset); \
        struct call call; \
        begin_file(&call, "allocate", file); \
        if (fails(&call)) return call.error; \
        int out = real(file, at, size); \
        errno = out; \
        end(&call, out != 0); \
        return out; \
    }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

#define SYNC(name) \
    int name(int file) { \
        struct call call; \
        begin_file(&call, "sync", file); \
        if (fails(&call)) return -1; \
        end(&call, 0); \
        return 0; \
    }
SYNC(fsync)
SYNC(fdatasync)

/* As on Linux, a descriptor is gone whatever closing it said. */
int close(int file) {
    REAL(int, close, int);
    struct call call;
    begin_file(&call, "close", file);
    int out = real(file);
    if (fails(&call)) return -1;
    end(&call, out < 0);
    return out;
}

#define MAP(name, offset) \
    void *name(void *address, size_t size, int rights, int flags, int file, offset at) { \
        REAL(void *, name, void *, size_t, int, int, int, offset); \
        struct call call; \
        begin_file(&call, "mmap", flags & MAP_ANONYMOUS ? -1 : file); \
        if (fails(&call)) return MAP_FAILED; \
        void *out = real(address, size, rights, flags, file, at); \
        end(&call, out == MAP_FAILED); \
        return out; \
    }
MAP(mmap, off_t)
MAP(mmap64, off64_t)

int rename(const char *old, const char *new) {
    REAL(int, rename, const char *, const char *);
    struct call call;
    begin_pair(&call, "rename", AT_FDCWD, old, AT_FDCWD, new);
    if (fails(&call)) return -1;
    int out = real(old, new);
    end(&call, out < 0);
    return out;
}

int renameat(int from, const char *old, int to, const char *new) {
    REAL(int, renameat, int, const char *, int, const char *);
    struct call call;
    begin_pair(&call, "rename", from, old, to, new);
    if (fails(&call)) return -1;
    int out = real(from, old, to, new);
    end(&call, out < 0);
    return out;
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    struct call call;
    begin_pair(&call, "rename", from, old, to, new);
    if (fails(&call)) return -1;
    int out = real(from, old, to, new, flags);
    end(&call, out < 0);
    return out;
}

BY_PATH(int, -1, link, "link", AT_FDCWD, new, (const char *old, const char *new), (old, new))
BY_PATH(int, -1, linkat, "link", to, new,
        (int from, const char *old, int to, const char *new, int flags),
        (from, old, to, new, flags))
BY_PATH(int, -1, symlink, "link", AT_FDCWD, new, (const char *old, const char *new), (old, new))
BY_PATH(int, -1, symlinkat, "link", to, new,
        (const char *old, int to, const char *new), (old, to, new))
BY_PATH(ssize_t, -1, readlink, "stat", AT_FDCWD, path,
        (const char *path, char *out_, size_t size), (path, out_, size))
BY_PATH(ssize_t, -1, readlinkat, "stat", folder, path,
        (int folder, const char *path, char *out_, size_t size), (folder, path, out_, size))
BY_PATH(int, -1, unlink, "unlink", AT_FDCWD, path, (const char *path), (path))
BY_PATH(int, -1, rmdir, "rmdir", AT_FDCWD, path, (const char *path), (path))
BY_PATH(int, -1, unlinkat, flags & AT_REMOVEDIR ? "rmdir" : "unlink", folder, path,
        (int folder, const char *path, int flags), (folder, path, flags))
BY_PATH(int, -1, mkdir, "mkdir", AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
BY_PATH(int, -1, mkdirat, "mkdir", folder, path,
        (int folder, const char *path, mode_t mode), (folder, path, mode))

BY_PATH(int, -1, stat, "stat", AT_FDCWD, path, (const char *path, struct stat *to), (path, to))
BY_PATH(int, -1, stat64, "stat", AT_FDCWD, path, (const char *path, struct stat64 *to), (path, to))
BY_PATH(int, -1, lstat, "stat", AT_FDCWD, path, (const char *path, struct stat *to), (path, to))
BY_PATH(int, -1, lstat64, "stat", AT_FDCWD, path, (const char *path, struct stat64 *to), (path, to))
BY_PATH(int, -1, fstatat, "stat", folder, path,
        (int folder, const char *path, struct stat *to, int flags), (folder, path, to, flags))
BY_PATH(int, -1, fstatat64, "stat", folder, path,
        (int folder, const char *path, struct stat64 *to, int flags), (folder, path, to, flags))
BY_PATH(int, -1, statx, "stat", folder, path,
        (int folder, const char *path, int flags, unsigned mask, struct statx *to),
        (folder, path, flags, mask, to))
BY_FILE(int, -1, fstat, "stat", file, (int file, struct stat *to), (file, to))
BY_FILE(int, -1, fstat64, "stat", file, (int file, struct stat64 *to), (file, to))
/* Of programs that were linked against glibc before 2.33. */
BY_PATH(int, -1, __xstat, "stat", AT_FDCWD, path,
        (int version, const char *path, struct stat *to), (version, path, to))
BY_PATH(int, -1, __xstat64, "stat", AT_FDCWD, path,
        (int version, const char *path, struct stat64 *to), (version, path, to))
BY_PATH(int, -1, __lxstat, "stat", AT_FDCWD, path,
        (int version, const char *path, struct stat *to), (version, path, to))
BY_PATH(int, -1, __lxstat64, "stat", AT_FDCWD, path,
        (int version, const char *path, struct stat64 *to), (version, path, to))
BY_FILE(int, -1, __fxstat, "stat", file,
        (int version, int file, struct stat *to), (version, file, to))
BY_FILE(int, -1, __fxstat64, "stat", file,
        (int version, int file, struct stat64 *to), (version, file, to))
BY_PATH(int, -1, __fxstatat, "stat", folder, path,
        (int version, int folder, const char *path, struct stat *to, int flags),
        (version, folder, path, to, flags))
BY_PATH(int, -1, __fxstatat64, "stat", folder, path,
        (int version, int folder, const char *path, struct stat64 *to, int flags),
        (version, folder, path, to, flags))
BY_PATH(int, -1, access, "stat", AT_FDCWD, path, (const char *path, int mode), (path, mode))
BY_PATH(int, -1, faccessat, "stat", folder, path,
        (int folder, const char *path, int mode, int flags), (folder, path, mode, flags))
BY_PATH(int, -1, statvfs, "statvfs", AT_FDCWD, path,
        (const char *path, struct statvfs *to), (path, to))
BY_PATH(int, -1, statvfs64, "statvfs", AT_FDCWD, path,
        (const char *path, struct statvfs64 *to), (path, to))
BY_FILE(int, -1, fstatvfs, "statvfs", file, (int file, struct statvfs *to), (file, to))
BY_FILE(int, -1, fstatvfs64, "statvfs", file, (int file, struct statvfs64 *to), (file, to))

BY_PATH(int, -1, utimensat, "touch", folder, path,
        (int folder, const char *path, const struct timespec times[2], int flags),
        (folder, path, times, flags))
BY_FILE(int, -1, futimens, "touch", file, (int file, const struct timespec times[2]), (file, times))
BY_PATH(int, -1, chmod, "chmod", AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
BY_PATH(int, -1, fchmodat, "chmod", folder, path,
        (int folder, const char *path, mode_t mode, int flags), (folder, path, mode, flags))
BY_FILE(int, -1, fchmod, "chmod", file, (int file, mode_t mode), (file, mode))

BY_FILE(int, -1, flock, "lock", file, (int file, int how), (file, how))
#define CONTROL(name) \
    int name(int file, int command, ...) { \
        REAL(int, name, int, int, ...); \
        va_list list; \
        va_start(list, command); \
        void *argument = va_arg(list, void *); \
        va_end(list); \
        int locks = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK \
                    || command == F_OFD_SETLKW; \
        struct call call; \
        begin_file(&call, "lock", locks ? file : -1); \
        if (fails(&call)) return -1; \
        int out = real(file, command, argument); \
        end(&call, out < 0); \
        return out; \
    }
CONTROL(fcntl)
CONTROL(fcntl64)

BY_PATH(DIR *, NULL, opendir, "opendir", AT_FDCWD, path, (const char *path), (path))
BY_FILE(DIR *, NULL, fdopendir, "opendir", file, (int file), (file))
/* No entry and no error is the end of a folder. */
#define NEXT(name, type) \
    type *name(DIR *folder) { \
        REAL(type *, name, DIR *); \
        struct call call; \
        begin_file(&call, "readdir", dirfd(folder)); \
        if (fails(&call)) return NULL; \
        type *out = real(folder); \
        if (call.seen) write_log(&call, 0); \
        return out; \
    }
NEXT(readdir, struct dirent)
NEXT(readdir64, struct dirent64)
