/* See run_lock.h. */
#include "cli/run_lock.h"

#include "base/error.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TEXT = 400, TRIES = 20 };

typedef struct holder {
    char host[256];
    int pid;
    unsigned long long start; /* as the kernel counts it; 0: not known */
} holder;

/* When a process of this host began, in ticks since the machine did. */
static unsigned long long start_of(int pid)
{
    char path[64], text[1024] = "";
    unsigned long long start = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    const char *at = n > 0 ? strrchr(text, ')') : NULL; /* the name may hold anything */
    for (int field = 2; at && field < 22; field++) at = strchr(at + 1, ' ');
    if (at) start = strtoull(at, NULL, 10);
    return start;
}

static holder myself(void)
{
    holder h = {.pid = (int)getpid(), .start = start_of((int)getpid())};
    if (gethostname(h.host, sizeof h.host - 1) != 0) snprintf(h.host, sizeof h.host, "localhost");
    return h;
}

/* False where the file says nothing. *foreign: it is somebody else's file. */
static bool read_holder(int fd, holder *h, bool *foreign)
{
    char text[TEXT] = "";
    *h = (holder){0};
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    *foreign = false;
    if (n <= 0) return false;
    if (sscanf(text, "tandem %255s %d %llu", h->host, &h->pid, &h->start) == 3) return true;
    *foreign = strncmp(text, "tandem", 6) != 0;
    return false;
}

static bool lives(const holder *h)
{
    holder me = myself();
    if (strcmp(h->host, me.host) != 0) return true; /* nobody here can tell */
    if (kill(h->pid, 0) != 0 && errno == ESRCH) return false;
    return !h->start || start_of(h->pid) == h->start;
}

static td_status in_use(const char *run, const holder *h, bool known, bool by_text)
{
    if (!known)
        return td_fail(TD_ERR_ARG,
                       "--run %s is in use by another job; wait for it, stop it, or "
                       "name another folder",
                       run);
    return td_fail(TD_ERR_ARG,
                   "--run %s is in use by another job, process %d on %s; wait for it, stop it, or "
                   "name another folder%s",
                   run, h->pid, h->host,
                   by_text ? " (if it is gone, remove the file \"lock\" there)" : "");
}

/* The kernel's lock: 0 taken, 1 another has it, -1 this file system has none. */
static int lock_file(int fd)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
#ifdef F_OFD_SETLK
    if (fcntl(fd, F_OFD_SETLK, &whole) == 0) return 0;
#else
    if (fcntl(fd, F_SETLK, &whole) == 0) return 0;
#endif
    return errno == EAGAIN || errno == EACCES ? 1 : -1;
}

/* Whether `fd` still lies under its name: the one before may have removed it. */
static bool still_there(int fd, const char *path)
{
    struct stat here, there;
    return fstat(fd, &here) == 0 && stat(path, &there) == 0 && here.st_ino == there.st_ino &&
           here.st_dev == there.st_dev;
}

static td_status sign(int fd, const char *path)
{
    char text[TEXT];
    holder me = myself();
    int n = snprintf(text, sizeof text, "tandem %s %d %llu\n", me.host, me.pid, me.start);
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)n, 0) != n)
        return td_fail_errno("cannot write %s", path);
    return TD_OK;
}

/* Decides about an open file. */
static td_status claim(const char *run, const char *path, int fd)
{
    holder h;
    bool foreign, known = read_holder(fd, &h, &foreign);
    int locked = lock_file(fd);
    if (foreign)
        return td_fail(TD_ERR_ARG, "%s is not Tandem's; name another folder for the run", path);
    if (locked > 0) return in_use(run, &h, known, false);
    if (locked < 0 && known && lives(&h)) return in_use(run, &h, known, true);
    if (known && strcmp(h.host, myself().host) != 0)
        td_warn("%s was left by process %d on %s, which no longer holds it", path, h.pid, h.host);
    td_status status = sign(fd, path);
    if (status != TD_OK) unlink(path); /* the disk is full: nothing of ours stays behind */
    return status;
}

td_status td_run_lock_take(const char *run, td_run_lock *lock)
{
    char path[TD_PATH_MAX];
    if (lock->fd) return TD_OK;
    TD_TRY(td_path_join(path, run, "lock"));
    for (int i = 0; i < TRIES; i++) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0) return td_fail_errno("cannot write %s", path);
        td_status status = claim(run, path, fd);
        if (status == TD_OK && still_there(fd, path)) {
            lock->fd = fd;
            memcpy(lock->path, path, sizeof path);
            return TD_OK;
        }
        close(fd);
        if (status != TD_OK) return status;
    }
    return td_fail(TD_ERR_IO, "%s is removed again and again by other jobs", path);
}

void td_run_lock_release(td_run_lock *lock)
{
    if (!lock->fd) return;
    if (still_there(lock->fd, lock->path)) unlink(lock->path);
    close(lock->fd);
    lock->fd = 0;
}

/* The kernel's lock, without taking it: as lock_file. */
static int probe_file(int fd)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
#ifdef F_OFD_GETLK
    if (fcntl(fd, F_OFD_GETLK, &whole) != 0) return -1;
#else
    if (fcntl(fd, F_GETLK, &whole) != 0) return -1;
#endif
    return whole.l_type != F_UNLCK;
}

bool td_run_lock_is_held(const char *run)
{
    char path[TD_PATH_MAX];
    holder h;
    bool foreign;
    if (td_path_join(path, run, "lock") != TD_OK) return false;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return errno != ENOENT; /* who may not look cannot tell */
    int locked = probe_file(fd);
    bool known = read_holder(fd, &h, &foreign);
    close(fd);
    return locked > 0 || (locked < 0 && known && lives(&h));
}

bool td_run_lock_holder(const char *run, char host[256], int *pid)
{
    char path[TD_PATH_MAX];
    holder h;
    bool foreign;
    if (td_path_join(path, run, "lock") != TD_OK) return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    bool known = read_holder(fd, &h, &foreign);
    close(fd);
    if (known) memcpy(host, h.host, sizeof h.host), *pid = h.pid;
    return known;
}
