/* What a reader is: bytes with a name in, a data set out.
 *
 * Readers never open files: dataset `open.c` hands them spans (maps of files, or a fuzzer's bytes),
 * so every reader can be run on memory. A reader writes into a data set that its caller closes on
 * failure, and decides each error with one sentence that begins with the span's name. */
#ifndef TD_DATA_READERS_READER_H
#define TD_DATA_READERS_READER_H

#include "base/pool.h"
#include "data/dataset.h"

#include <zlib.h>

typedef struct td_source {
    const char *name; /* NULL: absent */
    const unsigned char *data;
    size_t size;
    bool mapped; /* pages of a file, to be let go once read */
} td_source;

typedef struct td_read_job {
    const td_data_config *config;
    td_pool *pool;
    td_source main;   /* images, table or x */
    td_source label;  /* idx and npy: the other file */
    td_source weight; /* text: one number a line, or absent */
    td_source group;  /* text: rows of each query, one number a line, or absent */
} td_read_job;

typedef struct td_reader {
    td_format format;
    const char *const *extensions; /* with the dot, NULL behind the last */
    /* Whether the first bytes (of the inflated file) look like this format. */
    bool (*looks_like)(const unsigned char *data, size_t size);
    td_status (*read)(const td_read_job *job, td_dataset *out);
    bool inflate; /* wants .gz inflated before read; else it streams */
} td_reader;

extern const td_reader td_reader_idx, td_reader_csv, td_reader_tsv, td_reader_libsvm,
    td_reader_libffm, td_reader_npy;

/* All of them, NULL behind the last; the order in which content is tried. */
extern const td_reader *const td_readers[];
const td_reader *td_reader_find(td_format format); /* never AUTO */
/* Reads job->main as `format` into *out, which is the caller's; what tests and fuzzers call. */
TD_MUST_CHECK td_status td_reader_run(td_format format, const td_read_job *job, td_dataset **out);

/* ---- gz.c: bytes of a span in order, through zlib where it begins with the gzip magic ---- */

bool td_is_gz(const unsigned char *data, size_t size);

typedef struct td_stream {
    td_source source;
    size_t at;      /* in source.data: taken so far */
    size_t dropped; /* pages let go so far */
    bool gz, ended;
    z_stream z;
} td_stream;
TD_MUST_CHECK td_status td_stream_open(td_stream *stream, td_source source);
/* Up to `want` bytes; fewer only at the end. A torn or altered gzip file is TD_ERR_DATA. */
TD_MUST_CHECK td_status td_stream_read(td_stream *stream, void *to, size_t want, size_t *got);
void td_stream_close(td_stream *stream);

/* The whole of a span: *out is the span itself, or *owned holds the inflated bytes (td_free). */
TD_MUST_CHECK td_status td_source_inflate(td_source source, td_source *out, void **owned);

#endif
