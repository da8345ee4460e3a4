/* See checkpoint.h. Tensors: a slot's name for parameters, "momentum/NAME" and the like for the
 * optimizer's arrays, "best/NAME" for the best parameters. */
#include "train/checkpoint.h"

#include "base/alloc.h"
#include "base/error.h"

#include <stdio.h>
#include <string.h>

static const char file_name[] = "state.safetensors";

enum { NAME = 128 };

/* The arrays of a checkpoint: prefix and floats. */
typedef struct part {
    const char *prefix;
    float *data;
} part;

static int parts_of(const td_task *task, td_optim *optim, float *best, part parts[4])
{
    int n = 0;
    parts[n++] = (part){"", task->params};
    for (int i = 0; i < td_optim_states(optim); i++)
        parts[n++] = (part){td_optim_state_name(optim, i), td_optim_state(optim, i)};
    if (best) parts[n++] = (part){"best", best};
    return n;
}

static void tensor_name(char name[NAME], const part *p, const td_slot *slot)
{
    snprintf(name, NAME, "%.40s%s%.64s", p->prefix, *p->prefix ? "/" : "", slot->name);
}

static json_t *state_json(const td_job *job, const td_task *task, const td_train_state *s)
{
    json_t *state = json_pack("{s:I, s:b, s:I, s:s, s:s, s:b}", "step", (json_int_t)s->step,
                              "finished", s->finished, "seed", (json_int_t)job->seed, "arch",
                              task->arch, "optimizer", job->rule, "has_best", s->has_best);
    if (s->has_best) {
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
    return state;
}

td_status td_checkpoint_write(const td_job *job, const td_task *task, td_optim *optim,
                              const td_train_state *state, const float *best)
{
    char folder[TD_PATH_MAX], name[32];
    part parts[4];
    const td_oracle *o = &task->oracle;
    int n = parts_of(task, optim, (float *)(uintptr_t)best, parts);
    size_t count = 0, room = (size_t)n * o->slot_count;
    td_tensor *tensors = td_calloc(room, sizeof *tensors);
    char(*names)[NAME] = td_calloc(room, NAME);
    json_t *json = state_json(job, task, state);
    td_status status = TD_OK;
    if (!tensors || !names || !json) {
        status = td_fail(TD_ERR_NOMEM, "no memory for a checkpoint");
        goto out;
    }
    for (int p = 0; p < n; p++)
        for (size_t s = 0; s < o->slot_count; s++, count++) {
            const td_slot *slot = &o->slots[s];
            tensor_name(names[count], &parts[p], slot);
            tensors[count] = (td_tensor){.name = names[count],
                                         .rank = slot->rank,
                                         .data = parts[p].data + slot->offset,
                                         .count = slot->count};
            memcpy(tensors[count].shape, slot->shape, sizeof slot->shape);
        }
    TD_GOTO(td_path_join(folder, job->run, "checkpoints"));
    TD_GOTO(td_make_dirs(folder));
    snprintf(name, sizeof name, "step-%09llu", (unsigned long long)state->step);
    char path[TD_PATH_MAX];
    TD_GOTO(td_path_join(path, folder, name));
    TD_GOTO(td_bundle_write(path, "checkpoint", json, file_name, tensors, count));
    status = td_bundle_prune(folder, "step", job->keep_checkpoints);
out:
    json_decref(json);
    td_free(names);
    td_free(tensors);
    return status;
}

static td_status read_state(const char *path, const td_job *job, const td_task *task, json_t *json,
                            td_train_state *s)
{
    json_int_t step, seed, best_step = 0, scored = 0;
    int finished, has_best;
    const char *arch, *rule;
    td_train_state r = {0};
    if (json_unpack(json, "{s:I, s:b, s:I, s:s, s:s, s:b}", "step", &step, "finished", &finished,
                    "seed", &seed, "arch", &arch, "optimizer", &rule, "has_best", &has_best) != 0 ||
        (has_best && json_unpack(json, "{s:F, s:F, s:I, s:F, s:F, s:I}", "best_loss", &r.best_loss,
                                 "best_accuracy", &r.best_accuracy, "best_step", &best_step, "loss",
                                 &r.loss, "accuracy", &r.accuracy, "scored", &scored) != 0))
        return td_fail(TD_ERR_CORRUPT, "%s: the manifest lacks the state of the run", path);
    if (strcmp(arch, task->arch) != 0)
        return td_fail(TD_ERR_CORRUPT,
                       "%s is a checkpoint of the architecture \"%s\", not of \"%s\"", path, arch,
                       task->arch);
    if (strcmp(rule, job->rule) != 0)
        return td_fail(TD_ERR_CORRUPT, "%s was written with the optimizer %s, not %s", path, rule,
                       job->rule);
    if ((uint64_t)seed != job->seed)
        return td_fail(TD_ERR_CORRUPT, "%s was written with seed %lld, not %llu", path,
                       (long long)seed, (unsigned long long)job->seed);
    r.step = (uint64_t)step, r.finished = finished, r.has_best = has_best;
    r.best_step = (uint64_t)best_step, r.scored = (uint64_t)scored;
    *s = r;
    return TD_OK;
}

td_status td_checkpoint_read(const td_job *job, const td_task *task, td_optim *optim,
                             td_train_state *state, float *best)
{
    char folder[TD_PATH_MAX], path[TD_PATH_MAX], name[NAME];
    part parts[4];
    td_bundle b = {0};
    td_status status;
    TD_GOTO(td_path_join(folder, job->run, "checkpoints"));
    TD_GOTO(td_bundle_newest(folder, "step", path));
    TD_GOTO(td_bundle_open(path, "checkpoint", file_name, &b));
    TD_GOTO(read_state(path, job, task, b.state, state));
    int n = parts_of(task, optim, state->has_best ? best : NULL, parts);
    for (int p = 0; p < n; p++)
        for (size_t s = 0; s < task->oracle.slot_count; s++) {
            const td_slot *slot = &task->oracle.slots[s];
            tensor_name(name, &parts[p], slot);
            TD_GOTO(
                td_safetensors_read(b.tensors, name, slot->count, parts[p].data + slot->offset));
        }
out:
    td_bundle_close(&b);
    return status;
}
