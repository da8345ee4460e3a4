/* What a transport gives: messages between two ranks, memory shared inside a host, and word of
 * failures. Everything else (collectives, deadlines, the tree sum) is written once above it. */
#ifndef TD_COMM_TRANSPORT_H
#define TD_COMM_TRANSPORT_H

#include "base/log.h"
#include "comm/bell.h"
#include "comm/header.h"
#include "tandem/comm.h"

struct td_call;
struct td_muster;
struct td_plan;
struct td_roster;

/* An operation under way; storage is the caller's and must not move until it is done. */
typedef struct td_request {
    struct td_request *next; /* for the transport's lists */
    void *data;
    size_t bytes;
    size_t got; /* a receive that is done: bytes that came */
    int peer, tag, self;
    int done;     /* atomic: 1 finished, 2 the lengths differ, 3 being copied */
    bool at_most; /* a receive: fewer bytes may come */
    void *native[2];
} td_request;

enum { TD_COMM_RANKS = 1024 }; /* the most of a run */

enum { TD_GROUP_WORDS = 16 }; /* of numbers for groups */

/* No function blocks, except split, muster and open. All are called by the rank's own thread. */
typedef struct td_transport_ops {
    const char *name;
    td_status (*isend)(td_comm *comm, td_request *request);
    td_status (*irecv)(td_comm *comm, td_request *request);
    /* Sets *done; may return TD_ERR_PEER. */
    td_status (*test)(td_comm *comm, td_request *request, bool *done);
    /* Withdraws an unfinished request, so that its memory may go. May wait for a copy under way;
     * where a message may yet arrive there, or be fetched from there by a rank that is late,
     * comm->adrift is set, and td_free keeps that memory (td_alloc_keep). */
    void (*cancel)(td_comm *comm, td_request *request);
    /* TD_ERR_PEER with a sentence when a rank of the group is known to have failed, or when `peer`
     * (-1: nobody in particular) has left. Called now and then by waits. */
    td_status (*check)(td_comm *comm, int peer);
    /* Tells all others of the run that this rank has failed with this thread's sentence. */
    void (*fail)(td_comm *comm, td_status status);
    /* Shows comm->card to that rank of the run, which shows its own if it waits (or has left). */
    void (*show)(td_comm *comm, int world);
    /* The newest card of that rank of the run; false: none. */
    bool (*card)(td_comm *comm, int world, td_card *out);
    /* From here on all cards of this rank show comm->card.gave_up; NULL: there are none. */
    void (*give_up)(td_comm *comm);
    /* Numbers that this rank has not given to a group yet, a bit each; NULL: none are needed. */
    void (*numbers)(td_comm *comm, uint64_t free[TD_GROUP_WORDS]);
    /* Gives one to a group that is to be, false: another thread has it by now; takes it back. */
    bool (*take)(td_comm *comm, int number);
    void (*give_back)(td_comm *comm, int number);
    /* Fills out->impl; rank, size and world are filled in already. members: who is in the new
     * group (ranks of `comm`, in their new order), NULL where color is negative. number: one that
     * the members have taken, -1: there is none. */
    td_status (*split)(td_comm *comm, int color, int key, const int *members, int number,
                       td_comm *out);
    /* What this rank's requests ring when they are done, NULL: they must be polled. */
    td_bell *(*bell)(td_comm *comm);
    td_status (*shared_create)(td_comm *comm, size_t bytes, td_region *out);
    /* Of a group adrift: messages may still find memory there. */
    void (*shared_destroy)(td_comm *comm, td_region *region);
    void (*close)(td_comm *comm); /* this rank leaves the group */
    /* Brings together the ranks that recover, or resize, and the spares: the same plan at all, but
     * for impl; ranks that are not in it, have left or died have none. Spares wait without
     * deadline. Revokes the generation. See comm/recover.h for the errors. NULL:
     * TD_ERR_UNSUPPORTED. */
    td_status (*muster)(td_comm *comm, const struct td_muster *mine, struct td_plan *plan);
    /* All ranks of this new group have met. */
    void (*formed)(td_comm *comm);
    /* TD_ERR_UNSUPPORTED where ranks that die end the run. */
    td_status (*can_recover)(td_comm *comm);
    td_status (*can_resize)(td_comm *comm); /* where it brings no ranks together; NULL: it does */
    void (*die)(td_comm *comm);             /* a process does not return from it */
    /* Lets others run while this rank waits, instead of time passing; NULL: time passes. */
    td_status (*pause)(td_comm *comm);
    /* Begins one of the system's own collectives, where it has one for the call, which `test` then
     * follows; reductions of whole numbers alone, as their order is the system's. NULL: none. */
    td_status (*own)(td_comm *comm, const struct td_call *call, td_request *request);
    /* What a rank has failed with that has told its sentence, TD_OK: none has. NULL: nobody asks.
     */
    td_status (*failure)(td_comm *comm);
    bool one_memory; /* ranks are threads: they may read each other's buffers */
} td_transport_ops;

struct td_comm {
    const td_transport_ops *ops;
    void *impl;
    int rank, size;
    int64_t deadline_ms;
    bool one_thread;     /* the transport is not to be called by two threads at once */
    int cores;           /* of this host, that its ranks may run on together */
    bool crowded;        /* more ranks than cores on this host: do not spin */
    bool beside;         /* its threads serve ranks that compute: leave them the cores */
    bool meets;          /* its ranks meet in memory of their host */
    int64_t yields_from; /* ns: its waits sleep before, see wait.c */
    int *host;           /* [size] */
    int *world;          /* [size] ranks in the whole run */
    int hosts;
    int local_rank, local_size; /* among the ranks of this host */
    uint64_t sequence;          /* collective operations begun */
    uint64_t bytes_sent;
    const char *operation;        /* under way, for messages */
    td_card card;                 /* what this rank does in the group */
    int within, step;             /* see td_comm_enter; 0: in no such operation */
    uint64_t history;             /* of the collectives so far, see header.h */
    struct td_greeting *greeting; /* of exchange.c, NULL before its first use */
    bool greets;                  /* a collective is under way whose messages show its header */
    bool adrift;  /* a message, or a rank that writes, could not be withdrawn: its memory stays */
    bool spoiled; /* a wait has failed: messages may be left that nobody takes */
    td_agreement agreed;                /* the newest on a failure; alike 0: none */
    uint64_t agreed_at;                 /* its number */
    void *verdicts;                     /* [size + 1] of agreements; NULL before the first */
    struct td_recorder *recorder;       /* of recorder.c, NULL: nothing is recorded */
    bool owns_recorder;                 /* else it is the parent group's */
    struct td_recorder_group *recorded; /* this group's place there, NULL: it has none */
    struct td_record *record;           /* of the operation under way or the last, or NULL */
    struct td_record *due;              /* of the one under way, to be written; NULL: it is */
    struct td_tuning *tuning;           /* of coll/tuning.c, NULL: the table's own sizes */
    int forced[TD_PATTERNS];            /* algorithm + 1 that serves a pattern, 0: by size */
    struct td_worker *worker;           /* of work.c, NULL before its first use */
    struct td_message *messages;        /* of message.c, that are started */
    struct td_hosts *over;              /* of coll/hosts.c, NULL before its first use */
    struct td_meet *meet;               /* of coll/meet.c, NULL before its first use */
    uint64_t generation;                /* recoveries and resizes that led to it */
    struct td_seat *seat;               /* the rank in the run, NULL: alone */
    bool owns_seat;
    struct td_reborn *reborn; /* of recover.c, NULL: made otherwise */
    td_comm *ends;            /* closed with it: the handle that ends MPI */
    bool the_runs;            /* not the user's to close */
    bool closed;              /* only rank, size and holders mean anything any more */
    int holders;              /* works that would use it */
};

/* closed.c. TD_ERR_ARG, for whoever calls `what`: the group is NULL, or was closed. */
TD_MUST_CHECK td_status td_comm_check_open(const td_comm *comm, const char *what);
/* TD_ERR_ARG, "WHAT: no THING", where a caller has given NULL. */
TD_MUST_CHECK td_status td_comm_check_given(const void *given, const char *what, const char *thing);
/* While somebody holds a group its handle stays, closed or not. By the group's own thread. */
void td_comm_hold(td_comm *comm);
void td_comm_let_go(td_comm *comm);
void td_comm_retire(td_comm *comm); /* closed, and all freed but the handle, which is given up */

/* The same at all ranks of the group; no other has it. */
uint64_t td_comm_group_number(uint64_t parent, uint64_t of, int color);

/* A group of the same ranks, in which those that are done wait for the others as long as these
 * live. Collective. */
TD_MUST_CHECK td_status td_comm_open_meeting(td_comm *comm, td_comm **out);
TD_MUST_CHECK td_status td_comm_check_config(const td_comm_config *config); /* NULL is fine */
int64_t td_comm_deadline(const td_comm_config *config);

/* Fills host, world, hosts, local_rank, local_size, cores, crowded from each rank's host number and
 * its rank in the run (NULL: the group is the run). */
TD_MUST_CHECK td_status td_comm_set_hosts(td_comm *comm, const int *host, const int *world);
/* Moves this thread to the core of its rank's place on the machine, and leaves it free again: a
 * thread begins on the core of the one that made it, a process where there was room just then, and
 * two that take turns on one core may do so for a long while. Where there are fewer cores than
 * ranks of the run, those of the group are dealt out over them, from another one on for each group;
 * but none where the thread may not run on all that these may, as others may run on others. */
void td_comm_spread_out(const td_comm *comm);
/* For tests: TANDEM_FAKE_HOSTS="0,0,1,1" puts ranks on pretended hosts. The last one repeats. */
void td_comm_fake_hosts(int *host, int size);

/* Waits until test(arg) sets *done, spinning briefly, then yielding, then sleeping (by `bell`,
 * where its ring announces every change that the test looks for; NULL: in short naps); ends in
 * TD_ERR_PEER or TD_ERR_TIMEOUT. `peer` is who is waited for, -1 when several. `blame` (or NULL)
 * names the rank that is missing when the deadline passes, -1: unknown. */
typedef td_status td_wait_test(void *arg, bool *done);
typedef int td_wait_blame(void *arg);
TD_MUST_CHECK td_status td_comm_wait(td_comm *comm, int peer, td_bell *bell, td_wait_test *test,
                                     td_wait_blame *blame, void *arg);

/* Until it is done; withdrawn on failure. */
TD_MUST_CHECK td_status td_comm_wait_request(td_comm *comm, td_request *request);

/* td_comm_run_mpi. *anothers: this rank was a spare when it heard that another had failed, whose
 * failure it returns. */
td_status td_comm_run_mpi_told(const td_comm_config *config, td_rank_fn *fn, void *arg,
                               bool *anothers);

/* What the rank has failed with that ended this one's wait; TD_OK: none has told. */
td_status td_comm_failure(td_comm *comm);
/* Whether another rank says within `ms` that it has failed, or is lost: td_last_error() then says
 * how. */
bool td_comm_hears_failure(td_comm *comm, int64_t ms);
/* TD_ERR_PEER where that is so now. doing: for the sentence; stays valid. */
td_status td_comm_hear(td_comm *comm, const char *doing);

/* Operations beside the patterns of tandem/comm.h. */
enum {
    TD_DOES_SEND = TD_PATTERNS,
    TD_DOES_RECV,
    TD_DOES_AGREE,
    TD_DOES_SPLIT,
    TD_DOES_SHARE,
    TD_DOES_TREESUM,
    TD_DOES_KEYED, /* opens a channel */
    TD_DOES_PUSH,
    TD_DOES_PULL,
    TD_DOES_PUSH_PULL,
    TD_DOES_SERVE, /* until nobody will ask any more */
    TD_DOES_RECOVER,
    TD_DOES_END
};
extern const char *const td_does_names[TD_DOES_END];
extern const char *const td_type_names[], *const td_op_names[]; /* by value, NULL at the end */

/* What an operation is, for messages and the recorder; type -1: bytes. */
typedef struct td_note {
    int does;
    size_t bytes;
    int type, op, root; /* -1: none; root: or peer */
    unsigned tag;       /* of a message */
} td_note;
/* Counts the operation that begins and makes it the one under way. What it returns (NULL: nothing
 * is recorded) goes to td_comm_end with the operation's status, which that passes on. */
struct td_record *td_comm_begin(td_comm *comm, const td_note *note);
td_status td_comm_end(struct td_record *record, td_status status);
/* The entry of a short collective is put off until this rank has shown the others what it gives,
 * and may have to wait: then writing it takes no time. At the latest ahead of a wait, and of the
 * end. */
void td_comm_write_due(td_comm *comm);
static inline void td_comm_record_due(td_comm *comm)
{
    if (comm->due) td_comm_write_due(comm);
}
/* From here on, operations that begin are parts of the one that has just begun: they get neither
 * numbers nor entries of their own, and sentences name the whole. Returns what td_comm_leave takes
 * to end that. */
int td_comm_enter(td_comm *comm, int does);
void td_comm_leave(td_comm *comm, int entered);

/* Exchanges inside collectives: both, or one of them (peer -1: none), at once. Under tags of
 * collectives the header of the operation goes along, and a rank that runs another is told. */
TD_MUST_CHECK td_status td_comm_exchange(td_comm *comm, const void *out, size_t out_bytes, int to,
                                         void *in, size_t in_bytes, int from, int tag);

/* A message ends at so many bytes: longer ones go in pieces, of which both sides know. */
#define TD_COMM_PIECE ((size_t)1 << 30)
/* Of a user's send or recv (`what`). */
TD_MUST_CHECK td_status td_comm_check_peer(const td_comm *comm, const void *data, size_t bytes,
                                           int peer, int tag, const char *what);
/* The headers of a collective whose messages are requests of its own: it sends one ahead to each
 * peer that it has messages for, receives one ahead from each that it awaits messages of, and
 * compares. A receive has room for what a peer sends that runs something else. `with` bytes of
 * payload, up to INLINE, may lie behind the header, in the same message. */
enum { TD_HELLO_BYTES = 56, TD_HELLO_INLINE = 32 << 10 };
enum { TD_HELLO_ROOM = TD_HELLO_BYTES + TD_HELLO_INLINE };
TD_MUST_CHECK td_status td_hello_send(td_comm *comm, td_request *request, int peer, char *text,
                                      size_t with);
TD_MUST_CHECK td_status td_hello_receive(td_comm *comm, td_request *request, int peer,
                                         char text[TD_HELLO_ROOM]);
TD_MUST_CHECK td_status td_hello_compare(td_comm *comm, const td_request *received);

/* Begins a collective whose messages show its header (comm->card.runs). */
TD_MUST_CHECK td_status td_greeting_begin(td_comm *comm);
/* What that rank of the group showed last, NULL: nothing. */
const td_header *td_greeting_last(const td_comm *comm, int rank);
void td_greeting_destroy(td_comm *comm);

/* Reserved tags lie above the users'. */
enum {
    TD_TAG_COLLECTIVE = 1000001,
    TD_TAG_TREESUM = 1000002,
    TD_TAG_SPLIT = 1000003,
    TD_TAG_SHARED = 1000004,
    TD_TAG_FAILED = 1000005,
    TD_TAG_BYE = 1000006,
    TD_TAG_NODES = 1000007,
    TD_TAG_RESULTS = 1000008,
    TD_TAG_LEAVE = 1000009,
    TD_TAG_SECOND_TREE = 1000010,
    TD_TAG_FORM = 1000011,
    TD_TAG_MUSTER = 1000012,
    TD_TAG_KEYED = 1000016, /* to 1000020, see keyed_impl.h */
    TD_TAG_RANGES = 1000128,
    TD_TAG_END = 1600000
};

/* --- the MPI module, loaded at run time --- */

enum { TD_MPI_ABI = 16, TD_HOST_NAME = 96, TD_HOST_CORES = 1024 };

/* What the module may use of the library (which it is not linked to). */
typedef struct td_mpi_services {
    td_status (*fail)(td_status status, const char *format, ...) TD_PRINTF(2, 3);
    void (*log)(td_log_level level, const char *format, ...) TD_PRINTF(2, 3);
    const char *(*last_error)(void);
    td_status (*exchange)(td_comm *comm, const void *out, size_t out_bytes, int to, void *in,
                          size_t in_bytes, int from, int tag);
    td_status (*plan)(const struct td_roster *roster, struct td_plan *plan);
    td_status (*judge)(td_comm *comm, int world, const td_card *card, bool waited_for);
    void (*adrift)(const void *at, size_t bytes); /* td_registered_adrift */
} td_mpi_services;

typedef struct td_mpi_host { /* what a rank tells of its machine */
    char name[TD_HOST_NAME];
    uint8_t cores[TD_HOST_CORES / 8]; /* a bit for each that it may run on; all 0: unknown */
} td_mpi_host;

typedef struct td_mpi_module {
    int abi; /* TD_MPI_ABI */
    const td_transport_ops *ops;
    bool has_ulfm;
    void (*version)(char text[256]);
    /* Initialises MPI; fills impl, rank, size; *hosts: [size], to free with `release`. The world's
     * close ends MPI; where a rank has failed, without waiting for ranks that may be gone. */
    td_status (*open)(const td_mpi_services *services, const td_comm_config *config, td_comm *world,
                      td_mpi_host **hosts);
    void (*release)(void *memory);
    /* The mpiexec of this MPI. */
    void (*launcher)(char path[512]);
    /* For a job of two ranks or more: loses the last and goes on without it; true at the others
     * when that worked. Ends no MPI. */
    bool (*lose_a_rank)(void);
} td_mpi_module;

TD_MUST_CHECK td_status td_mpi_load(const td_mpi_module **out);

#endif
