/* See checkpoint.h. Tensors: a slot's name for parameters, "momentum/NAME" and the like for the
 * optimizer's arrays, "best/NAME" for the best parameters. */
#include "train/checkpoint.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "data/schema.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEP_NAME = 32 };

td_status td_train_diverged(const td_job *job, const td_train_state *s, const char *what)
{
    uint64_t per_epoch = s->per_epoch ? s->per_epoch : 1;
    return td_fail(TD_ERR_DIVERGED,
                   "%s no longer a number at step %llu (epoch %llu); use a smaller --lr than %g, "
                   "or --clip",
                   what, (unsigned long long)s->step,
                   (unsigned long long)((s->step - 1) / per_epoch + 1), job->lr);
}

bool td_all_finite(const float *x, size_t n)
{
    const uint32_t exponent = 0x7f800000; /* all ones: not a number, or infinite */
    uint32_t bits, bad = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(&bits, &x[i], sizeof bits);
        bad |= (bits & exponent) == exponent;
    }
    return !bad;
}

void td_checkpoint_layout(const td_job *job, const td_task *task, td_shards *shards, float *best,
                          td_layout *out)
{
    int n = 0;
    out->array[n++] = (td_array){"", task->params, 0};
    for (int i = 0; i < td_shards_states(shards); i++)
        out->array[n++] =
            (td_array){td_shards_state_name(shards, i), td_shards_state(shards, i), i};
    if (best) out->array[n++] = (td_array){"best", best, 0};
    out->arrays = n;
    out->shards = shards;
    td_layout_make(&task->oracle, job->leaves, out);
}

static void step_name(char name[STEP_NAME], uint64_t step)
{
    snprintf(name, STEP_NAME, "step-%09llu", (unsigned long long)step);
}

td_status td_checkpoint_path(const td_job *job, uint64_t step, char path[TD_PATH_MAX])
{
    char name[STEP_NAME];
    step_name(name, step);
    TD_TRY(td_path_join(path, job->run, "checkpoints"));
    return td_path_join(path, path, name);
}

/* Whether the result depends on the option. How long a run lasts, and where it and its data lie,
 * may change while it stands still; what the data are is td_train_state.data. */
static bool decides(const td_option *row)
{
    static const char *const free_ones[] = {"data.cache",     "train.epochs", "train.steps",
                                            "train.patience", "train.keep",   "train.eval_every"};
    for (size_t i = 0; i < sizeof free_ones / sizeof *free_ones; i++)
        if (!strcmp(row->name, free_ones[i])) return false;
    return (row->where & TD_JOB_FILE) && !(row->where & TD_JOB_PLACE);
}

enum { OPTION_TEXT = 64 }; /* longest value but a text's */

/* An option's value as text: its own, or in `room`. */
static const char *option_value(const td_option *row, const td_job *job, char room[OPTION_TEXT])
{
    const char *text = room;
    if (row->type == TD_OPT_TEXT)
        text = *(char *const *)((const char *)job + row->offset);
    else
        td_option_text(row, job, room, OPTION_TEXT);
    return text ? text : "";
}

static json_t *options_json(const td_job *job)
{
    json_t *options = json_object();
    for (const td_option *row = td_job_rows; row->name && options; row++) {
        char room[OPTION_TEXT];
        json_t *value = decides(row) ? td_text_to_json(option_value(row, job, room)) : NULL;
        if (decides(row) && json_object_set_new(options, row->name, value) != 0) {
            json_decref(options);
            options = NULL;
        }
    }
    return options;
}

/* Where the run is in its data, and which they are. */
static json_t *cursor_json(const td_train_state *s)
{
    uint64_t n = s->per_epoch ? s->per_epoch : 1;
    char data[20];
    snprintf(data, sizeof data, "%016" PRIx64, s->data);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:s*}", "epoch", (json_int_t)(s->step / n),
                     "step_in_epoch", (json_int_t)(s->step % n), "samples_seen",
                     (json_int_t)s->samples_seen, "samples", (json_int_t)s->samples,
                     "steps_per_epoch", (json_int_t)s->per_epoch, "steps", (json_int_t)s->total,
                     "data", s->data ? data : NULL);
}

static json_t *part_json(const td_train_part *p)
{
    char marks[20];
    snprintf(marks, sizeof marks, "%016" PRIx64, p->marks);
    return json_pack("{s:I, s:s, s:f, s:f, s:f}", "samples", (json_int_t)p->samples, "checksum",
                     marks, "loss", p->loss, "weight", p->weight, "correct", p->correct);
}

json_t *td_checkpoint_state(const td_job *job, const td_task *task, const td_train_state *s)
{
    json_t *state =
        json_pack("{s:I, s:b, s:I, s:s, s:s, s:b, s:o, s:o}", "step", (json_int_t)s->step,
                  "finished", s->finished, "seed", (json_int_t)job->seed, "arch", task->arch,
                  "optimizer", job->rule, "has_best", s->has_best, "options", options_json(job),
                  "cursor", cursor_json(s));
    if (state && s->has_best) {
        json_t *best =
            json_pack("{s:f, s:f, s:I, s:f, s:f, s:I}", "best_loss", s->best_loss, "best_accuracy",
                      s->best_accuracy, "best_step", (json_int_t)s->best_step, "loss", s->loss,
                      "accuracy", s->accuracy, "scored", (json_int_t)s->scored);
        if (json_object_update(state, best) != 0) { /* no memory for one of the two */
            json_decref(state);
            state = NULL;
        }
        json_decref(best);
    }
    if (state && s->part.known &&
        json_object_set_new(state, "epoch_so_far", part_json(&s->part)) != 0) {
        json_decref(state);
        state = NULL;
    }
    return state;
}

/* Checkpoints of earlier versions hold no options, or not all of them. */
static td_status check_options(const char *path, const td_job *job, const json_t *options)
{
    for (const td_option *row = td_job_rows; row->name; row++) {
        const json_t *then = decides(row) ? json_object_get(options, row->name) : NULL;
        if (!then) continue;
        char room[OPTION_TEXT], *was = NULL;
        const char *is = option_value(row, job, room);
        td_status status = td_text_from_json(then, &was);
        if (status == TD_OK && strcmp(was, is) != 0)
            status = td_fail(TD_ERR_ARG,
                             "%s was written with %s \"%.100s\", not \"%.100s\": job.yaml has "
                             "changed since",
                             path, row->name, was, is);
        td_free(was);
        TD_TRY(status);
    }
    return TD_OK;
}

static bool read_hex(const char *text, uint64_t *out)
{
    char *end;
    *out = strtoull(text, &end, 16);
    return strlen(text) == 16 && !*end;
}

static td_status read_fingerprint(const char *path, const char *text, uint64_t *out)
{
    uint64_t data;
    if (!text) return TD_OK; /* of an earlier version */
    if (!read_hex(text, &data) || !data)
        return td_fail(TD_ERR_CORRUPT, "%s: the manifest's fingerprint of the data is none", path);
    *out = data;
    return TD_OK;
}

static td_status read_cursor(const char *path, const json_t *cursor, td_train_state *s)
{
    json_int_t epoch, step, seen, samples, per_epoch, total = 0; /* 0 of an earlier version */
    const char *data = NULL;
    if (!cursor) return TD_OK; /* of a still earlier one */
    if (json_unpack((json_t *)(uintptr_t)cursor, "{s:I, s:I, s:I, s:I, s:I, s?I, s?s}", "epoch",
                    &epoch, "step_in_epoch", &step, "samples_seen", &seen, "samples", &samples,
                    "steps_per_epoch", &per_epoch, "steps", &total, "data", &data) != 0 ||
        (per_epoch && (uint64_t)epoch * (uint64_t)per_epoch + (uint64_t)step != s->step))
        return td_fail(TD_ERR_CORRUPT,
                       "%s: the manifest's place in the data is not that of step %llu", path,
                       (unsigned long long)s->step);
    s->samples_seen = (uint64_t)seen, s->samples = (uint64_t)samples;
    s->per_epoch = (uint64_t)per_epoch, s->total = (uint64_t)total;
    return read_fingerprint(path, data, &s->data);
}

static td_status read_part(const char *path, const json_t *json, td_train_state *s)
{
    td_train_part p = {.known = true, .epoch = s->per_epoch ? s->step / s->per_epoch : 0};
    json_int_t samples;
    const char *marks;
    if (!json) return TD_OK; /* of an earlier version, or nobody knows */
    if (json_unpack((json_t *)(uintptr_t)json, "{s:I, s:s, s:F, s:F, s:F}", "samples", &samples,
                    "checksum", &marks, "loss", &p.loss, "weight", &p.weight, "correct",
                    &p.correct) != 0 ||
        !read_hex(marks, &p.marks))
        return td_fail(TD_ERR_CORRUPT,
                       "%s: what its manifest says of the epoch under way cannot be read", path);
    p.samples = (uint64_t)samples;
    s->part = p;
    return TD_OK;
}

static td_status read_state(const char *path, const td_job *job, const td_task *task, json_t *json,
                            td_train_state *s)
{
    json_int_t step, seed, best_step = 0, scored = 0;
    int finished, has_best;
    const char *arch, *rule;
    char name[STEP_NAME];
    td_train_state r = {0};
    if (json_unpack(json, "{s:I, s:b, s:I, s:s, s:s, s:b}", "step", &step, "finished", &finished,
                    "seed", &seed, "arch", &arch, "optimizer", &rule, "has_best", &has_best) != 0 ||
        (has_best && json_unpack(json, "{s:F, s:F, s:I, s:F, s:F, s:I}", "best_loss", &r.best_loss,
                                 "best_accuracy", &r.best_accuracy, "best_step", &best_step, "loss",
                                 &r.loss, "accuracy", &r.accuracy, "scored", &scored) != 0))
        return td_fail(TD_ERR_CORRUPT, "%s: the manifest lacks the state of the run", path);
    if (strcmp(arch, task->arch) != 0)
        return td_fail(TD_ERR_ARG, "%s is a checkpoint of the architecture \"%s\", not of \"%s\"",
                       path, arch, task->arch);
    if (strcmp(rule, job->rule) != 0)
        return td_fail(TD_ERR_ARG, "%s was written with the optimizer %s, not %s", path, rule,
                       job->rule);
    if ((uint64_t)seed != job->seed)
        return td_fail(TD_ERR_ARG, "%s was written with seed %lld, not %llu", path, (long long)seed,
                       (unsigned long long)job->seed);
    r.step = (uint64_t)step, r.finished = finished, r.has_best = has_best;
    r.best_step = (uint64_t)best_step, r.scored = (uint64_t)scored;
    step_name(name, r.step);
    if (strlen(path) < strlen(name) || strcmp(path + strlen(path) - strlen(name), name) != 0)
        return td_fail(TD_ERR_CORRUPT, "%s: its manifest is of step %llu", path,
                       (unsigned long long)r.step);
    TD_TRY(check_options(path, job, json_object_get(json, "options")));
    TD_TRY(read_cursor(path, json_object_get(json, "cursor"), &r));
    TD_TRY(read_part(path, json_object_get(json, "epoch_so_far"), &r));
    *s = r;
    return TD_OK;
}

td_status td_checkpoint_open(const char *path, const td_job *job, const td_task *task, td_bundle *b,
                             td_train_state *state)
{
    TD_TRY(td_bundle_open(path, "checkpoint", TD_CHECKPOINT_FILE, b));
    return read_state(path, job, task, b->state, state);
}

td_status td_checkpoint_find(const td_job *job, const td_task *task, int64_t *out_step)
{
    char folder[TD_PATH_MAX], path[TD_PATH_MAX], before[TD_PATH_MAX], why[1024] = "";
    td_status last = TD_OK;
    TD_TRY(td_path_join(folder, job->run, "checkpoints"));
    for (uint64_t below = UINT64_MAX, step, older;; below = step) {
        td_train_state state;
        td_bundle b = {0};
        if (td_bundle_newest(folder, "step", below, &step, path) != TD_OK) break;
        td_status status = td_checkpoint_open(path, job, task, &b, &state);
        td_bundle_close(&b);
        if (status == TD_OK) *out_step = (int64_t)step;
        if (status != TD_ERR_CORRUPT && status != TD_ERR_IO) return status;
        last = status;
        snprintf(why, sizeof why, "%s", td_last_error());
        if (td_bundle_newest(folder, "step", step, &older, before) == TD_OK)
            td_warn("%s; the one before it is tried", td_last_error());
    }
    td_error_clear();
    *out_step = TD_CHECKPOINT_NONE;
    return last == TD_OK ? TD_OK : td_fail_again(last, why);
}

/* A slot's part of an array; through `beside`, with room for it, where the array is in shards. */
static td_status read_slot(td_bundle *b, const td_layout *l, int a, const td_slot *slot,
                           float *beside)
{
    char name[TD_LAYOUT_NAME];
    const td_array *array = &l->array[a];
    float *to = array->data ? array->data + slot->offset : beside;
    td_layout_name(array, slot, name);
    TD_TRY(td_bundle_read(b, name, td_slot_rows(slot), slot->count, to));
    if (!array->data) td_shards_put(l->shards, array->state, slot->offset, slot->count, beside);
    return TD_OK;
}

td_status td_checkpoint_read(const td_job *job, const td_task *task, td_shards *shards,
                             uint64_t step, td_train_state *state, float *best)
{
    char path[TD_PATH_MAX];
    td_layout layout;
    td_bundle b = {0};
    td_status status;
    const td_oracle *oracle = &task->oracle;
    float *beside = NULL;
    size_t largest = 1;
    for (size_t s = 0; s < oracle->slot_count; s++)
        if (oracle->slots[s].count > largest) largest = oracle->slots[s].count;
    if (td_shards_sharded(shards) && !(beside = td_alloc_aligned(largest * sizeof *beside)))
        return td_fail(TD_ERR_NOMEM, "no memory to read a checkpoint");
    TD_GOTO(td_checkpoint_path(job, step, path));
    TD_GOTO(td_checkpoint_open(path, job, task, &b, state));
    td_checkpoint_layout(job, task, shards, state->has_best ? best : NULL, &layout);
    for (int a = 0; a < layout.arrays; a++)
        for (size_t s = 0; s < oracle->slot_count; s++)
            TD_GOTO(read_slot(&b, &layout, a, &oracle->slots[s], beside));
    td_shards_restored(shards, state->step);
out:
    td_free(beside);
    td_bundle_close(&b);
    return status;
}

td_status td_checkpoint_tidy(const td_job *job, int64_t step)
{
    char folder[TD_PATH_MAX], path[TD_PATH_MAX], aside[TD_PATH_MAX];
    TD_TRY(td_path_join(folder, job->run, "checkpoints"));
    TD_TRY(td_bundle_prune_parts(folder, "step"));
    for (uint64_t number = UINT64_MAX;
         td_bundle_newest(folder, "step", number, &number, path) == TD_OK;) {
        if ((int64_t)number <= step) return TD_OK;
        if (snprintf(aside, sizeof aside, "%s.damaged", path) >= TD_PATH_MAX)
            return td_fail(TD_ERR_ARG, "path too long: %.200s...", path);
        TD_TRY(td_remove_tree(aside));
        if (rename(path, aside) != 0) return td_fail_errno("cannot move %s away", path);
    }
    td_error_clear();
    return TD_OK;
}
