/* Files: whole reads, directories, and writes that are never seen half-done. */
#ifndef TD_BASE_FS_H
#define TD_BASE_FS_H

#include "tandem/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TD_PATH_MAX = 4096 };

/* path = dir "/" name; TD_ERR_ARG when it does not fit. */
TD_MUST_CHECK td_status td_path_join(char path[TD_PATH_MAX], const char *dir, const char *name);

bool td_path_exists(const char *path);
bool td_path_is_dir(const char *path);

/* Makes `path` and its parents; fine when it exists. TD_ERR_IO. */
TD_MUST_CHECK td_status td_make_dirs(const char *path);

/* Removes a file or a whole folder; fine when it does not exist. */
TD_MUST_CHECK td_status td_remove_tree(const char *path);

/* Two names of one file system change places at once, whatever lies there; both must exist.
 * TD_ERR_UNSUPPORTED where the file system or the system cannot do that, TD_ERR_IO. */
TD_MUST_CHECK td_status td_exchange_paths(const char *a, const char *b);

/* The whole file in new memory with one 0 byte behind it; the caller td_frees *out_bytes. */
TD_MUST_CHECK td_status td_read_file(const char *path, char **out_bytes, size_t *out_size);

/* A file mapped read-only. An empty file gives data "" and size 0. Release with td_unmap. */
typedef struct td_mapping {
    const unsigned char *data;
    size_t size;
} td_mapping;
TD_MUST_CHECK td_status td_map_file(const char *path, td_mapping *out);
void td_unmap(td_mapping *mapping);
/* Lets go of mapped pages of a file that lie whole in [from, from + size): they count as this
 * process's no more, and come back when they are read again. */
void td_map_let_go(const void *from, size_t size);

/* A file written beside its final name, then synced and renamed over it: readers see the old one
 * or the new one, never a part. td_writer_abandon removes what was written. Errors stick: after a
 * failed write, commit returns it and the final name is untouched. */
typedef struct td_writer {
    int fd;
    char path[TD_PATH_MAX];
    char temporary[TD_PATH_MAX];
    uint64_t written;
} td_writer;
TD_MUST_CHECK td_status td_writer_open(td_writer *w, const char *path);
TD_MUST_CHECK td_status td_writer_put(td_writer *w, const void *bytes, size_t size);
TD_MUST_CHECK td_status td_writer_commit(td_writer *w); /* closes w, whatever it returns */
void td_writer_abandon(td_writer *w);                   /* after open, instead of commit */

/* Syncs a folder's entries to disk (after a rename into it). */
TD_MUST_CHECK td_status td_sync_dir(const char *path);

/* All of open, put, commit. */
TD_MUST_CHECK td_status td_write_file(const char *path, const void *bytes, size_t size);

#endif
