/* A table with a memory limit as it once was, see table.h: a view of its cold rows (RocksDB's
 * snapshot: what changes behind it is written elsewhere, as everything in a log-structured merge
 * tree), and a file of those rows in memory that had moved since their copy was written. The file
 * and the view ascend; a walk merges them, and where both have a key the file is right.
 *
 *   file: key, 8 bytes | used, 4 | 0, 4 | floats [row_floats]     for each row
 *
 * Writing those rows to the cold store instead took as long as writing all of them: they lie all
 * over its key space, and it reorganises itself meanwhile. */
#include "ps/table_impl.h"

#include "base/alloc.h"
#include "base/error.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { HEAD = 16, BUFFER_BYTES = 1 << 20 };

struct td_table_version {
    const td_cold *cold;
    td_cold_view *view;
    int fd;
    size_t record, room; /* bytes of a row in the file, rows of the buffer */
    uint64_t rows;       /* in the file */
    char *buffer;        /* [room][record] */
    size_t used;         /* rows in the buffer */
};

/* --- freezing --- */

static td_status write_buffer(td_table_version *v)
{
    size_t bytes = v->used * v->record;
    if (bytes) TD_TRY(td_cold_check_room(v->cold, bytes));
    for (size_t done = 0; done < bytes;) {
        ssize_t n = write(v->fd, v->buffer + done, bytes - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return td_fail_errno("cannot write a version of a table beside its cold rows");
        done += (size_t)n;
    }
    v->rows += v->used, v->used = 0;
    return TD_OK;
}

static td_status write_row(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    td_table_version *v = arg;
    char *to = v->buffer + v->used++ * v->record;
    const uint32_t none = 0;
    memcpy(to, &key, sizeof key);
    memcpy(to + 8, &mark.used, sizeof mark.used);
    memcpy(to + 12, &none, sizeof none);
    memcpy(to + HEAD, row, v->record - HEAD);
    return v->used == v->room ? write_buffer(v) : TD_OK;
}

td_status td_table_freeze(td_table *t, td_table_version **out)
{
    if (!t->tier.cold)
        return td_fail(TD_ERR_ARG, "a table without a memory limit is copied, not frozen");
    td_table_version *v = td_calloc(1, sizeof *v);
    if (!v) return td_fail(TD_ERR_NOMEM, "no memory for a version of a table");
    v->cold = t->tier.cold, v->fd = -1;
    v->record = HEAD + td_table_row_floats(t) * sizeof(float);
    v->room = v->record < BUFFER_BYTES ? BUFFER_BYTES / v->record : 1;
    v->buffer = td_malloc(v->room * v->record);
    td_status status =
        v->buffer ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a version of a table");
    if (status == TD_OK) status = td_cold_scratch(t->tier.cold, &v->fd);
    if (status == TD_OK) status = td_table_each_moved(t, write_row, v);
    if (status == TD_OK) status = write_buffer(v);
    if (status == TD_OK) status = td_cold_look(t->tier.cold, &v->view);
    if (status == TD_OK)
        *out = v;
    else
        td_table_version_free(v);
    return status;
}

void td_table_version_free(td_table_version *v)
{
    if (!v) return;
    td_cold_view_free(v->view);
    if (v->fd >= 0) close(v->fd);
    td_free(v->buffer), td_free(v);
}

/* --- walking --- */

typedef struct walk {
    const td_table_version *v;
    uint64_t next;      /* row of the file */
    const char *record; /* that one; NULL: there is none */
    uint64_t key;
} walk;

static td_status read_buffer(const td_table_version *v, uint64_t row)
{
    uint64_t left = v->rows - row;
    size_t bytes = (left < v->room ? (size_t)left : v->room) * v->record, done = 0;
    while (done < bytes) {
        ssize_t n = pread(v->fd, v->buffer + done, bytes - done, (off_t)(row * v->record + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return td_fail_errno("cannot read a version of a table");
        if (!n) return td_fail(TD_ERR_CORRUPT, "a version of a table has been cut short");
        done += (size_t)n;
    }
    return TD_OK;
}

static td_status step(walk *w)
{
    const td_table_version *v = w->v;
    w->record = NULL;
    if (w->next == v->rows) return TD_OK;
    if (w->next % v->room == 0) TD_TRY(read_buffer(v, w->next));
    w->record = v->buffer + w->next++ % v->room * v->record;
    memcpy(&w->key, w->record, sizeof w->key);
    return TD_OK;
}

static td_status give(const walk *w, td_table_each_key_fn *each, void *arg, float *row)
{
    td_table_mark mark = {0};
    memcpy(&mark.used, w->record + 8, sizeof mark.used);
    memcpy(row, w->record + HEAD, w->v->record - HEAD);
    return each(arg, w->key, mark, row);
}

static td_status go(walk *w, td_cold_cursor *cold, td_table_each_key_fn *each, void *arg,
                    float *row)
{
    TD_TRY(td_cold_view_seek(w->v->view, 0, cold));
    TD_TRY(step(w));
    while (w->record || cold->there) {
        bool both = w->record && cold->there && w->key == cold->key;
        if (w->record && (!cold->there || w->key <= cold->key)) {
            TD_TRY(give(w, each, arg, row));
            TD_TRY(step(w));
            if (both) TD_TRY(td_cold_next(cold));
        } else {
            memcpy(row, cold->row, w->v->record - HEAD);
            TD_TRY(each(arg, cold->key, (td_table_mark){.used = cold->used}, row));
            TD_TRY(td_cold_next(cold));
        }
    }
    return TD_OK;
}

td_status td_table_version_each(const td_table_version *v, td_table_each_key_fn *each, void *arg)
{
    walk w = {.v = v};
    td_cold_cursor cold = {0};
    float *row = td_malloc(v->record - HEAD);
    if (!row) return td_fail(TD_ERR_NOMEM, "no memory for a row");
    td_status status = go(&w, &cold, each, arg, row);
    td_cold_leave(&cold);
    td_free(row);
    return status;
}
