/* Random numbers that are a function of what they are for, not of who asks or when.
 *
 * A stream is named by (seed, purpose, a, b): for dropout, say, the layer, the epoch and the
 * sample. The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011): a block cipher of a counter, so any number can be had in O(1), on any rank,
 * in any order, with the same bits. */
#ifndef TD_BASE_RNG_H
#define TD_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

typedef enum td_rng_purpose {
    TD_RNG_INIT = 1,    /* a: slot */
    TD_RNG_SHUFFLE = 2, /* a: epoch, b: leaf range */
    TD_RNG_DROPOUT = 3, /* a: layer and epoch, b: sample */
    TD_RNG_AUGMENT = 4, /* a: epoch, b: sample */
    TD_RNG_SPLIT = 5,   /* held-out choice */
    TD_RNG_TABLE = 6,   /* a: table, b: key */
    TD_RNG_SYNTH = 7,   /* a: field, b: category; or a: what, b: row */
    TD_RNG_TEST = 99
} td_rng_purpose;

/* One block of four 32-bit numbers. */
void td_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]);

/* A stream: key from seed and purpose, counter from a, b and the position in the stream. */
typedef struct td_rng {
    uint32_t key[2];
    uint32_t counter[4];
    uint32_t block[4];
    int used; /* of block */
} td_rng;

/* a is taken modulo 2^32; a stream holds 2^34 numbers before it wraps. */
void td_rng_init(td_rng *rng, uint64_t seed, td_rng_purpose purpose, uint64_t a, uint64_t b);
uint32_t td_rng_u32(td_rng *rng);
uint64_t td_rng_u64(td_rng *rng);
float td_rng_unit(td_rng *rng);                     /* uniform in [0, 1), 24 bits */
uint32_t td_rng_below(td_rng *rng, uint32_t bound); /* uniform in [0, bound), bound >= 1 */
float td_rng_normal(td_rng *rng);                   /* mean 0, variance 1 (Box-Muller) */

/* A permutation of 0..n-1 that can be asked for any position in O(1), with no memory: a Feistel
 * network over the next even power of two, walked until it lands below n (Black and Rogaway,
 * "Ciphers with arbitrary finite domains", 2002). */
typedef struct td_permutation {
    uint64_t n;
    uint32_t key[2];
    int half_bits;
} td_permutation;

void td_permutation_init(td_permutation *p, uint64_t n, uint64_t seed, uint64_t a, uint64_t b);
uint64_t td_permutation_at(const td_permutation *p, uint64_t position); /* position < n */

#endif
