/* Tandem: push and pull of keyed parts, what parameter servers ride on.
 *
 * Some ranks of a group are servers; each key belongs to one of them. Every rank, servers too, may
 * push parts to their servers and pull parts from them whenever it likes: only opening, finishing
 * and destroying are collective. What a push does and a pull gives is up to the servers' function.
 *
 * Requests of one rank to one server are served in the order in which they were started; requests
 * of different ranks in the order in which they arrive, one at a time. Source: Li et al., "Scaling
 * distributed machine learning with the parameter server", OSDI 2014, section 3.
 *
 * Where ranks are threads of one process, who asks calls the server's function itself, under the
 * server's lock, and no message is sent. Elsewhere a server serves from a thread of its own, also
 * while its rank computes; where cores are fewer than such threads, from within the waits of its
 * rank, too. Processes of one host put requests and answers into memory that they
 * share, where a request lies until it has been waited for. Between hosts a request costs, for each
 * other rank that owns keys of it, 2 messages there (values of more than 16 KiB: 3) and 1 back (2
 * with values); 8 bytes a key besides the values, 16 where parts differ in size. */
#ifndef TANDEM_KEYED_H
#define TANDEM_KEYED_H

#include "tandem/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct td_keyed td_keyed;

typedef enum td_keyed_does { TD_PUSH = 1, TD_PULL = 2, TD_PUSH_PULL = 3 } td_keyed_does;

enum { TD_KEYED_NOTE = 64 }; /* bytes that go along with a request, and with its answer */

/* What a server is asked: its keys of one request, in the order of the request. */
typedef struct td_keyed_request {
    int from; /* rank that asks */
    td_keyed_does does;
    const uint64_t *keys; /* [count] */
    size_t count;
    const size_t *sizes; /* [count] bytes of each part; NULL: all of the channel's width */
    const void *in; /* pushed parts, one behind the other; 64-byte aligned unless of a rank in this
                     * process */
    void *out;      /* room for pulled parts, laid out alike: to be filled; 0 after a failure */
    const uint32_t *places; /* NULL, or [count], of a request with td_parts.in_place: in and out are
                             * a longer row of parts, all of one width, and key i's is number
                             * places[i] there; the others are not to be touched */
    size_t bytes;           /* of either, 0 where it is not asked for */
    const void *note;       /* [TD_KEYED_NOTE] of the asker, 8-byte aligned */
    void *answer;           /* [TD_KEYED_NOTE] for the asker, zeroed */
    void *progress;         /* of td_keyed_wrote */
} td_keyed_request;

/* From within the function that serves: the first `bytes` of out are what they will be, so that who
 * asks may take them while the others are made (more than there are: all). Worth it for a quarter
 * of a MiB or more at a time.
 */
TD_API void td_keyed_wrote(const td_keyed_request *request, size_t bytes);

/* TD_OK, or a failure with its sentence, which the asker's wait then gives; the channel stays
 * usable. */
typedef td_status td_keyed_serve_fn(void *user, const td_keyed_request *request);
/* Whether the request can be served yet; asked again after others have been. */
typedef bool td_keyed_ready_fn(void *user, const td_keyed_request *request);
/* The server, 0..servers-1, that holds a key; the same at all ranks. */
typedef int td_keyed_owner_fn(void *user, uint64_t key, int servers);

/* The one of a channel that has no other. */
TD_API int td_keyed_owner(uint64_t key, int servers);

typedef struct td_keyed_config {
    const int *servers;       /* their ranks, all different; NULL: all ranks */
    int server_count;         /* with servers */
    size_t width;             /* bytes of a part where a request gives no sizes */
    td_keyed_owner_fn *owner; /* NULL: a hash of the key */
    td_keyed_serve_fn *serve; /* called by one thread at a time; needed at servers */
    td_keyed_ready_fn *ready; /* the same; NULL: requests are served as they come */
    void *user;               /* of the functions */
} td_keyed_config;

/* Collective. Borrows nothing but `user`. TD_ERR_ARG (also where ranks differ in servers, width or
 * whether they have an owner function), TD_ERR_NOMEM, TD_ERR_UNSUPPORTED (an MPI that only one
 * thread may call). */
TD_API TD_MUST_CHECK td_status td_keyed_open(td_comm *comm, const td_keyed_config *config,
                                             td_keyed **out);

/* Parts to be moved; parts lie one behind the other in the order of their keys. */
typedef struct td_parts {
    const uint64_t *keys; /* [count], in any order; read by the start only */
    size_t count;
    const size_t *sizes; /* [count] bytes of each; NULL: the channel's width; read by the start */
    const void *in;      /* to push */
    void *out;           /* to be filled by a pull */
    const int *owner;    /* [count] which server has each, instead of the channel's function */
    bool everywhere;     /* servers without any of the keys are asked, too, */
    int only;            /* or of those this one alone, number + 1; 0: all */
    bool in_place;       /* the servers' function looks at its request's places: parts that do not
                          * lie together may be left where they are (not where sizes are given) */
    const void *note;    /* [TD_KEYED_NOTE], read by the start; NULL: zeros */
    void *answers; /* [servers][TD_KEYED_NOTE] of those asked, by the wait; NULL: not wanted */
} td_parts;

/* Begins a request; *ticket (never 0) is its number. `in` may not change and `out` not be used
 * until it has been waited for. Values that lie together for a server, 16 KiB and more, from
 * a multiple of 64 bytes on in memory of td_comm_alloc (tandem/comm.h) are read and written there
 * by a server of this host, until the wait ends; where it fails behind a server that stays silent
 * for two seconds more, perhaps longer. In-place parts need not lie together for that: all of the
 * request's are so long, and begin so. At most 1 GiB of values to a server. TD_ERR_ARG,
 * TD_ERR_NOMEM. */
TD_API TD_MUST_CHECK td_status td_keyed_start(td_keyed *keyed, td_keyed_does does,
                                              const td_parts *parts, uint64_t *ticket);
/* Whether its wait would return at once. */
TD_API bool td_keyed_done(td_keyed *keyed, uint64_t ticket);
/* Until all its servers have answered; 0: all requests under way. What a server's function failed
 * with; TD_ERR_PEER, TD_ERR_TIMEOUT: the channel is then fit only to be destroyed. */
TD_API TD_MUST_CHECK td_status td_keyed_wait(td_keyed *keyed, uint64_t ticket);

/* A request that is started time and again (persistent). Keys, sizes, servers and the note are
 * copied, and each key's server is looked up, once; values (whose contents may change between) and
 * answers stay the caller's, and each start has a ticket. Before the channel is destroyed, or
 * behind it, where it can be destroyed only. TD_ERR_ARG, TD_ERR_NOMEM. */
typedef struct td_keyed_plan td_keyed_plan;
TD_API TD_MUST_CHECK td_status td_keyed_plan_create(td_keyed *keyed, td_keyed_does does,
                                                    const td_parts *parts, td_keyed_plan **out);
TD_API TD_MUST_CHECK td_status td_keyed_plan_start(td_keyed_plan *plan, uint64_t *ticket);
/* Requests under way go on. NULL is fine. */
TD_API void td_keyed_plan_destroy(td_keyed_plan *plan);

/* start and wait. */
TD_API TD_MUST_CHECK td_status td_keyed_push(td_keyed *keyed, const td_parts *parts);
TD_API TD_MUST_CHECK td_status td_keyed_pull(td_keyed *keyed, const td_parts *parts);

/* Waits for this rank's requests, and at servers until all ranks have called it. Nothing can be
 * started afterwards. What the service failed with. */
TD_API TD_MUST_CHECK td_status td_keyed_finish(td_keyed *keyed);
/* At once; requests under way are given up, and other ranks' too unless all have finished. Before
 * the group is closed. NULL is fine. */
TD_API void td_keyed_destroy(td_keyed *keyed);

#ifdef __cplusplus
}
#endif
#endif
