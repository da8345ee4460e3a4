/* See rng.h. Known-answer vectors of Philox4x32-10 are checked in rng_test.c. */
#include "base/rng.h"

#include <math.h>

enum { ROUNDS = 10, FEISTEL_ROUNDS = 6 };

void td_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4])
{
    uint32_t k0 = key[0], k1 = key[1];
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c0 = n0, c1 = (uint32_t)p1, c2 = n2, c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* Two words that depend on every bit of seed and purpose. */
static void make_key(uint64_t seed, uint64_t purpose, uint32_t key[2])
{
    uint32_t base[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t counter[4] = {(uint32_t)purpose, (uint32_t)(purpose >> 32), 0x74616e64u, 0x656d0000u};
    uint32_t out[4];
    td_philox(base, counter, out);
    key[0] = out[0], key[1] = out[1];
}

void td_rng_init(td_rng *rng, uint64_t seed, td_rng_purpose purpose, uint64_t a, uint64_t b)
{
    make_key(seed, (uint64_t)purpose, rng->key);
    rng->counter[0] = 0;
    rng->counter[1] = (uint32_t)a;
    rng->counter[2] = (uint32_t)b;
    rng->counter[3] = (uint32_t)(b >> 32);
    rng->used = 4;
}

uint32_t td_rng_u32(td_rng *rng)
{
    if (rng->used == 4) {
        td_philox(rng->key, rng->counter, rng->block);
        rng->counter[0]++;
        rng->used = 0;
    }
    return rng->block[rng->used++];
}

uint64_t td_rng_u64(td_rng *rng)
{
    uint64_t high = td_rng_u32(rng);
    return high << 32 | td_rng_u32(rng);
}

float td_rng_unit(td_rng *rng)
{
    return (float)(td_rng_u32(rng) >> 8) * 0x1p-24f;
}

uint32_t td_rng_below(td_rng *rng, uint32_t bound)
{
    /* Lemire, "Fast random integer generation in an interval", 2019. */
    uint64_t product = (uint64_t)td_rng_u32(rng) * bound;
    if ((uint32_t)product < bound) {
        uint32_t least = -bound % bound;
        while ((uint32_t)product < least) product = (uint64_t)td_rng_u32(rng) * bound;
    }
    return (uint32_t)(product >> 32);
}

float td_rng_normal(td_rng *rng)
{
    double u = (td_rng_u32(rng) + 0.5) * 0x1p-32;
    double v = td_rng_u32(rng) * 0x1p-32;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

void td_permutation_init(td_permutation *p, uint64_t n, uint64_t seed, uint64_t a, uint64_t b)
{
    td_rng rng;
    td_rng_init(&rng, seed, TD_RNG_SHUFFLE, a, b);
    p->n = n;
    p->key[0] = td_rng_u32(&rng);
    p->key[1] = td_rng_u32(&rng);
    p->half_bits = 1;
    while (p->half_bits < 31 && (1ull << (2 * p->half_bits)) < n) p->half_bits++;
}

/* A 32-bit mixer (two multiply-xorshift steps) is the round function: speed matters here, the
 * quality of ten Philox rounds does not. */
static uint32_t mix(uint32_t x, uint32_t key)
{
    x ^= key;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    x ^= x >> 16;
    return x;
}

uint64_t td_permutation_at(const td_permutation *p, uint64_t position)
{
    uint32_t mask = (uint32_t)((1ull << p->half_bits) - 1);
    uint64_t x = position;
    do {
        uint32_t left = (uint32_t)(x >> p->half_bits) & mask, right = (uint32_t)x & mask;
        for (uint32_t round = 0; round < FEISTEL_ROUNDS; round++) {
            uint32_t key = p->key[round & 1] + round * 0x9E3779B9u;
            uint32_t next = left ^ (mix(right, key) & mask);
            left = right, right = next;
        }
        x = (uint64_t)left << p->half_bits | right;
    } while (x >= p->n);
    return x;
}
