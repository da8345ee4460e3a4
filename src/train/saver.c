/* See saver.h. */
#include "train/saver.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "strategy/mishap.h"
#include "tandem/data.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { SENTENCE = 1024 };
typedef enum saver_work { NOTHING, WRITE_PART, SEAL } saver_work;
static const int64_t quiet_ns = 60000000000; /* between warnings */

struct td_saver {
    td_comm *comm;
    const td_job *job;
    const td_task *task;
    td_shards *shards;
    float *best;
    int rank, size;

    /* of the checkpoint under way; the thread's while `work` is something */
    td_layout layout;
    td_train_state state;
    size_t first, last; /* this rank's files */
    float *copy;        /* [room]: floats of its files */
    size_t room;
    td_bundle_file *files; /* [TD_LAYOUT_FILES]: all at rank 0, else its own */
    size_t *shares;        /* [size] bytes of each rank's rows of `files`, at rank 0 */

    bool under_way; /* parts are being written, the same at all ranks */
    bool sealing;   /* at rank 0: the thread has been asked to */
    bool any;       /* one was begun */
    td_status fate; /* of the newest that has ended; the seal's part is known at rank 0 alone */
    char why[SENTENCE];
    uint64_t sealed, failed; /* failed: since the last that was written */
    int64_t warned_at;
    const char *mishaps;

    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t wanted, ended;
    saver_work work;  /* guarded by lock */
    bool closing;     /* guarded by lock */
    td_status result; /* of the last work; guarded by lock, as its sentence */
    char sentence[SENTENCE];
};

/* --- the thread --- */

static td_status write_part(td_saver *s)
{
    char folder[TD_PATH_MAX], part[TD_PATH_MAX], path[TD_PATH_MAX], name[TD_BUNDLE_NAME];
    size_t begin = td_layout_cut(&s->layout, s->first);
    if (s->first == s->last) return TD_OK;
    if (begin < s->layout.params) { /* array 0 is the parameters */
        size_t end = td_layout_cut(&s->layout, s->last);
        size_t params = (end < s->layout.params ? end : s->layout.params) - begin;
        if (!td_all_finite(s->copy, params))
            return td_train_diverged(s->job, &s->state, "a parameter is");
    }
    TD_TRY(td_checkpoint_path(s->job, s->state.step, folder));
    TD_TRY(td_bundle_part(folder, part));
    for (size_t f = s->first; f < s->last; f++) {
        td_bundle_file_name(TD_CHECKPOINT_FILE, f, s->layout.files, name);
        TD_TRY(td_path_join(path, part, name));
        TD_TRY(td_layout_write(&s->layout, f, s->copy + (td_layout_cut(&s->layout, f) - begin),
                               path, &s->files[f - s->first]));
        TD_TRY(td_mishap(s->mishaps, s->comm, s->state.step, "checkpoint"));
    }
    return TD_OK;
}

/* Removes the parts of one that cannot be, without losing the sentence. */
static void drop(const td_saver *s)
{
    char folder[TD_PATH_MAX], why[SENTENCE];
    snprintf(why, SENTENCE, "%s", td_last_error());
    td_status status = td_checkpoint_path(s->job, s->state.step, folder);
    if (status == TD_OK) status = td_bundle_drop(folder);
    td_fail_again(status, why); /* what is left goes when a run is resumed */
}

static td_status seal(td_saver *s)
{
    char folder[TD_PATH_MAX], all[TD_PATH_MAX];
    TD_TRY(td_mishap(s->mishaps, s->comm, s->state.step, "rename"));
    TD_TRY(td_checkpoint_path(s->job, s->state.step, folder));
    json_t *state = td_checkpoint_state(s->job, s->task, &s->state);
    if (!state) {
        td_status status = td_fail(TD_ERR_NOMEM, "no memory for a checkpoint");
        drop(s);
        return status;
    }
    td_status status =
        td_bundle_seal(folder, "checkpoint", state, TD_CHECKPOINT_FILE, s->files, s->layout.files);
    json_decref(state);
    TD_TRY(status);
    status = td_path_join(all, s->job->run, "checkpoints");
    if (status == TD_OK) status = td_bundle_prune(all, "step", s->job->keep_checkpoints);
    if (status != TD_OK) td_warn("%s; an older checkpoint stays", td_last_error());
    return TD_OK;
}

static void *saver_main(void *arg)
{
    td_saver *s = arg;
    pthread_mutex_lock(&s->lock);
    while (!s->closing || s->work != NOTHING) {
        if (s->work == NOTHING) {
            pthread_cond_wait(&s->wanted, &s->lock);
            continue;
        }
        saver_work work = s->work;
        pthread_mutex_unlock(&s->lock);
        td_status status = work == SEAL ? seal(s) : write_part(s);
        pthread_mutex_lock(&s->lock);
        s->result = status;
        if (status != TD_OK) snprintf(s->sentence, SENTENCE, "%s", td_last_error());
        s->work = NOTHING;
        pthread_cond_broadcast(&s->ended);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void start(td_saver *s, saver_work work)
{
    pthread_mutex_lock(&s->lock);
    s->work = work;
    pthread_cond_signal(&s->wanted);
    pthread_mutex_unlock(&s->lock);
}

/* The result of the thread's last work, when it has ended. */
static td_status wait_for_it(td_saver *s)
{
    pthread_mutex_lock(&s->lock);
    while (s->work != NOTHING) pthread_cond_wait(&s->ended, &s->lock);
    td_status status = s->result;
    pthread_mutex_unlock(&s->lock);
    return status == TD_OK ? TD_OK : td_fail_again(status, s->sentence);
}

static bool is_busy(td_saver *s)
{
    pthread_mutex_lock(&s->lock);
    bool busy = s->work != NOTHING;
    pthread_mutex_unlock(&s->lock);
    return busy;
}

/* --- beginning and ending --- */

/* Floats of this rank's files, with and without the best parameters. */
static size_t share(td_saver *s, float *best)
{
    td_checkpoint_layout(s->job, s->task, s->shards, best, &s->layout);
    uint64_t files = s->layout.files, size = (uint64_t)s->size;
    s->first = td_cut(files, size, (uint64_t)s->rank);
    s->last = td_cut(files, size, (uint64_t)s->rank + 1);
    return td_layout_cut(&s->layout, s->last) - td_layout_cut(&s->layout, s->first);
}

td_status td_saver_create(td_comm *comm, const td_job *job, const td_task *task, td_shards *shards,
                          float *best, td_saver **out)
{
    td_saver *s = td_calloc(1, sizeof *s);
    if (!s) return td_fail(TD_ERR_NOMEM, "no memory for checkpoints");
    s->comm = comm, s->job = job, s->task = task, s->shards = shards, s->best = best;
    s->rank = td_comm_rank(comm), s->size = td_comm_size(comm);
    s->room = share(s, NULL);
    size_t with_best = best ? share(s, best) : 0;
    if (with_best > s->room) s->room = with_best;
    s->warned_at = -quiet_ns;
    s->mishaps = td_mishaps();
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wanted, NULL);
    pthread_cond_init(&s->ended, NULL);
    s->copy = td_alloc_aligned((s->room ? s->room : 1) * sizeof *s->copy);
    s->files = td_calloc(TD_LAYOUT_FILES, sizeof *s->files);
    s->shares = td_calloc((size_t)s->size, sizeof *s->shares);
    td_status status = TD_OK;
    if (!s->copy || !s->files || !s->shares)
        status = td_fail(TD_ERR_NOMEM, "no memory for %zu bytes of a checkpoint",
                         s->room * sizeof *s->copy);
    else if (pthread_create(&s->thread, NULL, saver_main, s) != 0)
        status = td_fail(TD_ERR_NOMEM, "the thread that writes checkpoints could not be started");
    else
        s->started = true;
    if (status != TD_OK) {
        td_saver_destroy(s);
        return status;
    }
    memset(s->copy, 0, s->room * sizeof *s->copy); /* its pages are there before they are needed */
    *out = s;
    return TD_OK;
}

void td_saver_destroy(td_saver *s)
{
    if (!s) return;
    if (s->started) {
        pthread_mutex_lock(&s->lock);
        s->closing = true;
        pthread_cond_signal(&s->wanted);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wanted);
    pthread_cond_destroy(&s->ended);
    td_free(s->copy);
    td_free(s->files);
    td_free(s->shares);
    td_free(s);
}

/* --- the ranks --- */

/* A checkpoint has ended; the last error says how, where it failed. */
static void ended(td_saver *s, td_status status)
{
    s->fate = status;
    s->failed = status == TD_OK ? 0 : s->failed + 1;
    if (status == TD_OK) {
        s->sealed++;
        return;
    }
    snprintf(s->why, SENTENCE, "%s", td_last_error());
    if (s->rank != 0 || td_clock_ns() - s->warned_at < quiet_ns) return;
    char times[64] = "";
    if (s->failed > 1)
        snprintf(times, sizeof times, " (nor had %llu before it)",
                 (unsigned long long)s->failed - 1);
    td_warn("%s; step %llu has no checkpoint%s, the run goes on", s->why,
            (unsigned long long)s->state.step, times);
    s->warned_at = td_clock_ns();
}

/* Rank 0: takes note of a checkpoint that has got its name, or not. */
static void note_seal(td_saver *s, bool wait)
{
    if (!s->sealing || (!wait && is_busy(s))) return;
    s->sealing = false;
    ended(s, wait_for_it(s));
}

/* All ranks' parts are there, or have failed. Collective. */
static td_status settle(td_saver *s)
{
    td_status status = wait_for_it(s);
    s->under_way = false;
    for (int r = 0; r < s->size; r++) {
        uint64_t files = s->layout.files, size = (uint64_t)s->size;
        s->shares[r] = (td_cut(files, size, (uint64_t)r + 1) - td_cut(files, size, (uint64_t)r)) *
                       sizeof *s->files;
    }
    bool failed = status != TD_OK, some = false;
    TD_TRY(td_comm_allreduce(s->comm, &failed, &some, 1, TD_U8, TD_MAX));
    if (some) {
        status = td_comm_agree(s->comm, status);
        bool ends = status == TD_ERR_DIVERGED || status == TD_ERR_PEER || status == TD_ERR_TIMEOUT;
        if (!ends) ended(s, status);
        if (s->rank == 0) drop(s);
        return ends ? status : TD_OK;
    }
    TD_TRY(td_comm_gatherv(s->comm, s->files, s->shares, s->files, 0));
    s->fate = TD_OK;
    s->sealing = s->rank == 0;
    if (s->sealing) start(s, SEAL);
    return TD_OK;
}

bool td_saver_writing(td_saver *s)
{
    return s->under_way && is_busy(s);
}

td_status td_saver_begin(td_saver *s, const td_train_state *state)
{
    if (s->under_way) TD_TRY(settle(s));
    note_seal(s, true);
    share(s, state->has_best ? s->best : NULL);
    td_status status = td_layout_copy(&s->layout, s->comm, td_layout_cut(&s->layout, s->first),
                                      td_layout_cut(&s->layout, s->last), s->copy);
    s->state = *state;
    if (status == TD_ERR_NOMEM) { /* at all ranks */
        ended(s, status);
        return TD_OK;
    }
    TD_TRY(status);
    s->under_way = s->any = true;
    start(s, WRITE_PART);
    return TD_OK;
}

td_status td_saver_step(td_saver *s, bool writing)
{
    if (s->under_way && !writing) TD_TRY(settle(s));
    note_seal(s, false);
    return TD_OK;
}

td_status td_saver_finish(td_saver *s)
{
    if (s->under_way) TD_TRY(settle(s));
    note_seal(s, true);
    if (!s->any) return TD_OK;
    return td_comm_agree(s->comm, s->fate == TD_OK ? TD_OK : td_fail_again(s->fate, s->why));
}

uint64_t td_saver_count(const td_saver *s)
{
    return s->sealed;
}
