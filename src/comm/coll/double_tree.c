/* Broadcast and all-reduce over two binary trees, each for half of the vector, in pieces that
 * follow one another. A rank that has children in one tree has none in the other (but for one rank
 * of an odd number), so that each sends and receives about the vector once, at the full rate of
 * both directions, in a number of steps that grows with log2 n alone.
 *
 * The first tree numbers its ranks 1..m in order: odd numbers are leaves, and the children of k lie
 * half of its lowest set bit to both sides. The second is its mirror image for even m, for odd m
 * the same with each rank one number on. A broadcast's trees are over all ranks but the root, which
 * gives to the tops of both.
 *
 * Cost: n - 1 messages of each piece for a broadcast, 2 (n - 1) for all-reduce; the first piece of
 * a broadcast has come to all after at most 3 log2 n + 2 steps. Order of the all-reduce: not the
 * tree of ranks, so for whole numbers alone. Source: Sanders, Speck, Traff, "Two-tree algorithms
 * for full bandwidth broadcast, reduction and scan", Parallel Computing 35, 2009. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"
#include "math/kernels.h"

enum { PIECE = 48 << 10, AHEAD = 8 };

/* Numbers of a node's neighbours, 0: none. */
typedef struct node {
    int parent, child[2];
} node;

static node node_of(int k, int m)
{
    int bit = k & -k, half = bit / 2;
    node n = {.parent = (k & ~bit) | 2 * bit};
    if (n.parent > m) n.parent = k & ~bit;
    if (half) n.child[0] = k - half;
    while (half && k + half > m) half /= 2;
    if (half) n.child[1] = k + half;
    return n;
}

static int place_in(int number, int m, int tree) /* the number that a rank has in the tree */
{
    if (tree == 0) return number;
    return m % 2 ? number % m + 1 : m + 1 - number;
}

static int number_at(int place, int m, int tree)
{
    if (tree == 0) return place;
    return m % 2 ? (place + m - 2) % m + 1 : m + 1 - place;
}

/* One of the trees as this rank sees it, and its half of the vector. */
typedef struct half {
    int parent, child[2]; /* ranks, -1: none */
    int tag;
    char *data;
    size_t bytes, piece;
    size_t pieces;
    td_request *down, (*out)[2]; /* [pieces] received and passed on */
    size_t posted;
    /* all-reduce: */
    td_request *up, (*in)[2]; /* [pieces] sent to the parent, received from the children */
    char *room[2];            /* [AHEAD][piece] of the children's */
    size_t posted_in;
} half;

static size_t bytes_of(const half *h, size_t piece)
{
    size_t rest = h->bytes - piece * h->piece;
    return rest < h->piece ? rest : h->piece;
}

static td_status post(td_comm *comm, bool sends, td_request *r, void *data, size_t bytes, int peer,
                      int tag)
{
    *r = (td_request){.data = data, .bytes = bytes, .peer = peer, .tag = tag};
    if (sends) comm->bytes_sent += bytes;
    return sends ? comm->ops->isend(comm, r) : comm->ops->irecv(comm, r);
}

static td_status make_half(const td_comm *comm, const td_call *call, int tree, half *h)
{
    size_t unit = call->pattern == TD_BROADCAST ? 1 : call->how.width;
    size_t middle = call->bytes / unit / 2 * unit;
    void *base = call->out ? call->out : (void *)(uintptr_t)call->in;
    if (call->pattern == TD_BROADCAST && comm->rank == call->root)
        base = (void *)(uintptr_t)call->in;
    h->data = (char *)base + (tree ? middle : 0);
    h->bytes = tree ? call->bytes - middle : middle;
    h->piece = PIECE / unit * unit;
    h->pieces = (h->bytes + h->piece - 1) / h->piece;
    h->tag = tree ? TD_TAG_SECOND_TREE : TD_TAG_NODES;
    h->down = td_calloc(h->pieces + 1, sizeof *h->down);
    h->out = td_calloc(h->pieces + 1, sizeof *h->out);
    if (!h->down || !h->out) return td_fail(TD_ERR_NOMEM, "no memory for two trees");
    return TD_OK;
}

static void free_half(td_comm *comm, half *h)
{
    for (size_t p = 0; h->down && h->out && p < h->pieces; p++) {
        td_request *all[] = {&h->down[p],
                             &h->out[p][0],
                             &h->out[p][1],
                             h->up ? &h->up[p] : NULL,
                             h->in ? &h->in[p][0] : NULL,
                             h->in ? &h->in[p][1] : NULL};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            if (all[k] && all[k]->tag && __atomic_load_n(&all[k]->done, __ATOMIC_ACQUIRE) != 1)
                comm->ops->cancel(comm, all[k]);
    }
    td_free(h->down), td_free(h->out), td_free(h->up), td_free(h->in);
    td_free(h->room[0]), td_free(h->room[1]);
}

/* Whether the piece's place may be written: what was sent up from there has gone. */
static td_status is_free(td_comm *comm, half *h, size_t piece, bool *yes)
{
    *yes = !h->up;
    return h->up && h->up[piece].tag ? comm->ops->test(comm, &h->up[piece], yes) : TD_OK;
}

/* A piece comes from the parent, if there is one, and goes on to the children. */
static td_status pass_down(td_comm *comm, half *h, size_t p)
{
    bool may = true;
    if (h->parent >= 0 && h->up) TD_TRY(td_comm_wait_request(comm, &h->up[p]));
    for (; h->parent >= 0 && h->posted < h->pieces && h->posted <= p + AHEAD; h->posted++) {
        TD_TRY(is_free(comm, h, h->posted, &may));
        if (!may) break;
        TD_TRY(post(comm, false, &h->down[h->posted], h->data + h->posted * h->piece,
                    bytes_of(h, h->posted), h->parent, h->tag));
    }
    if (h->parent >= 0) TD_TRY(td_comm_wait_request(comm, &h->down[p]));
    for (int c = 0; c < 2; c++)
        if (h->child[c] >= 0)
            TD_TRY(post(comm, true, &h->out[p][c], h->data + p * h->piece, bytes_of(h, p),
                        h->child[c], h->tag));
    return TD_OK;
}

static td_status await_sends(td_comm *comm, half *h)
{
    for (size_t p = 0; p < h->pieces; p++) {
        for (int c = 0; c < 2; c++)
            if (h->out[p][c].tag) TD_TRY(td_comm_wait_request(comm, &h->out[p][c]));
        if (h->up && h->up[p].tag) TD_TRY(td_comm_wait_request(comm, &h->up[p]));
    }
    return TD_OK;
}

/* --- headers, ahead of all else --- */

enum { NEIGHBOURS = 6 };

typedef struct greeting {
    td_request in[NEIGHBOURS], out[NEIGHBOURS];
    int from[NEIGHBOURS], to[NEIGHBOURS], ins, outs;
    char text[NEIGHBOURS][TD_HELLO_ROOM], own[TD_HELLO_BYTES];
} greeting;

static void add(int *list, int *n, int rank)
{
    for (int k = 0; k < *n; k++)
        if (list[k] == rank) return;
    if (rank >= 0) list[(*n)++] = rank;
}

static td_status exchange_headers(td_comm *comm, greeting *g, const half *halves)
{
    for (int t = 0; t < 2; t++) {
        add(g->from, &g->ins, halves[t].parent);
        if (halves[t].up) add(g->to, &g->outs, halves[t].parent);
        for (int c = 0; c < 2; c++) {
            add(g->to, &g->outs, halves[t].child[c]);
            if (halves[t].up) add(g->from, &g->ins, halves[t].child[c]);
        }
    }
    for (int k = 0; k < g->ins; k++)
        TD_TRY(td_hello_receive(comm, &g->in[k], g->from[k], g->text[k]));
    for (int k = 0; k < g->outs; k++) TD_TRY(td_hello_send(comm, &g->out[k], g->to[k], g->own, 0));
    for (int k = 0; k < g->ins; k++) {
        TD_TRY(td_comm_wait_request(comm, &g->in[k]));
        TD_TRY(td_hello_compare(comm, &g->in[k]));
    }
    for (int k = 0; k < g->outs; k++) TD_TRY(td_comm_wait_request(comm, &g->out[k]));
    return TD_OK;
}

static td_status greet(td_comm *comm, const half *halves)
{
    if (!comm->greets) return TD_OK;
    greeting *g = td_calloc(1, sizeof *g);
    if (!g) return td_fail(TD_ERR_NOMEM, "no memory for two trees");
    td_status status = exchange_headers(comm, g, halves);
    for (int k = 0; k < NEIGHBOURS && status != TD_OK; k++) {
        td_request *both[] = {&g->in[k], &g->out[k]};
        for (int i = 0; i < 2; i++)
            if (both[i]->tag && __atomic_load_n(&both[i]->done, __ATOMIC_ACQUIRE) != 1)
                comm->ops->cancel(comm, both[i]);
    }
    td_free(g);
    return status;
}

/* --- broadcast --- */

static int rank_of(int number, int root, int n)
{
    return number < 0 ? -1 : (number + root) % n;
}

/* Ranks are numbered from the root, which is 0. */
static void place_broadcast(const td_comm *comm, int root, int tree, half *h)
{
    int n = comm->size, m = n - 1, me = (comm->rank - root + n) % n;
    h->parent = h->child[0] = h->child[1] = -1;
    if (me == 0) {
        int top = 1;
        while (2 * top <= m) top *= 2;
        h->child[0] = rank_of(number_at(top, m, tree), root, n);
        return;
    }
    node at = node_of(place_in(me, m, tree), m);
    h->parent = at.parent ? rank_of(number_at(at.parent, m, tree), root, n) : root;
    for (int c = 0; c < 2; c++)
        if (at.child[c]) h->child[c] = rank_of(number_at(at.child[c], m, tree), root, n);
}

td_status td_double_tree_broadcast(td_comm *comm, const td_call *call)
{
    half halves[2] = {{0}, {0}};
    td_status status = TD_OK;
    if (comm->size == 1) return TD_OK;
    for (int t = 0; t < 2; t++) {
        TD_GOTO(make_half(comm, call, t, &halves[t]));
        place_broadcast(comm, call->root, t, &halves[t]);
    }
    TD_GOTO(greet(comm, halves));
    for (size_t p = 0; p < halves[0].pieces || p < halves[1].pieces; p++)
        for (int t = 0; t < 2; t++)
            if (p < halves[t].pieces) TD_GOTO(pass_down(comm, &halves[t], p));
    for (int t = 0; t < 2; t++) TD_GOTO(await_sends(comm, &halves[t]));
out:
    for (int t = 0; t < 2; t++) free_half(comm, &halves[t]);
    return status;
}

/* --- all-reduce --- */

static td_status place_allreduce(const td_comm *comm, int tree, half *h)
{
    int n = comm->size;
    node at = node_of(place_in(comm->rank + 1, n, tree), n);
    h->parent = at.parent ? number_at(at.parent, n, tree) - 1 : -1;
    h->up = td_calloc(h->pieces + 1, sizeof *h->up);
    h->in = td_calloc(h->pieces + 1, sizeof *h->in);
    bool enough = h->up && h->in;
    for (int c = 0; c < 2; c++) {
        h->child[c] = at.child[c] ? number_at(at.child[c], n, tree) - 1 : -1;
        size_t rooms = h->pieces < AHEAD ? h->pieces : AHEAD;
        if (h->child[c] < 0) continue;
        h->room[c] = td_malloc(rooms * h->piece);
        enough = enough && h->room[c];
    }
    return enough ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for two trees");
}

/* A piece of the children's is added to this rank's and goes up. */
static td_status pass_up(td_comm *comm, const td_call *call, half *h, size_t p)
{
    for (; h->posted_in < h->pieces && h->posted_in < p + AHEAD; h->posted_in++)
        for (int c = 0; c < 2; c++)
            if (h->child[c] >= 0)
                TD_TRY(post(comm, false, &h->in[h->posted_in][c],
                            h->room[c] + h->posted_in % AHEAD * h->piece, bytes_of(h, h->posted_in),
                            h->child[c], h->tag));
    char *mine = h->data + p * h->piece;
    for (int c = 0; c < 2; c++) {
        if (h->child[c] < 0) continue;
        TD_TRY(td_comm_wait_request(comm, &h->in[p][c]));
        td_reduction_combine(&call->how, mine, h->room[c] + p % AHEAD * h->piece,
                             bytes_of(h, p) / call->how.width, mine);
    }
    if (h->parent < 0) return TD_OK;
    return post(comm, true, &h->up[p], mine, bytes_of(h, p), h->parent, h->tag);
}

td_status td_double_tree_allreduce(td_comm *comm, const td_call *call)
{
    half halves[2] = {{0}, {0}};
    td_status status = TD_OK;
    if (call->bytes && call->in != call->out)
        td_kernels_best()->copy(call->bytes, call->in, call->out);
    if (comm->size == 1) return TD_OK;
    for (int t = 0; t < 2; t++) {
        TD_GOTO(make_half(comm, call, t, &halves[t]));
        TD_GOTO(place_allreduce(comm, t, &halves[t]));
    }
    TD_GOTO(greet(comm, halves));
    size_t most = halves[0].pieces > halves[1].pieces ? halves[0].pieces : halves[1].pieces;
    for (size_t p = 0; p < most + AHEAD; p++) /* results follow some pieces behind */
        for (int t = 0; t < 2; t++) {
            half *h = &halves[t];
            if (p < h->pieces) TD_GOTO(pass_up(comm, call, h, p));
            if (p < AHEAD || p - AHEAD >= h->pieces) continue;
            TD_GOTO(pass_down(comm, h, p - AHEAD));
        }
    for (int t = 0; t < 2; t++) TD_GOTO(await_sends(comm, &halves[t]));
out:
    for (int t = 0; t < 2; t++) free_half(comm, &halves[t]);
    return status;
}
