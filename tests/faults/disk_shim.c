/* Records what a process writes to a SQLite file and its WAL, and makes chosen calls fail.

   cc -shared -fPIC -O1 -o disk_shim.so disk_shim.c -ldl, then LD_PRELOAD it.

   DISK_FILE   the database file; its -wal, -journal and -shm are known by their names
   DISK_LOG    where the records go: a struct record each, a write followed by its bytes
   DISK_FAULT  "CALL FILE ERRNO FIRST COUNT": of the calls of a kind (sync, write, truncate) on a file (db, wal,
               shm) those numbered FIRST to FIRST + COUNT - 1 fail with ERRNO, or with 0 never return; more,
               separated by ";"

   A synced file is not really synced: what a disk would hold is reckoned from the records.
*/

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum call { WRITE, SYNC, TRUNCATE, UNLINK, CALLS };
enum file { DB, WAL, JOURNAL, SHM, FILES };

struct record {
    double at; /* CLOCK_MONOTONIC, before the call */
    int32_t call, file;
    int64_t offset, length; /* of a truncation the length is the new one */
    int32_t error, unused;
};

struct fault {
    int call, file, error;
    long first, count, seen;
};

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static const char *SUFFIXES[FILES] = {"", "-wal", "-journal", "-shm"};
static struct fault faults[4];
static int fault_count, log_fd = -1;
static char database[PATH_MAX];

static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_ftruncate)(int, off64_t), (*real_fsync)(int), (*real_fdatasync)(int);
static int (*real_unlink)(const char *);

static int which(const char *name, const char *const *names, int count) {
    for (int i = 0; i < count; i++)
        if (!strcmp(name, names[i])) return i;
    fprintf(stderr, "disk_shim: DISK_FAULT knows no %s\n", name);
    abort();
}

static void read_faults(const char *text) {
    static const char *const calls[] = {"write", "sync", "truncate"};
    static const char *const files[] = {"db", "wal", "journal", "shm"};
    char call[16], file[16];
    while (text && *text) {
        struct fault *fault = &faults[fault_count];
        if (fault_count == 4 || sscanf(text, "%15s %15s %d %ld %ld", call, file, &fault->error,
                                       &fault->first, &fault->count) != 5) abort();
        fault->call = which(call, calls, 3);
        fault->file = which(file, files, 4);
        fault->call = fault->call == 0 ? WRITE : fault->call == 1 ? SYNC : TRUNCATE;
        fault_count++;
        text = strchr(text, ';');
        if (text) text++;
    }
}

__attribute__((constructor)) static void start(void) {
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_write = dlsym(RTLD_NEXT, "write");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    if (!getenv("DISK_FILE") || !getenv("DISK_LOG")) return;
    snprintf(database, sizeof database, "%s", getenv("DISK_FILE"));
    log_fd = open(getenv("DISK_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    read_faults(getenv("DISK_FAULT"));
}

static int find_file(const char *path) {
    size_t length = strlen(database);
    if (log_fd < 0 || !length || strncmp(path, database, length)) return -1;
    for (int file = 0; file < FILES; file++)
        if (!strcmp(path + length, SUFFIXES[file])) return file;
    return -1;
}

static int find_descriptor(int fd) {
    char link[64], path[PATH_MAX];
    if (log_fd < 0 || fd < 3) return -1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return -1;
    path[length] = 0;
    return find_file(path);
}

/* 0, or the error with which this call is to fail. */
static int injected(int call, int file) {
    int error = 0;
    for (int i = 0; i < fault_count; i++) {
        struct fault *fault = &faults[i];
        if (fault->call != call || fault->file != file) continue;
        fault->seen++;
        if (fault->seen < fault->first || fault->seen >= fault->first + fault->count) continue;
        error = fault->error;
        while (!error) pause();
    }
    return error;
}

static void record(int call, int file, int64_t offset, int64_t length, int error, const void *bytes) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct record entry = {now.tv_sec + now.tv_nsec / 1e9, call, file, offset, length, error, 0};
    if (file == SHM && !error) return; /* memory that processes share, and nothing that a disk holds */
    if (real_write(log_fd, &entry, sizeof entry) != sizeof entry) abort();
    if (call == WRITE && !error && real_write(log_fd, bytes, length) != length) abort();
}

static ssize_t record_write(int fd, int file, const void *bytes, size_t count, off64_t offset, int moves) {
    pthread_mutex_lock(&one_at_a_time);
    /* SQLite makes a WAL-index longer by single bytes; other writes to it go to memory that is there. */
    int error = file == SHM && count != 1 ? 0 : injected(WRITE, file);
    ssize_t written = -1;
    record(WRITE, file, offset, count, error, bytes);
    if (!error) written = moves ? real_write(fd, bytes, count) : real_pwrite(fd, bytes, count, offset);
    if (!error && written != (ssize_t)count) abort(); /* the disk of the test itself is full */
    pthread_mutex_unlock(&one_at_a_time);
    if (error) errno = error;
    return written;
}

static int record_sync(int fd, int (*sync)(int)) {
    int file = find_descriptor(fd);
    if (file < 0) return sync(fd);
    pthread_mutex_lock(&one_at_a_time);
    int error = injected(SYNC, file);
    record(SYNC, file, 0, 0, error, NULL);
    pthread_mutex_unlock(&one_at_a_time);
    if (error) errno = error;
    return error ? -1 : 0;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    int file = find_descriptor(fd);
    return file < 0 ? real_pwrite(fd, bytes, count, offset) : record_write(fd, file, bytes, count, offset, 0);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) { return pwrite64(fd, bytes, count, offset); }

ssize_t write(int fd, const void *bytes, size_t count) {
    int file = find_descriptor(fd);
    return file < 0 ? real_write(fd, bytes, count)
                    : record_write(fd, file, bytes, count, lseek64(fd, 0, SEEK_CUR), 1);
}

int ftruncate64(int fd, off64_t length) {
    int file = find_descriptor(fd);
    if (file < 0) return real_ftruncate(fd, length);
    pthread_mutex_lock(&one_at_a_time);
    int error = injected(TRUNCATE, file);
    record(TRUNCATE, file, 0, length, error, NULL);
    int result = error ? -1 : real_ftruncate(fd, length);
    pthread_mutex_unlock(&one_at_a_time);
    if (error) errno = error;
    return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int fsync(int fd) { return record_sync(fd, real_fsync); }

int fdatasync(int fd) { return record_sync(fd, real_fdatasync); }

int unlink(const char *path) {
    int file = find_file(path);
    if (file < 0) return real_unlink(path);
    pthread_mutex_lock(&one_at_a_time);
    record(UNLINK, file, 0, 0, 0, NULL);
    int result = real_unlink(path);
    pthread_mutex_unlock(&one_at_a_time);
    return result;
}
