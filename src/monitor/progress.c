/* See progress.h. */
#include "monitor/progress.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "base/log.h"

#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

enum { HELD_MOST = 1 << 20 };

/* Lines that cannot be written, as on a full disk, are held and written with a later one: the file
 * never has a part of a line in its middle. */
typedef struct ledger {
    int fd;        /* -1: none */
    off_t written; /* whole lines */
    char *held;
    size_t bytes, room;
    uint64_t lost; /* lines beyond what is held */
    bool failing;  /* and the caller knows */
} ledger;

struct td_progress {
    ledger metrics;
    bool quiet, json, terminal, open_line;
    double since_line;
    char paces[8192]; /* of the line under way */
};

static td_status open_metrics(const char *path, ledger *m)
{
    m->fd = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666) : -1;
    if (path && (m->fd < 0 || (m->written = lseek(m->fd, 0, SEEK_END)) < 0))
        return td_fail_errno("cannot write %s", path);
    return TD_OK;
}

/* All that is held, or nothing. */
static td_status write_held(ledger *m)
{
    size_t at = 0;
    while (at < m->bytes) {
        ssize_t n = write(m->fd, m->held + at, m->bytes - at);
        if (n > 0) {
            at += (size_t)n;
            continue;
        }
        td_status status = td_fail_errno("cannot write metrics.jsonl");
        if (at && ftruncate(m->fd, m->written) != 0) m->written += (off_t)at; /* it is as it is */
        return status;
    }
    m->written += (off_t)at;
    m->bytes = 0;
    return TD_OK;
}

/* Tells the first of several failures. */
static td_status add_line(ledger *m, const char *line, const char *rest)
{
    size_t a = strlen(line), b = strlen(rest), needed = m->bytes + a + b + 1;
    if (needed > m->room && needed <= HELD_MOST) {
        char *grown = td_realloc(m->held, needed * 2 < 4096 ? 4096 : needed * 2);
        if (grown) m->held = grown, m->room = needed * 2 < 4096 ? 4096 : needed * 2;
    }
    if (needed <= m->room) {
        memcpy(m->held + m->bytes, line, a);
        memcpy(m->held + m->bytes + a, rest, b);
        m->held[needed - 1] = '\n';
        m->bytes = needed;
    } else {
        m->lost++;
    }
    td_status status = write_held(m);
    bool known = m->failing;
    m->failing = status != TD_OK;
    return known ? TD_OK : status;
}

static void close_metrics(ledger *m)
{
    if (m->fd < 0) return;
    if (write_held(m) != TD_OK) td_warn("%s: it lacks the last lines", td_last_error());
    if (m->lost)
        td_warn("metrics.jsonl lacks %llu lines of a time in which it could not be written",
                (unsigned long long)m->lost);
    close(m->fd);
    td_free(m->held);
}

td_status td_progress_create(const char *metrics, bool quiet, bool json, bool terminal,
                             td_progress **out)
{
    td_progress *p = td_calloc(1, sizeof *p);
    if (!p) return td_fail(TD_ERR_NOMEM, "no memory to show progress");
    p->quiet = quiet, p->json = json;
    p->terminal = !json && terminal && isatty(STDOUT_FILENO);
    p->since_line = 1e9;
    td_status status = open_metrics(metrics, &p->metrics);
    if (status == TD_OK)
        *out = p;
    else
        td_free(p);
    return status;
}

/* Keeps the lines of a run up to that step; returns their bytes, moved to the beginning. *cut:
 * where they first differ from the text. */
static size_t keep_lines(char *text, size_t bytes, uint64_t step, bool owes_evaluation, size_t *cut)
{
    size_t kept = 0;
    *cut = bytes;
    for (char *line = text, *end; (end = memchr(line, '\n', bytes - (size_t)(line - text)));
         line = end + 1) {
        unsigned long long at;
        int event = 0;
        size_t length = (size_t)(end - line) + 1;
        *end = 0;
        bool keep = sscanf(line, "{\"step\":%llu,\"event\":%n", &at, &event) == 1 &&
                    (at <= step || event) &&
                    !(at == step && owes_evaluation && strstr(line, ",\"eval\":"));
        *end = '\n';
        if (!keep) continue;
        if (text + kept != line && *cut == bytes) *cut = kept;
        memmove(text + kept, line, length);
        kept += length;
    }
    if (*cut > kept) *cut = kept;
    return kept;
}

td_status td_progress_rewind(const char *metrics, uint64_t step, bool owes_evaluation)
{
    char *text = NULL;
    size_t size, cut;
    if (!td_path_exists(metrics)) return TD_OK;
    TD_TRY(td_read_file(metrics, &text, &size));
    size_t kept = keep_lines(text, size, step, owes_evaluation, &cut);
    td_status status = TD_OK;
    if (cut == kept && kept < size && truncate(metrics, (off_t)kept) != 0)
        status = td_fail_errno("cannot shorten %s", metrics); /* which a full disk allows */
    else if (cut < kept)
        status = td_write_file(metrics, text, kept);
    td_free(text);
    return status;
}

td_status td_progress_go_back(td_progress *p, const char *metrics, uint64_t step,
                              bool owes_evaluation)
{
    size_t cut;
    ledger *m = &p->metrics;
    if (m->fd < 0) return TD_OK;
    if (m->bytes) m->bytes = keep_lines(m->held, m->bytes, step, owes_evaluation, &cut);
    td_status status = td_progress_rewind(metrics, step, owes_evaluation);
    int fd = open(metrics, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666); /* perhaps another */
    off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (end < 0) {
        if (fd >= 0) close(fd);
        return status == TD_OK ? td_fail_errno("cannot write %s", metrics) : status;
    }
    close(m->fd);
    m->fd = fd, m->written = end;
    return status;
}

static void end_line(td_progress *p)
{
    if (p->open_line) fputc('\n', stdout);
    p->open_line = false;
}

void td_progress_destroy(td_progress *p)
{
    if (!p) return;
    end_line(p);
    fflush(stdout);
    close_metrics(&p->metrics);
    td_free(p);
}

/* JSON has no NaN: what is not finite becomes null, as does an accuracy without classes. */
static void number(char text[32], double v)
{
    if (isfinite(v))
        snprintf(text, 32, "%.9g", v);
    else
        snprintf(text, 32, "null");
}

/* A line made of two pieces. */
static td_status write_json(td_progress *p, const char *line, const char *rest)
{
    if (p->json && !p->quiet) {
        printf("%s%s\n", line, rest);
        fflush(stdout);
    }
    return p->metrics.fd < 0 ? TD_OK : add_line(&p->metrics, line, rest);
}

static void eta_text(char text[32], double s)
{
    if (s >= 3600)
        snprintf(text, 32, "%dh%02dm", (int)(s / 3600), (int)(s / 60) % 60);
    else
        snprintf(text, 32, "%d:%02d", (int)(s / 60), (int)s % 60);
}

static void show(td_progress *p, const td_interval *i)
{
    char eta[32], accuracy[32] = "";
    double share = i->seconds > 0 ? 100 * (i->wait + i->move) / i->seconds : 0;
    p->since_line += i->seconds;
    if (!p->terminal && p->since_line < 2 && i->step < i->steps) return;
    p->since_line = 0;
    eta_text(eta, i->eta);
    if (i->classes) snprintf(accuracy, sizeof accuracy, "  acc %.4f", i->accuracy);
    printf("%sepoch %llu/%llu  step %llu/%llu  loss %.4f%s  %.0f samples/s  comm %.0f%%  ETA %s%s",
           p->terminal ? "\r\033[K" : "", (unsigned long long)i->epoch,
           (unsigned long long)i->epochs, (unsigned long long)i->step, (unsigned long long)i->steps,
           i->loss, accuracy, i->seconds > 0 ? (double)i->samples / i->seconds : 0, share, eta,
           p->terminal ? "" : "\n");
    p->open_line = p->terminal;
    fflush(stdout);
}

/* The scores of all workers, and the end of the line. */
static const char *paces(td_progress *p, const td_interval *i)
{
    size_t at = 0;
    for (int r = 0; i->scores && r < i->workers && at + 16 < sizeof p->paces; r++)
        at += (size_t)snprintf(p->paces + at, sizeof p->paces - at, "%s%.3g", r ? "," : "",
                               i->scores[r]);
    snprintf(p->paces + at, sizeof p->paces - at, "]}");
    return p->paces;
}

td_status td_progress_interval(td_progress *p, const td_interval *i)
{
    char line[1024], loss[32], accuracy[32];
    number(loss, i->loss);
    number(accuracy, i->classes ? i->accuracy : NAN);
    snprintf(line, sizeof line,
             "{\"step\":%llu,\"epoch\":%llu,\"loss\":%s,\"accuracy\":%s,\"lr\":%.9g,"
             "\"samples\":%llu,\"seconds\":%.6g,\"samples_per_s\":%.6g,\"input_s\":%.6g,"
             "\"forward_s\":%.6g,\"backward_s\":%.6g,\"wait_s\":%.6g,\"move_s\":%.6g,"
             "\"update_s\":%.6g,\"checkpoint_s\":%.6g,\"bytes_sent\":%llu,\"workers\":%d,\"wait_"
             "least_s\":%.6g,"
             "\"wait_most_s\":%.6g,\"pace\":[",
             (unsigned long long)i->step, (unsigned long long)i->epoch, loss, accuracy, i->lr,
             (unsigned long long)i->samples, i->seconds,
             i->seconds > 0 ? (double)i->samples / i->seconds : 0, i->input, i->forward,
             i->backward, i->wait, i->move, i->update, i->checkpoint,
             (unsigned long long)i->bytes_sent, i->workers, i->fastest_wait, i->slowest_wait);
    if (!p->quiet && !p->json) show(p, i);
    return write_json(p, line, paces(p, i));
}

td_status td_progress_evaluation(td_progress *p, const td_evaluation *e)
{
    char line[300], loss[32], accuracy[32], auc[80] = "";
    number(loss, e->loss);
    number(accuracy, e->classes ? e->accuracy : NAN);
    if (!isnan(e->auc)) {
        int n = snprintf(auc, sizeof auc, ",\"auc\":%.6f", e->auc);
        if (isfinite(e->calibration))
            snprintf(auc + n, sizeof auc - (size_t)n, ",\"calibration\":%.6f", e->calibration);
    }
    snprintf(line, sizeof line,
             "{\"step\":%llu,\"epoch\":%llu,\"eval\":\"%s\",\"loss\":%s,"
             "\"accuracy\":%s%s}",
             (unsigned long long)e->step, (unsigned long long)e->epoch, e->on, loss, accuracy, auc);
    if (!isnan(e->auc)) snprintf(auc, sizeof auc, " auc %.4f", e->auc);
    if (!p->json && e->classes)
        td_progress_say(p, "epoch %llu: %s accuracy %.4f loss %.4f%s", (unsigned long long)e->epoch,
                        e->on, e->accuracy, e->loss, auc);
    else if (!p->json)
        td_progress_say(p, "epoch %llu: %s loss %.6g", (unsigned long long)e->epoch, e->on,
                        e->loss);
    return write_json(p, line, "");
}

td_status td_progress_event(td_progress *p, uint64_t step, const char *name, const char *fields)
{
    char line[128];
    snprintf(line, sizeof line, "{\"step\":%llu,\"event\":\"%s\",", (unsigned long long)step, name);
    char rest[4096];
    snprintf(rest, sizeof rest, "%s}", fields);
    return write_json(p, line, rest);
}

void td_progress_say(td_progress *p, const char *format, ...)
{
    if (p->quiet || p->json) return;
    end_line(p);
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    fputc('\n', stdout);
    fflush(stdout);
}
