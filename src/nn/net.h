/* A network's forward and backward pass over the leaves of one lane (thread).
 *
 * Memory: a td_net is shared and read-only after creation; each lane has a td_net_lane that holds
 * its activations, gradients and scratch, all allocated at creation. A pass allocates nothing. */
#ifndef TD_NN_NET_H
#define TD_NN_NET_H

#include "tandem/net.h"

typedef struct td_net_lane td_net_lane;

/* Room for passes of up to max_rows rows; leaves of up to max_leaf_rows; with or without what the
 * backward pass needs. */
TD_MUST_CHECK td_status td_net_lane_create(const td_net *net, size_t max_rows, bool training,
                                           td_net_lane **out);
void td_net_lane_destroy(td_net_lane *lane);
size_t td_net_lane_bytes(const td_net_lane *lane);

/* Totals of one leaf, sums over its rows in order. */
enum { TD_LEAF_LOSS, TD_LEAF_WEIGHT, TD_LEAF_CORRECT, TD_LEAF_VALUES };

/* Called when the gradient of params[lo, hi) is complete in all nodes; ranges come from the end of
 * the array to its beginning. */
typedef void td_net_ready_fn(void *user, size_t lo, size_t hi);

typedef struct td_net_pass {
    const float *params;    /* [params] */
    size_t rows;            /* of this pass */
    const float *x;         /* [rows][features], images [channels][height][width] */
    const int32_t *label;   /* [rows], for losses that have classes; or */
    const float *target;    /* [rows] */
    const float *weight;    /* [rows] or NULL: 1 each */
    const uint64_t *sample; /* [rows], names each row's random stream */
    uint64_t seed, epoch;
    int leaves;
    const size_t *leaf_row; /* [leaves + 1] */
    const int *merges;      /* [leaves]: pairs of newest partial sums to add after each leaf */
    float *const *nodes;    /* gradient sums, one [params] array per node left over */
    double *leaf_values;    /* [leaves][TD_LEAF_VALUES] */
    float *score;           /* [rows] or NULL; evaluations of two classes: the second's logit above
                               the first's */
    td_net_ready_fn *ready; /* or NULL */
    void *user;
} td_net_pass;

/* Forward, loss, backward. Rows of no leaf make nothing. */
void td_net_gradient(const td_net *net, td_net_lane *lane, const td_net_pass *pass);

/* Forward without dropout and with running statistics; logits (out: [rows][outputs], borrowed from
 * the lane until its next pass) and, where leaf_values is given, loss totals per leaf. */
const float *td_net_evaluate(const td_net *net, td_net_lane *lane, const td_net_pass *pass);

/* Logits to probabilities (softmax, binary), rates (poisson), or as they are (squared, hinge). In
 * place. */
void td_net_probabilities(const td_net *net, size_t rows, float *logits);

/* Seconds in forward and backward since the lane was made. */
void td_net_lane_times(const td_net_lane *lane, double *forward, double *backward);

#endif
