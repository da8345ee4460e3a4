/* How far a worker's view may lag: the clocks of parameter servers, as pure functions.
 *
 * A worker's clock is the number of steps whose push its servers have. A pull of a worker at clock
 * c may be answered
 *
 *   bsp          when all workers have pushed c times (Valiant, "A bridging model for parallel
 *                computation", 1990)
 *   ssp:S        when the slowest has pushed c - S times (Ho et al., "More effective distributed ML
 *                via a stale synchronous parallel parameter server", NIPS 2013)
 *   asp          at once
 *   backup:K     when K workers have pushed c times: the others are not waited for, and what they
 *                push for a step that is over is dropped ("backup:K:apply": applied) (Chen et al.,
 *                "Revisiting distributed synchronous SGD", 2016)
 *   groups:G:S:L workers in G groups of about equal speed: when the slowest of the own group has
 *                pushed c - S times and the slowest of all c - L times (group-based SSP)
 */
#ifndef TD_PS_CLOCK_H
#define TD_PS_CLOCK_H

#include "tandem/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum td_clock_kind {
    TD_CLOCK_ASP, /* the default */
    TD_CLOCK_BSP,
    TD_CLOCK_SSP,
    TD_CLOCK_BACKUP,
    TD_CLOCK_GROUPS
} td_clock_kind;

typedef struct td_clock {
    td_clock_kind kind;
    uint64_t bound;   /* ssp; groups: inside a group */
    uint64_t between; /* groups: between them */
    int count;        /* backup: workers waited for; groups: how many */
    bool apply;       /* backup: late pushes */
} td_clock;

/* TD_ERR_ARG: no clock is written so. */
TD_MUST_CHECK td_status td_clock_parse(const char *text, td_clock *out);
enum { TD_CLOCK_TEXT = 64, TD_CLOCK_WORKERS = 1024 /* at most */ };
void td_clock_text(const td_clock *clock, char text[TD_CLOCK_TEXT]);
/* TD_ERR_ARG: it asks for more workers than there are. */
TD_MUST_CHECK td_status td_clock_check(const td_clock *clock, int workers);
/* Whether a worker may ask for the rows of its next step before it has pushed this one's. */
bool td_clock_may_run_ahead(const td_clock *clock);
/* Whether results are those of one worker to the bit. */
bool td_clock_is_exact(const td_clock *clock);

/* What a server knows of the workers, which are numbered from 0. */
typedef struct td_clocks {
    td_clock clock;
    int workers;
    uint64_t *pushed; /* [workers] */
    bool *gone;       /* [workers] waited for no more */
    int *group;       /* [workers] */
    double *pace;     /* [workers] smoothed seconds of a step, as they tell; 0: unknown */
    uint64_t turn;    /* pushes since workers were put into groups */
} td_clocks;

/* TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_clocks_init(td_clocks *clocks, const td_clock *clock, int workers);
void td_clocks_fini(td_clocks *clocks); /* zeroed is fine */

/* The number of steps that are over: no pull waits for them any more. */
uint64_t td_clocks_over(const td_clocks *clocks);
/* Pushes of the slowest that is not gone. */
uint64_t td_clocks_slowest(const td_clocks *clocks);
bool td_clocks_may_pull(const td_clocks *clocks, int worker, uint64_t clock);
/* Whether a push for step `clock` is to be applied. */
bool td_clocks_may_push(const td_clocks *clocks, uint64_t clock);
/* Worker has pushed step `clock` (from 0), which it was at for `seconds` without its waits (0:
 * unknown); a repetition changes nothing. */
void td_clocks_push(td_clocks *clocks, int worker, uint64_t clock, double seconds);
/* Pushes so far of all workers but this one. */
uint64_t td_clocks_others(const td_clocks *clocks, int worker);
/* What is answered to a worker that pulls at its clock: how many steps of others may be missing. */
uint64_t td_clocks_staleness(const td_clocks *clocks, uint64_t clock);

/* Groups by pace: cuts where neighbours differ most, so that each has one worker at least. pace:
 * [workers]; group: [workers], 0 for the fastest. */
void td_clock_group(const double *pace, int workers, int groups, int *group);

/* How stale reads were: bin k counts those of k clocks, the last all beyond. */
enum { TD_STALENESS_BINS = 33 };
typedef struct td_staleness {
    uint64_t reads[TD_STALENESS_BINS];
} td_staleness;
static inline void td_staleness_add(td_staleness *s, uint64_t clocks, uint64_t reads)
{
    s->reads[clocks < TD_STALENESS_BINS - 1 ? clocks : TD_STALENESS_BINS - 1] += reads;
}
double td_staleness_mean(const td_staleness *s);

#endif
