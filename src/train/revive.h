/* What the ranks of a new group tell and hand each other so that a run goes on: which step is the
 * newest that is complete, what has happened, and the state of that step.
 *
 * A rank's state changes as a whole when a step is made, without speaking to others; so ranks of a
 * group are at step s or s + 1, and every rank that is at the newest has all of it. The lowest of
 * those is the *donor*. Who is behind, and who comes without any state, gets everything from it, by
 * one broadcast an array among those alone. Who has a state of its own, though an older one, keeps
 * it until the newer is whole: should the donor be lost on the way, the others go on from there.
 *
 * Cost: an all-gather of 8 bytes and a broadcast of one struct; where somebody needs state, a split
 * and the broadcasts. */
#ifndef TD_TRAIN_REVIVE_H
#define TD_TRAIN_REVIVE_H

#include "tandem/recover.h"

enum { TD_NEWS_RANKS = 16 };

/* Since the last time that it was told: ranks of the run, the first TD_NEWS_RANKS of `count`. */
typedef struct td_news_list {
    int count, rank[TD_NEWS_RANKS];
} td_news_list;

typedef struct td_news {
    int64_t step; /* to go on from; -1: no rank has any */
    int donor, needy;
    td_news_list died, came;
    int size_before;  /* of the group before all that */
    double seconds;   /* since the donor noticed */
    bool was_resized; /* nobody was lost: another number of ranks was asked for */
} td_news;

/* Adds what a recovery reports to what has not been told yet. */
void td_news_add(td_news *news, const td_recovery *report);

/* Collective in the new group. `step` is what this rank's state is of, -1: it has none. What has
 * happened is the donor's to tell: *news in and out. */
TD_MUST_CHECK td_status td_news_agree(td_comm *comm, int64_t step, td_news *news);

typedef struct td_span {
    void *data;
    size_t bytes;
} td_span;

/* Brings spans, of the same sizes at all ranks, from the donor to those who need them; collective.
 * `step` as above: a rank that has a state keeps it if this fails (TD_ERR_NOMEM where there is no
 * memory for both), one that has none has filled some of its spans. */
TD_MUST_CHECK td_status td_news_fetch(td_comm *comm, const td_news *news, int64_t step,
                                      const td_span *spans, int count);

/* "rank 2 (host b) died at step 812; rank 4, a spare, took its place; went on at step 812 after
 * 0.12 s", and the event's members. recorder: the run's folder of records, which name hosts. */
void td_news_sentence(const td_news *news, int size, const char *what, const char *recorder,
                      char *text, size_t room);
void td_news_fields(const td_news *news, uint64_t generation, int workers, char *text, size_t room);

#endif
