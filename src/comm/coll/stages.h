/* A long operation over several hosts in blocks, each of which goes through the same stages:
 *
 *   stage     every rank brings its block into memory that its host shares
 *   scatter   when that is ready, channels send what other hosts need of it
 *   sum       when the messages from there have come, channels work on them
 *   finish    all messages of the block have gone and come
 *   copy      every rank takes the block out
 *
 * What is done in a stage is the pattern's (hierarchical.c, hierarchical_parts.c). Up to SLOTS
 * blocks are under way at once, so that memory and network work at the same time; each stage takes
 * the blocks in order, so that messages need no number. Ahead of the first block's messages go
 * headers (comm/header.h), to each peer. */
#ifndef TD_COMM_COLL_STAGES_H
#define TD_COMM_COLL_STAGES_H

#include "comm/coll/hosts.h"

typedef struct td_stages td_stages;

typedef struct td_stage_ops { /* NULL: nothing */
    void (*stage)(td_stages *j, size_t block);
    td_status (*receive)(td_stages *j, size_t block); /* sets `awaited` */
    bool (*ready)(const td_stages *j, size_t block);  /* to scatter */
    td_status (*scatter)(td_stages *j, size_t block);
    td_status (*sum)(td_stages *j, size_t block); /* the awaited messages are there */
    void (*copy)(td_stages *j, size_t block);
} td_stage_ops;

struct td_stages {
    td_hosts *h;
    td_comm *comm;
    const td_call *call;
    const td_stage_ops *does;
    const td_host_node *node;
    int nodes, channels;
    size_t width, most, blocks; /* bytes of an element; elements of a block; blocks */
    /* how many blocks this rank has brought so far: */
    size_t staged, scattered, summed, finished, copied;
    int used[TD_HOSTS_SLOTS];    /* requests begun */
    int awaited[TD_HOSTS_SLOTS]; /* the first so many are needed to sum */
    int done[TD_HOSTS_SLOTS];    /* the first so many are done */
};

/* Carries the operation through; h to width, most and blocks are filled in. */
TD_MUST_CHECK td_status td_stages_run(td_stages *j);

/* --- for the patterns --- */

typedef struct td_span {
    size_t lo, hi; /* elements of the block */
} td_span;

/* Where part k of `count` elements begins, on a line of its own. */
size_t td_stages_cut(const td_stages *j, size_t count, int parts, int k);
/* This rank's slice of [lo, hi) as a channel; empty for others. */
td_span td_stages_slice(const td_stages *j, size_t lo, size_t hi);
/* A message of `count` elements to the equal-numbered rank of that host, or from it. */
TD_MUST_CHECK td_status td_stages_start(td_stages *j, size_t block, bool sends, void *data,
                                        size_t count, int host, int tag);
/* With the first block: the header of the operation to that host, or from it. */
TD_MUST_CHECK td_status td_stages_hello(td_stages *j, size_t block, bool sends, int host);
/* The same with `bytes` of what lies behind the header to host `text`. */
TD_MUST_CHECK td_status td_stages_hello_with(td_stages *j, int host, int text, size_t bytes);
/* What lies behind the header from that host, and to it. */
static inline char *td_stages_came(const td_stages *j, int host)
{
    return j->h->hello[host] + TD_HELLO_BYTES;
}
static inline char *td_stages_goes(const td_stages *j, int host)
{
    return j->h->hello[j->h->count + host] + TD_HELLO_BYTES;
}
/* All ranks of the host have staged the block. */
bool td_stages_all_staged(const td_stages *j, size_t block);
/* That rank of the host runs the same operation; once it has staged the first block. */
TD_MUST_CHECK td_status td_stages_compare(const td_stages *j, int local);
/* All ranks of the host do; with the first block. */
TD_MUST_CHECK td_status td_stages_compare_all(const td_stages *j, size_t block);

#endif
