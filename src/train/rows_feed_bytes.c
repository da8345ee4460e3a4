/* Samples as bytes, which go from data servers to workers: see rows_feed.h. */
#include "train/rows_feed_impl.h"

#include "base/alloc.h"
#include "base/error.h"
#include "data/dataset.h"

#include <string.h>

static td_status put(td_feed_payload *p, const void *data, size_t bytes)
{
    if (p->bytes + bytes > p->room) {
        size_t room = 2 * (p->bytes + bytes);
        char *more = td_realloc(p->data, room);
        if (!more) return td_fail(TD_ERR_NOMEM, "no memory for a shard of %zu bytes", room);
        p->data = more, p->room = room;
    }
    if (bytes) memcpy(p->data + p->bytes, data, bytes);
    p->bytes += bytes;
    return TD_OK;
}

/* The samples of the leaves, to f->sample. */
static size_t list_samples(td_feed *f, const td_feed_part *part)
{
    size_t rows = 0;
    for (int leaf = part->leaf_begin; leaf < part->leaf_end; leaf++) {
        td_shard_leaf(&f->config.plan, part->epoch, part->step, leaf, f->sample + rows);
        rows += td_shard_leaf_rows(&f->config.plan, part->step, leaf);
    }
    return rows;
}

/* A sample's entries, how many there are; or its numbers alone, as networks read them. */
static size_t read_sample(td_feed *f, size_t row, size_t at)
{
    static const td_normalise none;
    const td_feed_config *c = &f->config;
    float *numbers = c->numbers ? f->numbers + row * c->numbers : NULL;
    if (c->features)
        return td_features_row(c->features, c->data, f->sample[row], f->key + at, f->value + at,
                               f->field + at, numbers);
    td_dataset_row_as(c->data, c->normalise ? c->normalise : &none, f->sample[row], numbers);
    return 0;
}

/* rows, entries of each | entries | numbers, target, label, weight | samples, each array in turn.
 */
td_status td_feed_pack(td_feed *f, const td_feed_part *part, td_feed_payload *p)
{
    const td_feed_config *c = &f->config;
    size_t rows = list_samples(f, part), at = 0;
    const td_data_info *info = td_dataset_info(c->data);
    uint64_t *count = f->sample + c->plan.batch;
    for (size_t r = 0; r < rows; r++) at += count[r] = read_sample(f, r, at);
    uint64_t head[4] = {rows, at, info->has_weights, info->classes > 0};
    p->bytes = 0, p->of = 0;
    TD_TRY(put(p, head, sizeof head));
    TD_TRY(put(p, count, rows * sizeof *count));
    TD_TRY(put(p, f->sample, rows * sizeof *f->sample));
    TD_TRY(put(p, f->key, at * sizeof *f->key));
    TD_TRY(put(p, f->value, at * sizeof *f->value));
    TD_TRY(put(p, f->numbers, rows * c->numbers * sizeof *f->numbers));
    for (size_t r = 0; r < rows; r++) {
        float target = td_dataset_target(c->data, f->sample[r]);
        TD_TRY(put(p, &target, sizeof target));
    }
    for (size_t r = 0; r < rows && info->has_weights; r++) {
        float weight = td_dataset_weight(c->data, f->sample[r]);
        TD_TRY(put(p, &weight, sizeof weight));
    }
    for (size_t r = 0; r < rows && info->classes; r++) {
        int32_t label = td_dataset_label(c->data, f->sample[r]);
        TD_TRY(put(p, &label, sizeof label));
    }
    TD_TRY(put(p, f->field, at * sizeof *f->field));
    p->of = part->of;
    return TD_OK;
}

td_status td_feed_give(const td_feed *f, const td_keyed_request *q)
{
    const td_feed_payload *p = &f->kept[q->from];
    if (p->of != q->keys[0] + 1 || p->bytes != q->bytes)
        return td_fail(TD_ERR_INTERNAL, "rank %d fetches samples that it has not asked for",
                       q->from);
    memcpy(q->out, p->data, p->bytes);
    return TD_OK;
}

static void get(const char **from, void *to, size_t bytes)
{
    if (bytes) memcpy(to, *from, bytes);
    *from += bytes;
}

static td_status unpack(td_feed *f, td_rows_batch *b)
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

td_status td_feed_fetch(td_feed *f, int server, uint64_t shard, uint64_t bytes,
                        td_rows_batch *batch)
{
    size_t size = bytes;
    if (bytes > f->in_room) {
        td_free(f->in);
        f->in_room = 0;
        f->in = td_alloc_aligned(bytes + bytes / 4);
        if (!f->in) return td_fail(TD_ERR_NOMEM, "no memory for a shard of %zu bytes", size);
        f->in_room = bytes + bytes / 4;
    }
    td_parts parts = {.keys = &shard, .count = 1, .sizes = &size, .out = f->in, .owner = &server};
    TD_TRY(td_keyed_pull(f->keyed, &parts));
    return unpack(f, batch);
}
