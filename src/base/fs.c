/* See fs.h. */
#include "base/fs.h"

#include "base/alloc.h"
#include "base/error.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

td_status td_path_join(char path[TD_PATH_MAX], const char *dir, const char *name)
{
    char joined[TD_PATH_MAX]; /* `dir` may be `path` itself */
    size_t length = strlen(dir);
    const char *slash = length && dir[length - 1] == '/' ? "" : "/";
    int n = snprintf(joined, sizeof joined, "%s%s%s", dir, slash, name);
    if (n < 0 || n >= TD_PATH_MAX) return td_fail(TD_ERR_ARG, "path too long: %.200s...", dir);
    memcpy(path, joined, (size_t)n + 1);
    return TD_OK;
}

bool td_path_exists(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0;
}

bool td_path_is_dir(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

td_status td_make_dirs(const char *path)
{
    char part[TD_PATH_MAX];
    size_t length = strlen(path);
    if (length >= sizeof part) return td_fail(TD_ERR_ARG, "path too long: %.200s...", path);
    memcpy(part, path, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (part[i] != '/' && part[i] != 0) continue;
        part[i] = 0;
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return td_fail_errno("cannot make folder %s", part);
        if (i < length) part[i] = '/';
    }
    if (!td_path_is_dir(path)) return td_fail(TD_ERR_IO, "%s exists and is not a folder", path);
    return TD_OK;
}

td_status td_remove_tree(const char *path)
{
    struct stat s;
    if (lstat(path, &s) != 0)
        return errno == ENOENT ? TD_OK : td_fail_errno("cannot look at %s", path);
    if (!S_ISDIR(s.st_mode))
        return unlink(path) == 0 ? TD_OK : td_fail_errno("cannot remove %s", path);
    DIR *dir = opendir(path);
    if (!dir) return td_fail_errno("cannot open folder %s", path);
    td_status status = TD_OK;
    for (struct dirent *entry; status == TD_OK && (entry = readdir(dir));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        char inner[TD_PATH_MAX];
        status = td_path_join(inner, path, entry->d_name);
        if (status == TD_OK) status = td_remove_tree(inner);
    }
    closedir(dir);
    if (status == TD_OK && rmdir(path) != 0) status = td_fail_errno("cannot remove %s", path);
    return status;
}

td_status td_exchange_paths(const char *a, const char *b)
{
#ifdef RENAME_EXCHANGE
    if (renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) == 0) return TD_OK;
    if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP)
        return td_fail_errno("cannot exchange %s and %s", a, b);
#endif
    return td_fail(TD_ERR_UNSUPPORTED, "%s and %s cannot be exchanged on this file system", a, b);
}

td_status td_read_file(const char *path, char **out_bytes, size_t *out_size)
{
    td_status status = TD_OK;
    char *bytes = NULL;
    size_t size = 0, room = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return td_fail_errno("cannot open %s", path);
    struct stat s;
    if (fstat(fd, &s) == 0 && S_ISDIR(s.st_mode)) {
        status = td_fail(TD_ERR_CORRUPT, "%s is a folder, not a file", path);
        goto out;
    }
    room = fstat(fd, &s) == 0 && s.st_size > 0 ? (size_t)s.st_size + 1 : 4096;
    bytes = td_malloc(room);
    for (;;) {
        if (!bytes) {
            status = td_fail(TD_ERR_NOMEM, "no memory for the %zu bytes of %s", room, path);
            goto out;
        }
        ssize_t n = read(fd, bytes + size, room - size - 1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            status = td_fail_errno("cannot read %s", path);
            goto out;
        }
        if (n == 0) break;
        size += (size_t)n;
        if (size + 1 < room) continue;
        char *larger = td_realloc(bytes, room *= 2);
        if (!larger) td_free(bytes);
        bytes = larger;
    }
    bytes[size] = 0;
    *out_bytes = bytes;
    *out_size = size;
    bytes = NULL;
out:
    td_free(bytes);
    close(fd);
    return status;
}

td_status td_map_file(const char *path, td_mapping *out)
{
    td_status status = TD_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return td_fail_errno("cannot open %s", path);
    struct stat s;
    if (fstat(fd, &s) != 0) {
        status = td_fail_errno("cannot look at %s", path);
    } else if (!S_ISREG(s.st_mode)) {
        status = td_fail(TD_ERR_CORRUPT, "%s is not a plain file", path);
    } else if (s.st_size == 0) {
        *out = (td_mapping){(const unsigned char *)"", 0};
    } else {
        void *at = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (at == MAP_FAILED)
            status = td_fail_errno("cannot map %s", path);
        else
            *out = (td_mapping){at, (size_t)s.st_size};
    }
    close(fd);
    return status;
}

void td_unmap(td_mapping *mapping)
{
    if (mapping->size) munmap((void *)(uintptr_t)mapping->data, mapping->size);
    *mapping = (td_mapping){NULL, 0};
}

void td_map_let_go(const void *from, size_t size)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)from + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)from + size) / page * page;
    if (begin < end) madvise((void *)begin, end - begin, MADV_DONTNEED);
}

td_status td_writer_open(td_writer *w, const char *path)
{
    size_t length = strlen(path);
    w->fd = -1;
    w->written = 0;
    if (length + 8 > TD_PATH_MAX) return td_fail(TD_ERR_ARG, "path too long: %.200s...", path);
    memcpy(w->path, path, length + 1);
    memcpy(w->temporary, path, length);
    memcpy(w->temporary + length, ".XXXXXX", 8);
    w->fd = mkstemp(w->temporary);
    if (w->fd < 0) return td_fail_errno("cannot write beside %s", path);
    mode_t mask = umask(0);
    umask(mask);
    fchmod(w->fd, 0666 & ~mask);
    return TD_OK;
}

td_status td_writer_put(td_writer *w, const void *bytes, size_t size)
{
    const char *at = bytes;
    while (size) {
        ssize_t n = write(w->fd, at, size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return td_fail_errno("cannot write %s", w->path);
        at += n, size -= (size_t)n, w->written += (uint64_t)n;
    }
    return TD_OK;
}

void td_writer_abandon(td_writer *w)
{
    if (w->fd < 0) return;
    close(w->fd);
    unlink(w->temporary);
    w->fd = -1;
}

td_status td_writer_commit(td_writer *w)
{
    td_status status = TD_OK;
    if (fsync(w->fd) != 0 && errno != EINVAL) status = td_fail_errno("cannot sync %s", w->path);
    if (status == TD_OK && rename(w->temporary, w->path) != 0)
        status = td_fail_errno("cannot rename to %s", w->path);
    if (status != TD_OK) {
        td_writer_abandon(w);
    } else {
        close(w->fd);
        w->fd = -1;
    }
    return status;
}

td_status td_sync_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return td_fail_errno("cannot open folder %s", path);
    td_status status = TD_OK;
    if (fsync(fd) != 0 && errno != EINVAL) status = td_fail_errno("cannot sync folder %s", path);
    close(fd);
    return status;
}

td_status td_write_file(const char *path, const void *bytes, size_t size)
{
    td_writer w;
    TD_TRY(td_writer_open(&w, path));
    td_status status = td_writer_put(&w, bytes, size);
    if (status != TD_OK) {
        td_writer_abandon(&w);
        return status;
    }
    return td_writer_commit(&w);
}
