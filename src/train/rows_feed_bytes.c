/* A shard's samples as bytes: see rows_feed.h. */
#include "train/rows_feed_impl.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

static td_status put(td_feed *f, const void *data, size_t bytes)
{
    if (f->bytes + bytes > f->room) {
        size_t room = 2 * (f->bytes + bytes);
        char *more = td_realloc(f->payload, room);
        if (!more) return td_fail(TD_ERR_NOMEM, "no memory for a shard of %zu bytes", room);
        f->payload = more, f->room = room;
    }
    memcpy(f->payload + f->bytes, data, bytes);
    f->bytes += bytes;
    return TD_OK;
}

static uint64_t rows_of(const td_feed *f, uint64_t shard)
{
    return td_shard_leaf_rows(&f->config.plan, shard, 0);
}

/* rows, entries of each | entries | numbers, target, label, weight | samples, each array in turn.
 */
td_status td_feed_pack(td_feed *f, uint64_t shard)
{
    const td_feed_config *c = &f->config;
    size_t rows = rows_of(f, shard), at = 0;
    const td_data_info *info = td_dataset_info(c->data);
    uint64_t *count = f->sample + c->plan.batch;
    td_shard_leaf(&c->plan, f->epoch, shard, 0, f->sample);
    for (size_t r = 0; r < rows; r++) {
        float *numbers = c->numbers ? f->numbers + r * c->numbers : NULL;
        count[r] = td_features_row(c->features, c->data, f->sample[r], f->key + at, f->value + at,
                                   f->field + at, numbers);
        at += count[r];
    }
    uint64_t head[4] = {rows, at, info->has_weights, info->classes > 0};
    f->bytes = 0;
    TD_TRY(put(f, head, sizeof head));
    TD_TRY(put(f, count, rows * sizeof *count));
    TD_TRY(put(f, f->sample, rows * sizeof *f->sample));
    TD_TRY(put(f, f->key, at * sizeof *f->key));
    TD_TRY(put(f, f->value, at * sizeof *f->value));
    TD_TRY(put(f, f->numbers, rows * c->numbers * sizeof *f->numbers));
    for (size_t r = 0; r < rows; r++) {
        float target = td_dataset_target(c->data, f->sample[r]);
        TD_TRY(put(f, &target, sizeof target));
    }
    for (size_t r = 0; r < rows && info->has_weights; r++) {
        float weight = td_dataset_weight(c->data, f->sample[r]);
        TD_TRY(put(f, &weight, sizeof weight));
    }
    for (size_t r = 0; r < rows && info->classes; r++) {
        int32_t label = td_dataset_label(c->data, f->sample[r]);
        TD_TRY(put(f, &label, sizeof label));
    }
    return put(f, f->field, at * sizeof *f->field);
}

static void get(const char **from, void *to, size_t bytes)
{
    if (bytes) memcpy(to, *from, bytes);
    *from += bytes;
}

td_status td_feed_unpack(td_feed *f, td_rows_batch *b)
{
    uint64_t head[4];
    const char *from = f->in;
    get(&from, head, sizeof head);
    size_t rows = head[0], entries = head[1], numbers = f->config.numbers;
    TD_TRY(td_rows_batch_room(b, rows, entries, numbers));
    b->rows = rows, b->entries = entries;
    b->has_weight = head[2], b->has_label = head[3];
    const char *counts = from;
    from += rows * sizeof(uint64_t);
    b->start[0] = 0;
    for (size_t r = 0; r < rows; r++) {
        uint64_t n;
        get(&counts, &n, sizeof n);
        b->start[r + 1] = b->start[r] + n;
    }
    get(&from, b->sample, rows * sizeof *b->sample);
    get(&from, b->key, entries * sizeof *b->key);
    get(&from, b->value, entries * sizeof *b->value);
    get(&from, b->numbers, rows * numbers * sizeof *b->numbers);
    get(&from, b->target, rows * sizeof *b->target);
    if (b->has_weight) get(&from, b->weight, rows * sizeof *b->weight);
    if (b->has_label) get(&from, b->label, rows * sizeof *b->label);
    get(&from, b->field, entries * sizeof *b->field);
    return TD_OK;
}
