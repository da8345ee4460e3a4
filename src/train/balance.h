/* Which ranks are slow, in what, and how many leaves each should have.
 *
 * A rank's pace is the time that it takes *up to* the collective that ends a step: there a slow
 * rank shows, while inside the collective it is the others that wait. All functions are pure, so
 * that ranks which know the same paces come to the same answer. */
#ifndef TD_TRAIN_BALANCE_H
#define TD_TRAIN_BALANCE_H

#include <stdbool.h>

enum {
    TD_PHASE_INPUT,
    TD_PHASE_COMPUTE,
    TD_PHASE_UPDATE,
    TD_PHASE_CHECKPOINT,
    TD_PHASE_OTHER,
    TD_PHASES
};
extern const char *const td_phase_names[TD_PHASES];

typedef struct td_pace {
    double seconds[TD_PHASES]; /* a step, of each phase */
} td_pace;

double td_pace_total(const td_pace *pace);

/* scores[r]: median of all ranks' totals / rank r's; below 1: slower than most. The median of an
 * even number of ranks is the faster of the two in the middle: of two ranks the faster has score 1,
 * the other what it is as fast as that. */
void td_balance_scores(const td_pace *paces, int ranks, double *scores);

/* The phase in which that rank is furthest behind the median of the ranks, in seconds. */
int td_balance_phase(const td_pace *paces, int ranks, int rank, double *behind);

/* What a step costs a rank: so much for each leaf, and so much whatever leaves it has. */
typedef struct td_cost {
    double leaf, fixed; /* seconds */
} td_cost;

/* The median of each part over n costs (1 <= n <= TD_COSTS_MOST): what the odd one of them says,
 * when the machine did something else, does not count. */
enum { TD_COSTS_MOST = 16 };
td_cost td_balance_usual(const td_cost *costs, int n);
/* Of a step with that many leaves (1 at least): input and compute grow with them. */
td_cost td_balance_cost(const td_pace *pace, int leaves);

/* Deals leaves so that the slowest rank is done soonest; each rank gets one at least (so ranks <=
 * leaves). costs: [ranks]; now: [ranks + 1] where the ranks' leaves begin; bounds: [ranks + 1]
 * where they should. False: as they are, or nearly (less than a tenth would be won); bounds are
 * then those of now. */
bool td_balance_deal(const td_cost *costs, int ranks, const int *now, int *bounds);

#endif
