/* The loader: a ring of preallocated batches that one thread fills ahead of the training loop.
 *
 * Invariant: slots [taken, made) of the ring are filled and unread, slot taken - 1 is the one the
 * caller holds, and the thread fills slot `made` only while made - taken < ahead; so with ahead + 2
 * slots it never touches a slot that is read. What is in a batch depends on (plan, epoch, step)
 * alone. After create nothing is allocated. Without a thread, next fills the slot itself. */
#include "data/dataset.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/rng.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { DEFAULT_BATCH = 128, DEFAULT_LEAVES = 16, DEFAULT_AHEAD = 2, MAX_AHEAD = 1024 };

typedef struct slot {
    td_batch batch;
    float *x;
    int32_t *label;
    float *target;
    float *weight;
    uint64_t *sample;
    size_t *leaf_row;
} slot;

struct td_loader {
    const td_dataset *data;
    td_shard_plan plan;
    int leaf_begin, leaf_end;
    td_normalise normalise; /* n 0: none */
    td_augment augment;
    bool sparse;
    uint64_t epochs, steps;
    size_t capacity; /* rows of a slot */
    float *scratch;  /* [features] an image before it is moved; the filler's */
    int slots;
    int ahead;  /* 0: no thread */
    slot *ring; /* [slots] */

    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t filled;
    pthread_cond_t wanted;
    /* All below: guarded by lock; made, epoch and step are also read by the filler while `filling`,
     * when nobody else writes them. */
    uint64_t made, taken;
    uint64_t epoch, step; /* of the batch to be made next */
    bool filling, closing;
};

/* ---- rows ---- */

/* What a raw 0 is after normalisation: the colour of the outside. */
static float outside(const td_normalise *normalise, size_t channel, size_t channels)
{
    if (normalise->n == 0) return 0;
    size_t k = channel * normalise->n / channels;
    return (0 - normalise->mean[k]) * normalise->scale[k];
}

typedef struct move {
    ptrdiff_t down, right;
    bool flip;
} move;

static move draw_move(const td_loader *loader, uint64_t epoch, uint64_t sample)
{
    td_rng rng;
    td_rng_init(&rng, loader->plan.seed, TD_RNG_AUGMENT, epoch, sample);
    ptrdiff_t most[2] = {loader->augment.shift, loader->augment.crop_pad};
    move m = {0};
    for (int i = 0; i < 2; i++) {
        if (most[i] == 0) continue;
        m.down += (ptrdiff_t)td_rng_below(&rng, (uint32_t)(2 * most[i] + 1)) - most[i];
        m.right += (ptrdiff_t)td_rng_below(&rng, (uint32_t)(2 * most[i] + 1)) - most[i];
    }
    m.flip = loader->augment.flip && td_rng_u32(&rng) >> 31;
    return m;
}

static void move_image(const td_loader *loader, move m, const float *restrict from,
                       float *restrict to)
{
    const size_t *shape = loader->data->info.shape;
    ptrdiff_t rows = (ptrdiff_t)shape[1], columns = (ptrdiff_t)shape[2];
    for (size_t c = 0; c < shape[0]; c++) {
        float empty = outside(&loader->normalise, c, shape[0]);
        for (ptrdiff_t r = 0; r < rows; r++) {
            const float *line = from + ((ptrdiff_t)c * rows + r - m.down) * columns;
            bool inside = r - m.down >= 0 && r - m.down < rows;
            for (ptrdiff_t i = 0; i < columns; i++) {
                ptrdiff_t at = (m.flip ? columns - 1 - i : i) - m.right;
                *to++ = inside && at >= 0 && at < columns ? line[at] : empty;
            }
        }
    }
}

static bool augments(const td_augment *augment)
{
    return augment->shift || augment->flip || augment->crop_pad;
}

/* ---- batches ---- */

static void fill_slot(td_loader *loader, slot *s, uint64_t epoch, uint64_t step)
{
    const td_dataset *data = loader->data;
    size_t features = data->info.features, rows = 0;
    int leaves = loader->leaf_end - loader->leaf_begin;
    s->leaf_row[0] = 0;
    for (int l = 0; l < leaves; l++) {
        td_shard_leaf(&loader->plan, epoch, step, loader->leaf_begin + l, s->sample + rows);
        rows += td_shard_leaf_rows(&loader->plan, step, loader->leaf_begin + l);
        s->leaf_row[l + 1] = rows;
    }
    for (size_t i = 0; i < rows; i++) {
        uint64_t sample = s->sample[i];
        if (s->label) s->label[i] = td_dataset_label(data, sample);
        s->target[i] = td_dataset_target(data, sample);
        if (s->weight) s->weight[i] = td_dataset_weight(data, sample);
        if (!s->x) continue;
        float *x = s->x + i * features;
        if (augments(&loader->augment)) {
            td_dataset_row_as(data, &loader->normalise, sample, loader->scratch);
            move_image(loader, draw_move(loader, epoch, sample), loader->scratch, x);
        } else {
            td_dataset_row_as(data, &loader->normalise, sample, x);
        }
    }
    s->batch = (td_batch){
        .rows = rows,
        .x = s->x,
        .label = s->label,
        .target = s->target,
        .weight = s->weight,
        .sample = s->sample,
        .leaves = leaves,
        .leaf_row = s->leaf_row,
        .global_rows = td_shard_batch_rows(&loader->plan, step),
        .epoch = epoch,
        .step_in_epoch = step,
        .last_in_epoch = step + 1 == loader->steps,
    };
}

static bool at_end(const td_loader *loader)
{
    return loader->epochs && loader->epoch >= loader->epochs;
}

static void step_on(td_loader *loader)
{
    loader->made++;
    if (++loader->step == loader->steps) loader->step = 0, loader->epoch++;
}

static void *filler_main(void *arg)
{
    td_loader *loader = arg;
    pthread_mutex_lock(&loader->lock);
    while (!loader->closing) {
        if (at_end(loader) || loader->made - loader->taken >= (uint64_t)loader->ahead) {
            pthread_cond_wait(&loader->wanted, &loader->lock);
            continue;
        }
        slot *s = &loader->ring[loader->made % (uint64_t)loader->slots];
        uint64_t epoch = loader->epoch, step = loader->step;
        loader->filling = true;
        pthread_mutex_unlock(&loader->lock);
        fill_slot(loader, s, epoch, step);
        pthread_mutex_lock(&loader->lock);
        loader->filling = false;
        step_on(loader);
        pthread_cond_signal(&loader->filled);
    }
    pthread_mutex_unlock(&loader->lock);
    return NULL;
}

td_status td_loader_next(td_loader *loader, const td_batch **out)
{
    if (loader->ahead == 0) {
        *out = NULL;
        if (at_end(loader)) return TD_OK;
        fill_slot(loader, &loader->ring[0], loader->epoch, loader->step);
        step_on(loader);
        *out = &loader->ring[0].batch;
        return TD_OK;
    }
    pthread_mutex_lock(&loader->lock);
    while (loader->made == loader->taken && !at_end(loader))
        pthread_cond_wait(&loader->filled, &loader->lock);
    if (loader->made == loader->taken) {
        *out = NULL;
    } else {
        *out = &loader->ring[loader->taken++ % (uint64_t)loader->slots].batch;
        pthread_cond_signal(&loader->wanted);
    }
    pthread_mutex_unlock(&loader->lock);
    return TD_OK;
}

td_status td_loader_seek(td_loader *loader, uint64_t epoch, uint64_t step_in_epoch)
{
    if (step_in_epoch >= loader->steps)
        return td_fail(TD_ERR_ARG, "step %llu does not exist: an epoch has %llu steps",
                       (unsigned long long)step_in_epoch, (unsigned long long)loader->steps);
    pthread_mutex_lock(&loader->lock);
    while (loader->filling) pthread_cond_wait(&loader->filled, &loader->lock);
    loader->made = loader->taken;
    loader->epoch = epoch;
    loader->step = step_in_epoch;
    pthread_cond_signal(&loader->wanted);
    pthread_mutex_unlock(&loader->lock);
    return TD_OK;
}

uint64_t td_loader_steps_per_epoch(const td_loader *loader)
{
    return loader->steps;
}

/* ---- life ---- */

static td_status check_augment(const td_augment *augment, const td_data_info *info)
{
    if (!augments(augment)) return TD_OK;
    if (info->rank != 3 || info->sparse)
        return td_fail(TD_ERR_ARG, "shifting, flipping and cropping need images; %s holds a table",
                       info->path);
    size_t side = info->shape[1] < info->shape[2] ? info->shape[1] : info->shape[2];
    if (augment->shift < 0 || augment->crop_pad < 0 || (size_t)augment->shift >= side ||
        (size_t)augment->crop_pad >= side)
        return td_fail(TD_ERR_ARG, "images of %zu x %zu pixels can be moved by 0 to %zu, not %d",
                       info->shape[1], info->shape[2], side - 1,
                       augment->shift ? augment->shift : augment->crop_pad);
    return TD_OK;
}

static td_status take_config(td_loader *loader, const td_loader_config *config)
{
    const td_data_info *info = &config->data->info;
    loader->data = config->data;
    loader->plan = (td_shard_plan){
        .samples = info->samples,
        .batch = config->batch ? config->batch : DEFAULT_BATCH,
        .leaves = config->leaves ? config->leaves : DEFAULT_LEAVES,
        .shuffle = config->shuffle,
        .drop_last = config->drop_last,
        .seed = config->seed,
    };
    TD_TRY(td_shard_check(&loader->plan));
    loader->leaf_begin = config->leaf_begin;
    loader->leaf_end = config->leaf_end;
    if (!config->leaf_begin && !config->leaf_end) loader->leaf_end = loader->plan.leaves;
    if (loader->leaf_begin < 0 || loader->leaf_begin >= loader->leaf_end ||
        loader->leaf_end > loader->plan.leaves)
        return td_fail(TD_ERR_ARG, "leaves %d to %d are not a part of 0 to %d", config->leaf_begin,
                       config->leaf_end, loader->plan.leaves);
    if (config->ahead < -1 || config->ahead > MAX_AHEAD)
        return td_fail(TD_ERR_ARG, "a loader works 0 to %d batches ahead, not %d", MAX_AHEAD,
                       config->ahead);
    TD_TRY(check_augment(&config->augment, info));
    const td_normalise *normalise = config->normalise;
    if (normalise && (normalise->n == 0 || info->features % normalise->n))
        return td_fail(TD_ERR_ARG, "%zu means and scales do not fit the %zu features of %s",
                       normalise->n, info->features, info->path);
    if (normalise)
        TD_TRY(td_normalise_make(normalise->mode, normalise->n, normalise->mean, normalise->scale,
                                 normalise->fill, &loader->normalise));
    loader->augment = config->augment;
    loader->sparse = config->sparse;
    loader->epochs = config->epochs;
    loader->steps = td_shard_steps(&loader->plan);
    loader->ahead = config->ahead == 0 ? DEFAULT_AHEAD : config->ahead < 0 ? 0 : config->ahead;
    loader->slots = loader->ahead ? loader->ahead + 2 : 1;
    /* All steps but the last are as the first; a smaller batch may give some leaf a row more. */
    uint64_t ends[2] = {0, loader->steps - 1};
    for (int i = 0; i < 2; i++) {
        size_t rows = 0;
        for (int l = loader->leaf_begin; l < loader->leaf_end; l++)
            rows += td_shard_leaf_rows(&loader->plan, ends[i], l);
        if (rows > loader->capacity) loader->capacity = rows;
    }
    return TD_OK;
}

static td_status make_slots(td_loader *loader)
{
    const td_data_info *info = &loader->data->info;
    size_t rows = loader->capacity, bytes = 0;
    size_t leaves = (size_t)(loader->leaf_end - loader->leaf_begin);
    bool fits = td_mul(rows, info->features, &bytes) && td_mul(bytes, sizeof(float), &bytes);
    loader->ring = td_calloc((size_t)loader->slots, sizeof *loader->ring);
    loader->scratch = td_alloc_aligned(info->features * sizeof(float));
    bool good = fits && loader->ring && loader->scratch;
    for (int i = 0; good && i < loader->slots; i++) {
        slot *s = &loader->ring[i];
        if (!loader->sparse) s->x = td_alloc_aligned(bytes);
        if (info->classes) s->label = td_alloc_aligned(rows * sizeof *s->label);
        if (info->has_weights) s->weight = td_alloc_aligned(rows * sizeof *s->weight);
        s->target = td_alloc_aligned(rows * sizeof *s->target);
        s->sample = td_alloc_aligned(rows * sizeof *s->sample);
        s->leaf_row = td_calloc(leaves + 1, sizeof *s->leaf_row);
        good = (loader->sparse || s->x) && (!info->classes || s->label) &&
               (!info->has_weights || s->weight) && s->target && s->sample && s->leaf_row;
    }
    if (!good)
        return td_fail(TD_ERR_NOMEM, "no memory for %d batches of %zu rows of %zu features",
                       loader->slots, rows, info->features);
    return TD_OK;
}

td_status td_loader_create(const td_loader_config *config, td_loader **out)
{
    if (!config->data) return td_fail(TD_ERR_ARG, "a loader needs a data set");
    td_loader *loader = td_calloc(1, sizeof *loader);
    if (!loader) return td_fail(TD_ERR_NOMEM, "no memory for a loader");
    pthread_mutex_init(&loader->lock, NULL);
    pthread_cond_init(&loader->filled, NULL);
    pthread_cond_init(&loader->wanted, NULL);
    td_status status = TD_OK;
    TD_GOTO(take_config(loader, config));
    TD_GOTO(make_slots(loader));
    if (loader->ahead) {
        if (pthread_create(&loader->thread, NULL, filler_main, loader) != 0) {
            status = td_fail(TD_ERR_NOMEM, "the loader's thread could not be started");
            goto out;
        }
        loader->started = true;
    }
    *out = loader;
    loader = NULL;
out:
    td_loader_destroy(loader);
    return status;
}

void td_loader_destroy(td_loader *loader)
{
    if (!loader) return;
    if (loader->started) {
        pthread_mutex_lock(&loader->lock);
        loader->closing = true;
        pthread_cond_signal(&loader->wanted);
        pthread_mutex_unlock(&loader->lock);
        pthread_join(loader->thread, NULL);
    }
    for (int i = 0; loader->ring && i < loader->slots; i++) {
        slot *s = &loader->ring[i];
        td_free(s->x);
        td_free(s->label);
        td_free(s->target);
        td_free(s->weight);
        td_free(s->sample);
        td_free(s->leaf_row);
    }
    td_free(loader->ring);
    td_free(loader->scratch);
    td_normalise_fini(&loader->normalise);
    pthread_cond_destroy(&loader->wanted);
    pthread_cond_destroy(&loader->filled);
    pthread_mutex_destroy(&loader->lock);
    td_free(loader);
}
