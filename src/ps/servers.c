/* See servers.h. */
#include "ps/servers.h"

#include "base/error.h"

#include <string.h>

static bool is_server(const td_comm *comm, const td_servers *s)
{
    for (int k = 0; s->rank && k < s->count; k++)
        if (s->rank[k] == td_comm_rank(comm)) return true;
    return !s->rank;
}

/* What decides a row, to be compared. */
static td_status same_everywhere(td_comm *comm, const td_servers *servers, const td_table_config *t)
{
    td_table_config own = *t;
    char rule[16] = "sgd";
    if (t->rule) strncpy(rule, t->rule, sizeof rule - 1);
    struct said {
        td_table_config table;
        char rule[16];
        int servers;
        uint64_t ranks; /* a hash of theirs */
    } mine, first;
    memset(&mine, 0, sizeof mine);
    mine.servers = servers->rank ? servers->count : 0;
    for (int k = 0; k < mine.servers; k++)
        mine.ranks = (mine.ranks ^ (uint64_t)servers->rank[k]) * 0xff51afd7ed558ccd + 1;
    own.rule = NULL;
    memcpy(&mine.table, &own, sizeof own);
    memcpy(mine.rule, rule, sizeof rule);
    first = mine;
    TD_TRY(td_comm_broadcast(comm, &first, sizeof first, 0));
    const td_table_config *f = &first.table;
    bool same = first.servers == mine.servers && first.ranks == mine.ranks &&
                f->width == own.width && !strcmp(first.rule, rule) && f->lr == own.lr &&
                f->momentum == own.momentum && f->beta1 == own.beta1 && f->beta2 == own.beta2 &&
                f->epsilon == own.epsilon && f->weight_decay == own.weight_decay &&
                f->l1 == own.l1 && f->l2 == own.l2 && f->beta == own.beta && f->init == own.init &&
                f->scale == own.scale && f->seed == own.seed && f->number == own.number &&
                f->admit == own.admit;
    return td_comm_agree(comm, same ? TD_OK
                                    : td_fail(TD_ERR_ARG,
                                              "rank %d describes another table, or other servers, "
                                              "than rank 0",
                                              td_comm_rank(comm)));
}

td_status td_servers_create_table(td_comm *comm, const td_servers *servers,
                                  const td_table_config *config, td_table **out)
{
    *out = NULL;
    TD_TRY(same_everywhere(comm, servers, config));
    return td_comm_agree(comm, is_server(comm, servers) ? td_table_create(config, out) : TD_OK);
}
