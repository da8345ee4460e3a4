/* Workers made slow for tests, by TANDEM_FAKE_SLOW="RANK:HOW[,...]": "2:200" lets rank 2 of the
 * group sleep 200 ms whenever it has computed a part of a batch, "2:5l" 5 ms for each of its
 * leaves, "2:x3" twice the time that it took, as if its processor were three times as slow. */
#ifndef TD_STRATEGY_SLOW_H
#define TD_STRATEGY_SLOW_H

#include <stdint.h>

typedef struct td_slow {
    double sleep_s, times;
} td_slow;

/* What the environment says of that rank, which has so many leaves. */
td_slow td_slow_read(int rank, int leaves);
/* Sleeps as asked after `ns` of computing. */
void td_slow_down(const td_slow *slow, int64_t ns);

#endif
