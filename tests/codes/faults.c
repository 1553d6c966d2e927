/* Preloaded into a process (LD_PRELOAD): counts its renames, fsyncs and writes below the folder FAULTS_HOME, whoever
   makes them (Python, Arrow, Rust), and lets the n-th go wrong.

   FAULTS: one `what:n` for each process that makes such calls, in the order in which they begin to, separated by commas;
   processes past the end are left alone. what: kill (this process; half of a write is done first), parent (kill the
   parent instead, and wait for what follows), stop (SIGSTOP), or EIO, ENOSPC (the call fails). Every call is told in the
   file FAULTS_LOG: `pid n call path`, and `pid n what` before something goes wrong. A process started with FAULTS is
   counted from its start, another one from each faults_arm() on, with what the variables say by then. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int armed, calls, fault_at;
static char what[16];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void faults_arm(void) {
    armed = 1;
    calls = fault_at = 0;
}
__attribute__((constructor)) static void begin(void) { armed = getenv("FAULTS") != NULL; }

static void tell(const char *line) {
    int log = open(getenv("FAULTS_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0644);
    syscall(SYS_write, log, line, strlen(line));
    close(log);
}

/* Which entry of FAULTS is this process's: as many have begun before as there are bytes in FAULTS_LOG.begun. */
static void take_entry(void) {
    char name[PATH_MAX], entries[4096], *rest;
    snprintf(name, sizeof name, "%s.begun", getenv("FAULTS_LOG"));
    int begun = open(name, O_WRONLY | O_CREAT | O_APPEND, 0644);
    syscall(SYS_write, begun, ".", 1);
    long place = lseek(begun, 0, SEEK_CUR);
    close(begun);
    snprintf(entries, sizeof entries, "%s", getenv("FAULTS"));
    for (char *entry = strtok_r(entries, ",", &rest); entry; entry = strtok_r(NULL, ",", &rest))
        if (--place == 0) sscanf(entry, "%15[^:]:%d", what, &fault_at);
}

/* 0: go on; otherwise the errno with which the call has to fail. */
static int count(const char *call, const char *path, int fd, const void *data, size_t size) {
    const char *home = armed ? getenv("FAULTS_HOME") : NULL;
    if (!home || strncmp(path, home, strlen(home)) != 0 || !strchr("/", path[strlen(home)])) return 0;
    char line[PATH_MAX + 64];
    pthread_mutex_lock(&lock);
    if (calls == 0) take_entry();
    int number = ++calls;
    pthread_mutex_unlock(&lock);
    snprintf(line, sizeof line, "%d %d %s %s\n", getpid(), number, call, path);
    tell(line);
    if (number != fault_at) return 0;
    snprintf(line, sizeof line, "%d %d %s\n", getpid(), number, what);
    tell(line);
    if (!strcmp(what, "EIO")) return EIO;
    if (!strcmp(what, "ENOSPC")) return ENOSPC;
    if (!strcmp(what, "stop")) {
        raise(SIGSTOP);
        return 0;
    }
    if (data) syscall(SYS_write, fd, data, size / 2);
    kill(!strcmp(what, "parent") ? getppid() : getpid(), SIGKILL);
    for (;;) pause();
}

static int count_fd(const char *call, int fd, const void *data, size_t size) {
    char link[64], path[PATH_MAX];
    if (!armed) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return count(call, path, fd, data, size);
}

#define NEXT(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))
#define FAIL_IF(expression) do { int e = (expression); if (e) { errno = e; return -1; } } while (0)

ssize_t write(int fd, const void *data, size_t size) {
    FAIL_IF(count_fd("write", fd, data, size));
    return NEXT(ssize_t, "write", int, const void *, size_t)(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    FAIL_IF(count_fd("write", fd, NULL, 0));
    return NEXT(ssize_t, "pwrite", int, const void *, size_t, off_t)(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    FAIL_IF(count_fd("write", fd, NULL, 0));
    return NEXT(ssize_t, "pwrite64", int, const void *, size_t, off64_t)(fd, data, size, at);
}
ssize_t writev(int fd, const struct iovec *data, int size) {
    FAIL_IF(count_fd("write", fd, NULL, 0));
    return NEXT(ssize_t, "writev", int, const struct iovec *, int)(fd, data, size);
}
int fsync(int fd) {
    FAIL_IF(count_fd("fsync", fd, NULL, 0));
    return NEXT(int, "fsync", int)(fd);
}
int fdatasync(int fd) {
    FAIL_IF(count_fd("fsync", fd, NULL, 0));
    return NEXT(int, "fdatasync", int)(fd);
}
int rename(const char *from, const char *to) {
    FAIL_IF(count("rename", to, -1, NULL, 0));
    return NEXT(int, "rename", const char *, const char *)(from, to);
}
int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    FAIL_IF(count("rename", to, -1, NULL, 0));
    return NEXT(int, "renameat", int, const char *, int, const char *)(from_dir, from, to_dir, to);
}
