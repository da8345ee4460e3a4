/* Data servers of workers that go in step: see rows_feed.h. */
#include "train/rows_feed_impl.h"

#include "base/error.h"

typedef struct ask { /* note of a request */
    uint64_t step;
    int32_t leaf_begin, leaf_end;
    char rest[TD_KEYED_NOTE - 16];
} ask;

typedef struct told { /* note of an answer */
    uint64_t bytes;
    char rest[TD_KEYED_NOTE - 8];
} told;
_Static_assert(sizeof(ask) == TD_KEYED_NOTE && sizeof(told) == TD_KEYED_NOTE, "a note each");

td_status td_feed_serve_steps(td_feed *f, const td_keyed_request *q)
{
    const ask *a = q->note;
    td_feed_payload *p = &f->kept[q->from];
    td_feed_part part = {.epoch = a->step / f->steps,
                         .step = a->step % f->steps,
                         .leaf_begin = a->leaf_begin,
                         .leaf_end = a->leaf_end,
                         .of = a->step % f->steps + 1};
    TD_TRY(td_feed_pack(f, &part, p));
    ((told *)q->answer)->bytes = p->bytes;
    return TD_OK;
}

/* Workers go to the servers by turns. */
static int server_of(const td_feed *f)
{
    return f->config.worker % f->config.server_count;
}

static td_status begin(td_feed *f, uint64_t step, int leaf_begin, int leaf_end)
{
    ask a = {.step = step, .leaf_begin = leaf_begin, .leaf_end = leaf_end};
    td_parts parts = {.everywhere = true,
                      .note = &a,
                      .answers = f->answers,
                      .only = server_of(f) + 1};
    f->asked_step = step;
    return td_keyed_start(f->keyed, TD_PULL, &parts, &f->asked);
}

static td_status end(td_feed *f)
{
    uint64_t ticket = f->asked;
    f->asked = 0;
    return td_keyed_wait(f->keyed, ticket);
}

static td_status fetch(td_feed *f, uint64_t step, int leaf_begin, int leaf_end, bool ahead,
                       td_rows_batch *b)
{
    if (f->asked && f->asked_step != step) TD_TRY(end(f)); /* the run has gone elsewhere */
    if (!f->asked) TD_TRY(begin(f, step, leaf_begin, leaf_end));
    TD_TRY(end(f));
    const told *t = (const told *)f->answers + server_of(f);
    TD_TRY(td_feed_fetch(f, server_of(f), step % f->steps, t->bytes, b));
    return ahead ? begin(f, step + 1, leaf_begin, leaf_end) : TD_OK;
}

td_status td_feed_leaves(td_feed *f, uint64_t step, int leaf_begin, int leaf_end, bool ahead,
                         const td_rows_shape *shape, td_rows_batch *b)
{
    const td_shard_plan *plan = &f->config.plan;
    uint64_t in_epoch = step % f->steps;
    td_rows_leaves leaves = {leaf_begin, leaf_end - leaf_begin, f->leaf_row};
    const td_data_info *info = td_dataset_info(f->config.data);
    b->rows = b->entries = 0;
    b->has_weight = info->has_weights, b->has_label = info->classes > 0;
    if (leaves.count)
        TD_TRY(fetch(f, step, leaf_begin, leaf_end, ahead, b));
    else
        TD_TRY(td_rows_batch_room(b, 0, 0, f->config.numbers));
    b->start[b->rows] = b->entries;
    b->global_rows = td_shard_batch_rows(plan, in_epoch);
    b->epoch = step / f->steps, b->step_in_epoch = in_epoch;
    b->last_in_epoch = in_epoch + 1 == f->steps;
    f->leaf_row[0] = 0;
    for (int k = 0; k < leaves.count; k++)
        f->leaf_row[k + 1] = f->leaf_row[k] + td_shard_leaf_rows(plan, in_epoch, leaf_begin + k);
    return td_rows_batch_index(b, shape, &leaves);
}
