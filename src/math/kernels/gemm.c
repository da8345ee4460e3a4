/* Matrix products, and the weight gradient of a dense layer.
 *
 * A register tile is MR rows by NR columns (NR = two vectors). The columns of b are copied into a
 * panel [k][NR] that stays in L1 while all rows of a pass over it; a is read where it lies, one
 * scalar at a time. Partial results wait in a panel of their own between blocks of k, which
 * continues each element's chain of fused multiply-adds exactly. The loop order follows Goto and
 * van de Geijn, "Anatomy of high-performance matrix multiplication", TOMS 2008. */
#include "math/kernels/table.h"

enum { KC = 400, MC = 264 };
enum { GM = MR / 2, GRAD_BLOCK = TD_DENSE_GRAD_BLOCK }; /* the gradient's tile: GM rows, twice */

/* acc[i][..] += a[i][p] * b[p][..] for p in 0..k-1; acc is [m][NR] in memory. */
TD_INLINE void tile(const int m, size_t k, const float *a, size_t a_row, size_t a_col,
                    const float *b, float *c)
{
    vf acc[MR][2];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        acc[i][0] = v_load(c + i * NR);
        acc[i][1] = v_load(c + i * NR + V_W);
    }
    const float *row[MR];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) row[i] = a + (size_t)i * a_row;
#pragma GCC unroll 4
    for (size_t p = 0; p < k; p++, b += NR) {
        vf b0 = v_load(b), b1 = v_load(b + V_W);
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            vf s = v_set1(row[i][p * a_col]);
            acc[i][0] = v_fma(s, b0, acc[i][0]);
            acc[i][1] = v_fma(s, b1, acc[i][1]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        v_store(c + i * NR, acc[i][0]);
        v_store(c + i * NR + V_W, acc[i][1]);
    }
}

static void tile_of(int m, size_t k, const float *a, size_t a_row, size_t a_col, const float *b,
                    float *c)
{
    switch (m) {
/* clang-format off */
#define CASE(M)                                                                                   \
    case M:                                                                                       \
        if (a_col == 1)                                                                           \
            tile(M, k, a, a_row, 1, b, c);                                                        \
        else                                                                                      \
            tile(M, k, a, a_row, a_col, b, c);                                                    \
        break;
        CASE(1) CASE(2) CASE(3) CASE(4)
#if defined(__AVX2__)
        CASE(5) CASE(6)
#endif
#if defined(__AVX512F__)
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
#undef CASE
        /* clang-format on */
    }
}

/* A row of at most NR floats, and zeros behind it; the C library's copy is slow at this size. */
TD_INLINE void copy_row(float *to, const float *from, size_t n)
{
    if (n == NR) {
        v_store(to, v_load(from));
        v_store(to + V_W, v_load(from + V_W));
    } else {
        for (size_t i = 0; i < n; i++) to[i] = from[i];
    }
}

#if defined(__AVX2__)
/* to[c][r] = from[r][c], 8 x 8. */
TD_INLINE void transpose_8x8(const float *from, size_t from_row, float *to, size_t to_row)
{
    __m256 r[8], t[8];
    for (size_t i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(from + i * from_row);
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int h = 0; h < 2; h++) {
        __m256 *u = t + 4 * h, *o = r + 4 * h;
        o[0] = _mm256_shuffle_ps(u[0], u[2], 0x44);
        o[1] = _mm256_shuffle_ps(u[0], u[2], 0xEE);
        o[2] = _mm256_shuffle_ps(u[1], u[3], 0x44);
        o[3] = _mm256_shuffle_ps(u[1], u[3], 0xEE);
    }
    for (size_t i = 0; i < 4; i++) {
        _mm256_storeu_ps(to + i * to_row, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(to + (i + 4) * to_row, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}
#endif

/* The panel [k][NR] of b's columns j..j+n-1, zeros behind them. */
static void pack_panel(const td_gemm *g, size_t p0, size_t k, size_t j, size_t n, float *panel)
{
    const float *b = g->b + p0 * g->b_row + j * g->b_col;
    if (n < NR) memset(panel, 0, k * NR * sizeof *panel);
    if (g->b_col == 1) {
        for (size_t p = 0; p < k; p++) copy_row(panel + p * NR, b + p * g->b_row, n);
        return;
    }
    size_t p = 0;
#if defined(__AVX2__)
    if (g->b_row == 1) /* columns are contiguous */
        for (; p + 8 <= k; p += 8) {
            size_t c = 0;
            for (; c + 8 <= n; c += 8)
                transpose_8x8(b + p + c * g->b_col, g->b_col, panel + p * NR + c, NR);
            for (; c < n; c++)
                for (size_t i = 0; i < 8; i++) panel[(p + i) * NR + c] = b[p + i + c * g->b_col];
        }
#endif
    for (; p < k; p++)
        for (size_t c = 0; c < n; c++) panel[p * NR + c] = b[p * g->b_row + c * g->b_col];
}

/* Writes acc [m][NR] to c. */
static void unload(const td_gemm *g, size_t i0, size_t m, size_t j, size_t n, float *acc)
{
    float *c = g->c + i0 * g->c_row + j * g->c_col;
    if (g->relu)
        for (size_t i = 0; i < m * NR; i += V_W)
            v_store(acc + i, v_max(v_set1(0), v_load(acc + i)));
    if (g->c_col == 1) {
        for (size_t i = 0; i < m; i++) copy_row(c + i * g->c_row, acc + i * NR, n);
        return;
    }
    size_t i = 0;
#if defined(__AVX2__)
    for (; g->c_row == 1 && n == NR && i + 8 <= m; i += 8)
        for (size_t q = 0; q < NR; q += 8)
            transpose_8x8(acc + i * NR + q, NR, c + i + q * g->c_col, g->c_col);
#endif
    for (size_t q = 0; q < n; q++)
        for (size_t r = i; r < m; r++) c[r * g->c_row + q * g->c_col] = acc[r * NR + q];
}

void TD_K(gemm)(const td_gemm *g)
{
    float panel[KC * NR] __attribute__((aligned(64)));
    float acc[MC * NR] __attribute__((aligned(64)));
    size_t blocks = (g->k + KC - 1) / KC;
    for (size_t i0 = 0; i0 < g->m; i0 += MC) {
        size_t mc = g->m - i0 < MC ? g->m - i0 : MC;
        size_t tiles = (mc + MR - 1) / MR;
        for (size_t j = 0; j < g->n; j += NR) {
            size_t n = g->n - j < NR ? g->n - j : NR;
            for (size_t i = 0; i < mc; i++)
                for (size_t q = 0; q < NR; q++)
                    acc[i * NR + q] = g->bias_row ? g->bias_row[i0 + i] : 0;
            for (size_t b = 0; b < blocks; b++) { /* of nearly equal depth */
                size_t p0 = b * g->k / blocks, kc = (b + 1) * g->k / blocks - p0;
                pack_panel(g, p0, kc, j, n, panel);
                const float *a = g->a + i0 * g->a_row + p0 * g->a_col;
                for (size_t t = 0; t < tiles; t++) { /* tiles of nearly equal height */
                    size_t begin = t * mc / tiles, end = (t + 1) * mc / tiles;
                    tile_of((int)(end - begin), kc, a + begin * g->a_row, g->a_row, g->a_col, panel,
                            acc + begin * NR);
                }
            }
            unload(g, i0, mc, j, n, acc);
        }
    }
}

/* --- dense_grad --- */

/* One row of a leaf: acc[i] becomes d[i] * x where `first`, else d[i] * x + acc[i]. To begin with a
 * product is a quarter faster than with zeros: the first row then waits for nothing. */
TD_INLINE void grad_row(const int m, bool first, const float *d, const float *x, vf acc[GM][2])
{
    vf x0 = v_load(x), x1 = v_load(x + V_W);
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        vf s = v_set1(d[i]);
        acc[i][0] = first ? v_mul(s, x0) : v_fma(s, x0, acc[i][0]);
        acc[i][1] = first ? v_mul(s, x1) : v_fma(s, x1, acc[i][1]);
    }
}

/* Where the sums of a leaf, or of two, go: one tile of the stack for each panel of x. */
typedef struct grad_step {
    size_t panels, x_panel; /* floats from panel to panel */
    size_t level;           /* floats from one sum of the stack to the next */
    int merges;             /* sums that are added: `to` is the lowest of them */
    float *to;
} grad_step;

/* Adds the stack's sums, from the top, and leaves the result on it. */
TD_INLINE void grad_store(const int m, const grad_step *s, float *to, vf acc[GM][2])
{
    for (const float *top = to + (size_t)s->merges * s->level; top != to;) {
        top -= s->level;
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            acc[i][0] = v_add(v_load(top + i * NR), acc[i][0]);
            acc[i][1] = v_add(v_load(top + i * NR + V_W), acc[i][1]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        v_store(to + i * NR, acc[i][0]);
        v_store(to + i * NR + V_W, acc[i][1]);
    }
}

/* Two leaves of `rows` rows each that are added next go side by side, so that only their sum
 * leaves the registers. `straight` is a constant: rows without a loop, whose end the processor
 * would guess wrong once a tile (a tenth of the time at 8 rows); 0: any number of rows. */
TD_INLINE void grad_pair(const int m, const grad_step *s, size_t rows, const size_t straight,
                         const float *dy, const float *x)
{
    const size_t next_d = rows * (size_t)m, next_x = rows * NR; /* to that of the other leaf */
    float *to = s->to;
    for (size_t j = s->panels; j-- > 0; x += s->x_panel, to += m * NR) {
        vf acc[GM][2], other[GM][2];
        const float *d = dy, *at = x, *end = x + next_x;
        grad_row(m, true, d, at, acc);
        grad_row(m, true, d + next_d, at + next_x, other);
#pragma GCC unroll 8
        for (size_t r = 1; r < straight; r++) {
            d += m, at += NR;
            grad_row(m, false, d, at, acc);
            grad_row(m, false, d + next_d, at + next_x, other);
            __asm__ volatile("" ::: "memory"); /* loads moved ahead would spill registers */
        }
#pragma GCC unroll 1
        for (d += m, at += NR; !straight && at != end; d += m, at += NR) {
            grad_row(m, false, d, at, acc);
            grad_row(m, false, d + next_d, at + next_x, other);
        }
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            acc[i][0] = v_add(acc[i][0], other[i][0]);
            acc[i][1] = v_add(acc[i][1], other[i][1]);
        }
        grad_store(m, s, to, acc);
    }
}

TD_INLINE void grad_single(const int m, const grad_step *s, size_t rows, const float *dy,
                           const float *x)
{
    float *to = s->to;
    for (size_t j = s->panels; j-- > 0; x += s->x_panel, to += m * NR) {
        vf acc[GM][2];
        if (rows == 0)
            for (int i = 0; i < m; i++) acc[i][0] = acc[i][1] = v_set1(0);
        else
            grad_row(m, true, dy, x, acc);
        for (size_t r = 1; r < rows; r++) grad_row(m, false, dy + r * (size_t)m, x + r * NR, acc);
        grad_store(m, s, to, acc);
    }
}

/* Tiles of the gradient, all leaves: m outputs by `panels` times NR inputs, panel by panel within
 * each step so that the steps' bookkeeping is shared. dy is packed [rows][m], x is
 * [panels][rows][NR], the stack [TD_DENSE_GRAD_DEPTH][panels][m][NR]. */
TD_INLINE void grad_tiles(const int m, const td_dense_grad *g, size_t panels, const float *dy,
                          const float *x, float *stack)
{
    const size_t *row = g->leaf_row;
    grad_step s = {.panels = panels,
                   .x_panel = row[g->leaves] * NR,
                   .level = panels * (size_t)m * NR};
    for (int leaf = 0, depth = 0, taken; leaf < g->leaves; leaf += taken) {
        size_t at = row[leaf], rows = row[leaf + 1] - at;
        bool pair = rows > 0 && g->merges[leaf] == 0 && leaf + 1 < g->leaves &&
                    g->merges[leaf + 1] > 0 && row[leaf + 2] - row[leaf + 1] == rows;
        taken = 1 + pair;
        s.merges = pair ? g->merges[leaf + 1] - 1 : g->merges[leaf];
        depth += 1 - s.merges;
        s.to = stack + (size_t)(depth - 1) * s.level;
        if (pair && rows == 8)
            grad_pair(m, &s, 8, 8, dy + at * (size_t)m, x + at * NR);
        else if (pair && rows == 4)
            grad_pair(m, &s, 4, 4, dy + at * (size_t)m, x + at * NR);
        else if (pair)
            grad_pair(m, &s, rows, 0, dy + at * (size_t)m, x + at * NR);
        else
            grad_single(m, &s, rows, dy + at * (size_t)m, x + at * NR);
    }
}

static void grad_tiles_of(int m, const td_dense_grad *g, size_t panels, const float *dy,
                          const float *x, float *stack)
{
    switch (m) {
/* clang-format off */
#define CASE(M)                                                                                   \
    case M: grad_tiles(M, g, panels, dy, x, stack); break;
        CASE(1) CASE(2)
#if defined(__AVX2__)
        CASE(3)
#endif
#if defined(__AVX512F__)
        CASE(4) CASE(5) CASE(6)
#endif
#undef CASE
        /* clang-format on */
    }
}

static int nodes_left(const td_dense_grad *g)
{
    int depth = 0;
    for (int leaf = 0; leaf < g->leaves; leaf++) depth += 1 - g->merges[leaf];
    return depth;
}

/* Columns j.. of x as a panel [rows][NR], zeros behind them. */
static void pack_inputs(const td_dense_grad *g, size_t rows, size_t j, float *panel)
{
    size_t n = g->in - j < NR ? g->in - j : NR;
    if (n < NR) memset(panel, 0, rows * NR * sizeof *panel);
    for (size_t r = 0; r < rows; r++) copy_row(panel + r * NR, g->x + r * g->in + j, n);
}

/* Rows begin.. of dy's columns, turned: to is [rows][m] for the tile's m columns. */
static void pack_outputs(const td_dense_grad *g, size_t rows, size_t begin, size_t m, float *to)
{
    const float *from = g->dy + begin;
    if (m == GM) {
        for (size_t r = 0; r < rows; r++, from += g->out, to += GM)
            for (size_t o = 0; o < GM; o++) to[o] = from[o];
        return;
    }
    for (size_t r = 0; r < rows; r++, from += g->out)
        for (size_t o = 0; o < m; o++) *to++ = from[o];
}

/* The stack's sums of a tile to rows begin.. of the nodes, columns j0 to j0 + width. */
static void store_nodes(const td_dense_grad *g, size_t begin, size_t m, size_t j0, size_t width,
                        const float *stack)
{
    size_t panels = (width + NR - 1) / NR;
    for (int node = nodes_left(g), k = 0; k < node; k++, stack += panels * m * NR)
        for (size_t i = 0; i < m; i++) {
            float *to = g->nodes[k] + (begin + i) * g->in + j0;
            const float *from = stack + i * NR;
            size_t j = 0;
            for (; j + NR <= width; j += NR, from += m * NR) copy_row(to + j, from, NR);
            if (j < width) copy_row(to + j, from, width - j);
        }
}

void TD_K(dense_grad)(const td_dense_grad *g)
{
    float stack[TD_DENSE_GRAD_DEPTH * GM * GRAD_BLOCK] __attribute__((aligned(64)));
    size_t rows = g->leaf_row[g->leaves], tiles = (g->out + GM - 1) / GM;
    float *packed_dy = g->scratch, *panel = g->scratch + rows * g->out;
    for (size_t t = 0; t < tiles; t++) {
        size_t begin = t * g->out / tiles, end = (t + 1) * g->out / tiles;
        pack_outputs(g, rows, begin, end - begin, packed_dy + begin * rows);
    }
    /* Blocks of columns: their panels stay in L1, and a tile's rows are written in runs of several
     * cache lines. */
    for (size_t j0 = 0; j0 < g->in; j0 += GRAD_BLOCK) {
        size_t width = g->in - j0 < GRAD_BLOCK ? g->in - j0 : GRAD_BLOCK;
        size_t panels = (width + NR - 1) / NR;
        for (size_t j = 0; j < panels; j++)
            pack_inputs(g, rows, j0 + j * NR, panel + j * NR * rows);
        for (size_t t = 0; t < tiles; t++) {
            size_t begin = t * g->out / tiles, m = (t + 1) * g->out / tiles - begin;
            grad_tiles_of((int)m, g, panels, packed_dy + begin * rows, panel, stack);
            store_nodes(g, begin, m, j0, width, stack);
        }
    }
}
