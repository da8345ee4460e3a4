/* See transfer.h. */
#include "ps/transfer.h"

#include "base/alloc.h"
#include "base/error.h"
#include "ps/transfer_impl.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

static const td_format *const formats[] = {&td_format_safetensors, &td_format_tsv};

static td_status find_format(const char *path, const td_format **out)
{
    size_t length = strlen(path);
    for (size_t k = 0; k < sizeof formats / sizeof *formats; k++) {
        size_t ending = strlen(formats[k]->ending);
        if (length < ending || strcmp(path + length - ending, formats[k]->ending) != 0) continue;
        *out = formats[k];
        return TD_OK;
    }
    return td_fail(TD_ERR_ARG, "%s: a table's file ends in .safetensors or .tsv", path);
}

td_status td_transfer_check(const char *path)
{
    const td_format *format;
    return find_format(path, &format);
}

void td_columns_of(const td_table_config *config, bool states, td_columns *out)
{
    td_rule rule = TD_RULE_SGD;
    *out = (td_columns){.count = 1, .width = config->width, .name = {"weights"}};
    if (!states || !config->rule || td_rule_find(config->rule, &rule) != TD_OK) return;
    for (const char *const *state = td_rule_states(rule); *state; state++)
        snprintf(out->name[out->count++], TD_TRANSFER_NAME, "%s.%s", config->rule, *state);
}

static td_status walk_table(void *self, td_table_each_key_fn *each, void *arg)
{
    return td_table_range(self, 0, UINT64_MAX, each, arg);
}

td_transfer_rows td_transfer_table(const td_table *t)
{
    return (td_transfer_rows){.config = td_table_config_of(t),
                              .states = true,
                              .count = td_table_rows(t),
                              .walk = walk_table,
                              .self = (void *)(uintptr_t)t};
}

td_status td_transfer_write(const td_transfer_rows *rows, const char *path, const char *meaning)
{
    const td_format *format = NULL;
    TD_TRY(find_format(path, &format));
    return format->write(rows, path, meaning);
}

td_status td_transfer_export(const td_table *t, const char *path, const char *meaning)
{
    td_transfer_rows rows = td_transfer_table(t);
    return td_transfer_write(&rows, path, meaning);
}

td_status td_intake_put(td_intake *in, uint64_t key)
{
    const td_transfer_want *want = &in->want;
    size_t bytes = td_table_row_floats(in->table) * sizeof *in->row;
    if (want->bits && want->bits < 64 && key >> want->bits)
        return td_fail(TD_ERR_DATA,
                       "%s: key %llu has more bits than the %d that keys are hashed to", in->path,
                       (unsigned long long)key, want->bits);
    in->taken.hash = XXH64(in->row, bytes, XXH64(&key, sizeof key, in->taken.hash));
    if (want->mine && !want->mine(want->arg, key)) return TD_OK;
    in->taken.rows++;
    return td_table_put(in->table, key, in->row);
}

td_status td_intake_means(const td_intake *in, const char *meaning)
{
    const char *wanted = in->want.meaning;
    if (!meaning || !wanted || !strcmp(meaning, wanted)) return TD_OK;
    return td_fail(TD_ERR_DATA, "%s has rows of \"%.200s\", and they are to be of \"%s\"", in->path,
                   meaning, wanted);
}

td_status td_intake_lacks_states(const td_intake *in)
{
    const char *rule = td_table_config_of(in->table)->rule;
    if (strcmp(rule, td_table_rule_names[TD_RULE_FTRL]) != 0) return TD_OK;
    return td_fail(TD_ERR_DATA,
                   "%s: rows have weights alone; under ftrl these are a function of %s and %s, "
                   "which the file must have, too",
                   in->path, in->columns.name[1], in->columns.name[2]);
}

td_status td_transfer_import(td_table *t, const char *path, const td_transfer_want *want,
                             td_transfer_taken *out)
{
    const td_format *format = NULL;
    td_intake in = {.table = t, .path = path};
    if (want) in.want = *want;
    TD_TRY(find_format(path, &format));
    td_columns_of(td_table_config_of(t), true, &in.columns);
    in.row = td_calloc(td_table_row_floats(t), sizeof *in.row);
    if (!in.row) return td_fail(TD_ERR_NOMEM, "no memory to read %s", path);
    td_status status = format->read(&in);
    if (status == TD_OK && out) *out = in.taken;
    td_free(in.row);
    return status;
}

td_status td_transfer_compare(td_comm *comm, const char *path, bool reads, uint64_t hash)
{
    int size = td_comm_size(comm), first = -1;
    uint64_t own[2] = {reads, hash}, (*all)[2] = td_calloc((size_t)size, sizeof own);
    td_status status = all ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for %d ranks", size);
    TD_GOTO(td_comm_agree(comm, status));
    TD_GOTO(td_comm_allgather(comm, own, sizeof own, all));
    for (int r = size; r-- > 0;)
        if (all[r][0]) first = r;
    if (reads && hash != all[first][1])
        status = td_fail(TD_ERR_DATA,
                         "rank %d reads other rows in %s than rank %d; all servers must find the "
                         "same file",
                         td_comm_rank(comm), path, first);
    status = td_comm_agree(comm, status);
out:
    td_free(all);
    return status;
}
