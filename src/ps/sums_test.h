/* What tests of tables over servers share: see comm/ranks_test.h. Gradients are whole numbers and
 * the rate is 1, so that weights are sums that do not depend on their order. */
#ifndef TD_PS_SUMS_TEST_H
#define TD_PS_SUMS_TEST_H

#include "ps/sharded.h"

#include "comm/ranks_test.h"

/* Rows of one weight, by all ranks. */
__attribute__((unused)) static td_status open_sums(td_comm *c, const char *clock, int replicas,
                                                   td_sharded **out)
{
    td_sharded_config config = {.table = {.width = 1, .lr = 1}, .servers = {.replicas = replicas}};
    TD_TRY(td_clock_parse(clock, &config.clock));
    return td_sharded_open(c, &config, out);
}

/* How many rows all servers have, each as often as it is there. Collective. */
__attribute__((unused)) static td_status count_rows(td_comm *c, td_sharded *s, uint64_t *out)
{
    td_table *mine = td_sharded_table(s);
    uint64_t rows = mine ? td_table_rows(mine) : 0;
    return td_comm_allreduce(c, &rows, out, 1, TD_I64, TD_SUM);
}

/* Collective; it is gone behind it. */
__attribute__((unused)) static td_status close_table(td_sharded *s)
{
    td_status status = td_sharded_finish(s);
    td_sharded_destroy(s);
    return status;
}

#endif
