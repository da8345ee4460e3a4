/* tandem inspect: a model's tensors with their sizes and norms, and the run's curve as text. */
#include "cli/cli.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "ckpt/bundle.h"
#include "models/net/net_model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MOST_POINTS = 4096, WIDTH = 60, HEIGHT = 12 };

static void print_slots(const td_net_model *m, bool json)
{
    size_t n, total = 0;
    const td_slot *slots = td_net_model_slots(m, &n);
    if (!json) printf("%-24s %-18s %10s %12s\n", "tensor", "shape", "elements", "norm");
    for (size_t s = 0; s < n; s++) {
        char shape[64] = "", brackets[72];
        double squares = 0;
        for (int d = 0; d < slots[s].rank; d++) {
            size_t at = strlen(shape);
            snprintf(shape + at, sizeof shape - at, "%s%zu", d ? "," : "", slots[s].shape[d]);
        }
        snprintf(brackets, sizeof brackets, "[%s]", shape);
        for (size_t i = 0; i < slots[s].count; i++) {
            double v = m->params[slots[s].offset + i];
            squares += v * v;
        }
        total += slots[s].count;
        printf(json ? "{\"tensor\":\"%s\",\"shape\":[%s],\"elements\":%zu,\"norm\":%.6g}\n"
                    : "%-24s %-18s %10zu %12.6g\n",
               slots[s].name, json ? shape : brackets, slots[s].count, sqrt(squares));
    }
    if (m->sparse) {
        size_t rows = td_net_model_rows(m), width = td_net_model_width(m);
        total += rows * width;
        if (json)
            printf("{\"tensor\":\"weights\",\"shape\":[%zu,%zu],\"elements\":%zu}\n", rows, width,
                   rows * width);
        else
            printf("%-24s rows of keys: %zu of %zu\n", "weights", rows, width);
    }
    if (!json)
        printf("%zu parameters, %.2f MB\narchitecture: %s\n", total, (double)total * 4e-6,
               td_net_model_arch(m));
}

/* Seconds of a run's intervals, by what they went into. */
static const char *const parts[] = {"input", "forward", "backward",  "wait",
                                    "move",  "update",  "checkpoint"};
enum { PARTS = sizeof parts / sizeof *parts };
typedef struct spent {
    double all, part[PARTS];
} spent;

static void add_times(spent *s, const json_t *row)
{
    char name[32];
    s->all += json_number_value(json_object_get(row, "seconds"));
    for (int i = 0; i < PARTS; i++) {
        snprintf(name, sizeof name, "%s_s", parts[i]);
        s->part[i] += json_number_value(json_object_get(row, name));
    }
}

static void print_times(const spent *s)
{
    double rest = 100;
    if (s->all <= 0) return;
    printf("time: %.3g s;", s->all);
    for (int i = 0; i < PARTS; i++) {
        double share = 100 * s->part[i] / s->all;
        rest -= share;
        printf(" %s %.1f%%,", parts[i], share);
    }
    printf(" other %.1f%% (of rank 0)\n", rest > 0 ? rest : 0);
}

static void print_evaluation(const json_t *row)
{
    const json_t *accuracy = json_object_get(row, "accuracy");
    printf("step %-8lld %s loss %.4f", (long long)json_integer_value(json_object_get(row, "step")),
           json_string_value(json_object_get(row, "eval")),
           json_number_value(json_object_get(row, "loss")));
    if (json_is_number(accuracy)) printf(" accuracy %.4f", json_number_value(accuracy));
    putchar('\n');
}

/* Losses of the intervals in metrics.jsonl, in order, of long runs every second one, or every
 * fourth, ...; prints evaluations. */
static int read_losses(const char *run, double *loss, spent *times)
{
    char path[TD_PATH_MAX], *text;
    size_t size;
    int n = 0, every = 1, skipped = 0;
    if (td_path_join(path, run, "metrics.jsonl") != TD_OK || !td_path_exists(path) ||
        td_read_file(path, &text, &size) != TD_OK)
        return 0;
    for (char *line = text; line && *line;) {
        char *end = strchr(line, '\n');
        json_t *row = json_loadb(line, end ? (size_t)(end - line) : strlen(line), 0, NULL);
        if (row) add_times(times, row);
        bool evaluated = row && json_object_get(row, "eval");
        const json_t *value = json_object_get(row, "loss");
        if (evaluated) {
            print_evaluation(row);
        } else if (row && json_is_number(value) && ++skipped == every) {
            if (n == MOST_POINTS) {
                for (n = 0; n < MOST_POINTS / 2; n++) loss[n] = loss[2 * n];
                every *= 2;
            }
            loss[n++] = json_number_value(value);
            skipped = 0;
        }
        json_decref(row);
        line = end ? end + 1 : NULL;
    }
    td_free(text);
    return n;
}

static void draw(const double *loss, int n)
{
    double low = loss[0], high = loss[0];
    char cell[HEIGHT][WIDTH + 1];
    for (int i = 1; i < n; i++) low = fmin(low, loss[i]), high = fmax(high, loss[i]);
    memset(cell, ' ', sizeof cell);
    for (int x = 0; x < WIDTH; x++) {
        double v = loss[(long)x * (n - 1) / (WIDTH - 1)];
        int y = high > low ? (int)((high - v) / (high - low) * (HEIGHT - 1) + 0.5) : HEIGHT - 1;
        cell[y][x] = '*';
    }
    for (int y = 0; y < HEIGHT; y++) {
        cell[y][WIDTH] = 0;
        printf("%9.4f |%s\n", high - (high - low) * y / (HEIGHT - 1), cell[y]);
    }
    printf("          +%.*s training loss\n", WIDTH,
           "------------------------------------------------------------");
}

/* What a run's metrics tell. */
static td_status print_curve(const char *run)
{
    spent times = {0};
    double *loss = td_calloc(MOST_POINTS, sizeof *loss);
    if (!loss) return td_fail(TD_ERR_NOMEM, "no memory for a curve");
    int n = read_losses(run, loss, &times);
    if (n) draw(loss, n);
    print_times(&times);
    td_free(loss);
    return TD_OK;
}

/* A run that is under way, or was stopped, has a curve but no model yet. */
static td_status open_model(const char *run, td_net_model *model, bool *found)
{
    char path[TD_PATH_MAX], folder[TD_PATH_MAX];
    TD_TRY(td_path_join(path, run, "metrics.jsonl"));
    TD_TRY(td_path_join(folder, run, "model"));
    *found = td_bundle_exists(folder) || !td_path_exists(path);
    return *found ? td_net_model_open(run, model) : TD_OK;
}

td_status td_cmd_inspect(int argc, char **argv)
{
    td_job job;
    td_net_model model = {0};
    const char *run[1];
    td_status status;
    bool found = false;
    td_arguments arguments = {.where = TD_JOB_INSPECT, .rest = run, .rest_room = 1};
    TD_TRY(td_job_init(&job));
    TD_GOTO(td_options_parse(td_job_rows, &job, argc, argv, &arguments));
    if (!arguments.rest_count) run[0] = job.run;
    if (!run[0]) {
        status = td_fail(TD_ERR_ARG, "name the folder of a run: tandem inspect RUN");
        goto out;
    }
    TD_GOTO(open_model(run[0], &model, &found));
    if (found) print_slots(&model, job.json);
    if (!found && !job.json) puts("no model yet");
    if (!job.json) status = print_curve(run[0]);
out:
    td_net_model_close(&model);
    td_options_fini(td_job_rows, &job);
    return status;
}
