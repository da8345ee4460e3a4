/* Which ranks of a group serve a table. */
#ifndef TD_PS_SERVERS_H
#define TD_PS_SERVERS_H

#include "ps/table.h"
#include "tandem/comm.h"

/* The same at all ranks. */
typedef struct td_servers {
    const int *rank; /* [count] of the group, all different; NULL: all ranks */
    int count;       /* with `rank` */
} td_servers;

/* Collective: this rank's share of a table, *out NULL where it is no server. TD_ERR_ARG at all
 * ranks: they describe different tables, or it is none that could be. */
TD_MUST_CHECK td_status td_servers_create_table(td_comm *comm, const td_servers *servers,
                                                const td_table_config *config, td_table **out);

#endif
