/* Opening: find the files, map them, choose the reader, run it. */
#include "data/cache.h"
#include "data/locate.h"

#include "base/alloc.h"
#include "base/error.h"

#include <sched.h>
#include <string.h>

enum { MAX_THREADS = 16 };

/* What is open while a reader runs. */
typedef struct inputs {
    td_mapping maps[4];
    void *inflated[4];
    int count;
} inputs;

static void inputs_close(inputs *in)
{
    for (int i = 0; i < in->count; i++) {
        td_free(in->inflated[i]);
        td_unmap(&in->maps[i]);
    }
}

static td_status input_open(inputs *in, const char *path, bool inflate, td_source *out)
{
    if (!*path) return TD_OK;
    int i = in->count;
    TD_TRY(td_map_file(path, &in->maps[i]));
    in->count++;
    *out = (td_source){path, in->maps[i].data, in->maps[i].size, in->maps[i].size > 0};
    if (!inflate) return TD_OK;
    TD_TRY(td_source_inflate(*out, out, &in->inflated[i]));
    if (in->inflated[i]) td_unmap(&in->maps[i]);
    return TD_OK;
}

static td_status choose_by_content(const td_source *source, const td_reader **out)
{
    if (source->size == 0) return td_fail(TD_ERR_DATA, "%s is empty", source->name);
    for (int i = 0; td_readers[i]; i++)
        if (td_readers[i]->looks_like(source->data, source->size)) {
            *out = td_readers[i];
            return TD_OK;
        }
    return td_fail(TD_ERR_DATA,
                   "%s: neither its name nor its beginning tells its format; name one of idx, csv, "
                   "tsv, libsvm, libffm, npy",
                   source->name);
}

static int thread_count(const td_data_config *config)
{
    if (config->threads) return config->threads;
    cpu_set_t cpus;
    int count = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
    return count < 1 ? 1 : count > MAX_THREADS ? MAX_THREADS : count;
}

static td_status check_columns(const td_data_config *config, const td_reader *reader,
                               const char *name)
{
    bool table = reader->format == TD_FORMAT_CSV || reader->format == TD_FORMAT_TSV;
    if (table || !config->weight_column || !*config->weight_column) return TD_OK;
    return td_fail(TD_ERR_ARG,
                   "weight column \"%.100s\": %s has no columns to name, as CSV and TSV have",
                   config->weight_column, name);
}

/* Samples of weight 0 count nothing; some that count are needed. */
static td_status check_weights(const td_dataset *data)
{
    const td_data_info *info = td_dataset_info(data);
    for (uint64_t i = 0; i < info->samples; i++)
        if (td_dataset_weight(data, i) > 0) return TD_OK;
    return td_fail(TD_ERR_DATA, "%s: every sample has weight 0", info->path);
}

static td_status read_files(const td_data_config *config, const td_location *where,
                            td_dataset **out)
{
    td_status status = TD_OK;
    inputs in = {0};
    td_read_job job = {.config = config};
    td_dataset *read = NULL;
    const td_reader *reader = where->reader;
    TD_GOTO(input_open(&in, where->main, !reader || reader->inflate, &job.main));
    if (!reader) TD_GOTO(choose_by_content(&job.main, &reader));
    TD_GOTO(check_columns(config, reader, job.main.name));
    TD_GOTO(input_open(&in, where->label, reader->inflate, &job.label));
    TD_GOTO(input_open(&in, where->weight, true, &job.weight));
    TD_GOTO(input_open(&in, where->group, true, &job.group));
    TD_GOTO(td_pool_create(thread_count(config), &job.pool));
    TD_GOTO(td_reader_run(reader->format, &job, &read));
    TD_GOTO(check_weights(read));
    *out = read;
    read = NULL;
out:
    td_dataset_close(read);
    td_pool_destroy(job.pool);
    inputs_close(&in);
    return status;
}

td_status td_dataset_open(const td_data_config *config, td_dataset **out)
{
    td_location where;
    td_data_config used = *config;
    if (used.like && used.like->base) used.like = used.like->base;
    TD_TRY(td_locate(&used, &where));
    if (!used.cache) return read_files(&used, &where, out);
    td_cache_key key;
    TD_TRY(td_cache_key_make(&used, &where, &key));
    td_dataset *dataset;
    if (td_cache_load(&key, &dataset) != TD_OK) {
        TD_TRY(read_files(&used, &where, &dataset));
        td_cache_save(&key, dataset);
    }
    *out = dataset;
    return TD_OK;
}
