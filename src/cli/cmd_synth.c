/* tandem synth: data made up, with a model planted in them. */
#include "cli/cli.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "base/pool.h"
#include "data/synth.h"
#include "math/auc.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { BLOCK = 2048 }; /* rows that a thread makes at a time */

typedef struct lane {
    char *text;
    size_t bytes;
    float probability[BLOCK];
    bool clicked[BLOCK];
    size_t rows;
} lane;

typedef struct synth {
    td_click_config config;
    td_click_format format;
    uint64_t next, rows; /* next: of this round of blocks */
    lane *lanes;
    td_auc *auc;
    double loss, clicks;
} synth;

static td_status make_block(void *arg, int number)
{
    synth *s = arg;
    lane *l = &s->lanes[number];
    uint64_t begin = s->next + (uint64_t)number * BLOCK;
    l->bytes = l->rows = 0;
    for (uint64_t row = begin; row < begin + BLOCK && row < s->rows; row++) {
        td_click_row r;
        td_click_make(&s->config, row, &r);
        l->bytes += td_click_line(&s->config, &r, s->format, l->text + l->bytes);
        l->probability[l->rows] = r.probability;
        l->clicked[l->rows++] = r.clicked;
    }
    return TD_OK;
}

/* In the order of rows, so that the figures do not depend on the threads. */
static void count(synth *s, const lane *l)
{
    for (size_t k = 0; k < l->rows; k++) {
        double p = l->probability[k];
        s->loss -= log(l->clicked[k] ? p : 1 - p);
        s->clicks += l->clicked[k];
        td_auc_add(s->auc, l->probability[k], l->clicked[k], 1);
    }
}

static td_status write_rows(synth *s, td_pool *pool, td_writer *w)
{
    char head[TD_CLICK_TEXT];
    int lanes = td_pool_lanes(pool);
    TD_TRY(td_writer_put(w, head, td_click_header(s->format, head)));
    for (; s->next < s->rows; s->next += (uint64_t)lanes * BLOCK) {
        TD_TRY(td_pool_run(pool, make_block, s));
        for (int k = 0; k < lanes; k++) {
            TD_TRY(td_writer_put(w, s->lanes[k].text, s->lanes[k].bytes));
            count(s, &s->lanes[k]);
        }
    }
    return TD_OK;
}

static td_status make_lanes(synth *s, int lanes)
{
    s->auc = td_calloc(1, sizeof *s->auc);
    s->lanes = td_calloc((size_t)lanes, sizeof *s->lanes);
    for (int k = 0; s->lanes && k < lanes; k++)
        if (!(s->lanes[k].text = td_malloc((size_t)BLOCK * TD_CLICK_TEXT))) s->lanes[k].rows = 1;
    for (int k = 0; k < lanes; k++)
        if (!s->auc || !s->lanes || s->lanes[k].rows)
            return td_fail(TD_ERR_NOMEM, "no memory for %d threads", lanes);
    return TD_OK;
}

static td_status write_file(synth *s, const td_job *job)
{
    td_writer w;
    td_pool *pool = NULL;
    TD_TRY(make_lanes(s, job->threads));
    TD_TRY(td_pool_create(job->threads, &pool));
    td_status status = td_writer_open(&w, job->out);
    if (status == TD_OK) {
        status = write_rows(s, pool, &w);
        if (status == TD_OK)
            status = td_writer_commit(&w);
        else
            td_writer_abandon(&w);
    }
    td_pool_destroy(pool);
    if (status != TD_OK || job->quiet) return status;
    double rows = (double)s->rows;
    printf("%s: %llu rows, %.1f %% clicked; the planted model: AUC %.4f logloss %.4f\n", job->out,
           (unsigned long long)s->rows, 100 * s->clicks / rows, td_auc_value(s->auc),
           s->loss / rows);
    return TD_OK;
}

td_status td_cmd_synth(int argc, char **argv)
{
    td_job job;
    const char *what[1];
    td_arguments words = {.where = TD_JOB_SYNTH, .rest = what, .rest_room = 1};
    TD_TRY(td_job_init(&job));
    td_status status = td_options_parse(td_job_rows, &job, argc, argv, &words);
    if (status == TD_OK && (words.rest_count != 1 || strcmp(what[0], "clicks") != 0))
        status = td_fail(TD_ERR_ARG, "say what to make up: tandem synth clicks --out FILE");
    else if (status == TD_OK && !job.out)
        status = td_fail(TD_ERR_ARG, "--out is missing: the file to write");
    else if (status == TD_OK && td_path_exists(job.out) && !job.overwrite)
        status = td_fail(TD_ERR_ARG, "%s exists already; --overwrite replaces it", job.out);
    td_click_format format = (td_click_format)job.synth_format;
    if (status == TD_OK && format == TD_CLICK_AUTO) format = td_click_format_of(job.out);
    if (status == TD_OK && format == TD_CLICK_LIBSVM &&
        job.synth_categories > (INT32_MAX - TD_CLICK_COUNTS) / TD_CLICK_FIELDS)
        status = td_fail(TD_ERR_ARG, "--format libsvm has room for %d categories of a field",
                         (INT32_MAX - TD_CLICK_COUNTS) / TD_CLICK_FIELDS);
    synth s = {.config = {job.seed, (uint32_t)job.synth_categories, job.synth_zipf},
               .format = format,
               .rows = job.synth_rows};
    if (status == TD_OK) status = write_file(&s, &job);
    for (int k = 0; s.lanes && k < job.threads; k++) td_free(s.lanes[k].text);
    td_free(s.lanes);
    td_free(s.auc);
    td_options_fini(td_job_rows, &job);
    return status;
}
