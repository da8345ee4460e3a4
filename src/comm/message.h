/* A send or a recv under way beside its rank: what a td_work of that kind is made of. */
#ifndef TD_COMM_MESSAGE_H
#define TD_COMM_MESSAGE_H

#include "comm/transport.h"

typedef struct td_message td_message;

/* Borrows data; to destroy when it is not under way. */
TD_MUST_CHECK td_status td_message_create(td_comm *comm, bool sends, void *data, size_t bytes,
                                          int peer, int tag, td_message **out);
void td_message_destroy(td_message *message);         /* NULL is fine */
bool td_message_is_orphan(const td_message *message); /* its group was closed */
TD_MUST_CHECK td_status td_message_start(td_message *message);
bool td_message_under_way(const td_message *message); /* started, not waited for */
bool td_message_done(td_message *message);
TD_MUST_CHECK td_status td_message_wait(td_message *message); /* TD_OK for one never started */
const char *td_message_name(const td_message *message);       /* "send", "recv" */
/* Before the group goes: what is under way there is given up, and its memory may go. The wait for
 * such a message says that the group was closed. */
void td_messages_withdraw(td_comm *comm);

#endif
