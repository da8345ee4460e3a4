/* Convolution forward and backward, channel-last, nothing unrolled into columns.
 *
 * Layout. A padded image is [h + 2 pad][w + 2 pad][channels]. With one group, a filter row ky of
 * an output pixel covers kernel_w * channels consecutive floats: a *run*. With several groups the
 * runs are single taps. Weights are used in (ky, kx, channel) order, so a run of the image meets
 * a run of the weights.
 *
 * Forward: register tiles of MR pixels by NR output channels; weights packed in panels
 * [taps][NR]; a block of the panel small enough for L1 meets all pixels before the next one.
 *
 * Backward: behind ReLU and max pooling most of dy is zero. So dy is turned into lists of its
 * nonzero elements, and both gradients are sums of list entries times a run:
 *     dweights[o] += sum over nonzero (pixel, value) of o:  value * image run at pixel
 *     dimage[pixel] += sum over nonzero (o, value) of pixel: value * weights run of o
 * Both are one kernel, `gather`. Skipping a zero does not change the sum (fma(0, x, s) = s), so
 * this is exact, and where dy is dense it costs what a dense kernel would. */
#include "math/kernels/table.h"

enum { PANEL_TAPS = 256, GATHER_MAX = 12, IMAGE_BLOCK = 96 };

typedef struct runs {
    int count;      /* per output pixel and group */
    size_t length;  /* floats */
    size_t per_row; /* runs of one filter row */
    size_t row;     /* floats of a padded image row */
} runs;

static runs runs_of(const td_conv *s)
{
    runs r = {.row = (size_t)(s->in_w + 2 * s->pad) * (size_t)s->in_c};
    r.per_row = s->groups == 1 ? 1 : (size_t)s->kernel_w;
    r.count = s->kernel_h * (int)r.per_row;
    r.length = td_conv_taps(s) / (size_t)r.count;
    return r;
}

static size_t run_offset(const td_conv *s, const runs *r, int run)
{
    return (size_t)run / r->per_row * r->row + (size_t)run % r->per_row * (size_t)s->in_c;
}

static size_t pixel_offset(const td_conv *s, const runs *r, size_t pixel)
{
    size_t y = pixel / (size_t)s->out_w, x = pixel % (size_t)s->out_w;
    return y * (size_t)s->stride * r->row + x * (size_t)(s->stride * s->in_c);
}

/* --- forward --- */

static size_t panels_of(const td_conv *s)
{
    return ((size_t)(s->out_c / s->groups) + NR - 1) / NR;
}

size_t TD_K(conv_packed)(const td_conv *s)
{
    return (size_t)s->groups * panels_of(s) * td_conv_taps(s) * NR;
}

void TD_K(conv_pack)(const td_conv *s, const float *weights, float *packed)
{
    size_t taps = td_conv_taps(s), out = (size_t)(s->out_c / s->groups);
    size_t window = (size_t)(s->kernel_h * s->kernel_w), channels = taps / window;
    for (int g = 0; g < s->groups; g++)
        for (size_t o0 = 0; o0 < out; o0 += NR)
            for (size_t w = 0; w < window; w++)
                for (size_t c = 0; c < channels; c++)
                    for (size_t j = 0; j < NR; j++, packed++) {
                        size_t o = o0 + j;
                        *packed = o < out
                                      ? weights[(((size_t)g * out + o) * channels + c) * window + w]
                                      : 0;
                    }
}

typedef struct forward_block {
    int runs;
    size_t length;        /* of a run */
    const size_t *offset; /* [runs] within the image */
    const float *panel;   /* [runs * length][NR] */
    size_t columns;       /* of y's row that this panel has, 1..NR */
} forward_block;

TD_INLINE void forward_tile(const int m, const forward_block *f, const float *const *pixel,
                            float *const *y)
{
    vf acc[MR][2];
    int n0 = f->columns < V_W ? (int)f->columns : V_W, n1 = (int)f->columns - n0;
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        acc[i][0] = v_load_n(y[i], n0);
        acc[i][1] = n1 ? v_load_n(y[i] + V_W, n1) : v_set1(0);
    }
    const float *b = f->panel;
    for (int run = 0; run < f->runs; run++) {
        const float *a[MR];
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) a[i] = pixel[i] + f->offset[run];
        for (size_t t = 0; t < f->length; t++, b += NR) {
            vf b0 = v_load(b), b1 = v_load(b + V_W);
#pragma GCC unroll 16
            for (int i = 0; i < m; i++) {
                vf s = v_set1(a[i][t]);
                acc[i][0] = v_fma(s, b0, acc[i][0]);
                acc[i][1] = v_fma(s, b1, acc[i][1]);
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        v_store_n(y[i], acc[i][0], n0);
        if (n1) v_store_n(y[i] + V_W, acc[i][1], n1);
    }
}

static void forward_tile_of(int m, const forward_block *f, const float *const *pixel,
                            float *const *y)
{
    switch (m) {
/* clang-format off */
#define CASE(M)                                                                                   \
    case M: forward_tile(M, f, pixel, y); break;
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

/* All pixels of one image against one block of a panel. */
static void forward_image(const td_conv *s, const runs *r, const forward_block *f, const float *x,
                          float *y)
{
    size_t pixels = td_conv_pixels(s), tiles = (pixels + MR - 1) / MR;
    for (size_t t = 0; t < tiles; t++) {
        size_t begin = t * pixels / tiles, end = (t + 1) * pixels / tiles;
        const float *pixel[MR];
        float *to[MR];
        for (size_t p = begin; p < end; p++) {
            pixel[p - begin] = x + pixel_offset(s, r, p);
            to[p - begin] = y + p * (size_t)s->out_c;
        }
        forward_tile_of((int)(end - begin), f, pixel, to);
    }
}

void TD_K(conv_forward)(const td_conv *s, size_t rows, const float *x, const float *packed,
                        const float *bias, float *y)
{
    runs r = runs_of(s);
    size_t taps = td_conv_taps(s), out = (size_t)(s->out_c / s->groups), panels = panels_of(s);
    size_t image = td_conv_padded(s), pixels = td_conv_pixels(s);
    int per_block = r.length < PANEL_TAPS ? (int)(PANEL_TAPS / r.length) : 1;
    for (size_t row = 0; row < rows; row++, x += image, y += pixels * (size_t)s->out_c) {
        for (size_t p = 0; p < pixels; p++)
            if (bias)
                memcpy(y + p * (size_t)s->out_c, bias, (size_t)s->out_c * sizeof *y);
            else
                memset(y + p * (size_t)s->out_c, 0, (size_t)s->out_c * sizeof *y);
        for (size_t g = 0; g < (size_t)s->groups; g++)
            for (size_t panel = 0; panel < panels; panel++)
                for (int run = 0; run < r.count; run += per_block) {
                    size_t offset[PANEL_TAPS], first = g * out + panel * NR;
                    int n = r.count - run < per_block ? r.count - run : per_block;
                    for (int i = 0; i < n; i++) offset[i] = run_offset(s, &r, run + i);
                    size_t left = out - panel * NR;
                    forward_block f = {
                        .runs = n,
                        .length = r.length,
                        .offset = offset,
                        .panel =
                            packed + ((g * panels + panel) * taps + (size_t)run * r.length) * NR,
                        .columns = left < NR ? left : NR,
                    };
                    forward_image(s, &r, &f, x + g * (taps / (size_t)(s->kernel_h * s->kernel_w)),
                                  y + first);
                }
    }
}

/* --- backward --- */

/* dst[i][..] += value[e] * src[at[e]][i][..] for every list entry e in order; `i` counts runs of
 * F vectors, the last vector of each holding `last` floats. */
typedef struct gather_args {
    float *dst;
    size_t dst_run; /* floats between runs of dst */
    const float *src;
    size_t src_run;
    size_t entries;
    const uint32_t *at; /* [entries], offsets into src */
    const float *value; /* [entries] */
    int last;
} gather_args;

TD_INLINE void gather(const int R, const int F, const gather_args *g)
{
    vf acc[GATHER_MAX];
    const int last = g->last;
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
#pragma GCC unroll 12
        for (int f = 0; f < F; f++) {
            const float *from = g->dst + (size_t)i * g->dst_run + f * V_W;
            acc[i * F + f] = f == F - 1 ? v_load_n(from, last) : v_load(from);
        }
    const float *src = g->src;
    const size_t step = g->src_run;
    for (size_t e = 0; e < g->entries; e++) {
        const float *from = src + g->at[e];
        vf s = v_set1(g->value[e]);
#pragma GCC unroll 12
        for (int i = 0; i < R; i++)
#pragma GCC unroll 12
            for (int f = 0; f < F; f++)
                acc[i * F + f] =
                    v_fma(s, v_load(from + (size_t)i * step + f * V_W), acc[i * F + f]);
    }
#pragma GCC unroll 12
    for (int i = 0; i < R; i++)
#pragma GCC unroll 12
        for (int f = 0; f < F; f++) {
            float *to = g->dst + (size_t)i * g->dst_run + f * V_W;
            if (f == F - 1)
                v_store_n(to, acc[i * F + f], last);
            else
                v_store(to, acc[i * F + f]);
        }
}

static void gather_of(int R, int F, const gather_args *g)
{
/* clang-format off */
#define CASE(R_, F_)                                                                              \
    case (R_)*16 + (F_): gather(R_, F_, g); break;
    switch (R * 16 + F) {
        CASE(1, 1) CASE(1, 2) CASE(1, 3) CASE(1, 4) CASE(1, 5) CASE(1, 6)
        CASE(1, 7) CASE(1, 8) CASE(1, 9) CASE(1, 10) CASE(1, 11) CASE(1, 12)
        CASE(2, 1) CASE(2, 2) CASE(2, 3) CASE(2, 4) CASE(2, 5) CASE(2, 6)
        CASE(3, 1) CASE(3, 2) CASE(3, 3) CASE(3, 4)
        CASE(4, 1) CASE(4, 2) CASE(4, 3)
        CASE(5, 1) CASE(5, 2) CASE(6, 1) CASE(6, 2)
        CASE(7, 1) CASE(8, 1) CASE(9, 1) CASE(10, 1) CASE(11, 1) CASE(12, 1)
    }
#undef CASE
    /* clang-format on */
}

/* How one filter row's runs are cut into pieces of at most GATHER_MAX vectors. */
typedef struct piece {
    int run, runs;        /* first run and how many together (all of equal spacing) */
    size_t begin, floats; /* within each run */
} piece;

/* Calls walk over all pieces, nearly equal within a run; begin with {0}. */
static int next_piece(const runs *r, piece *p)
{
    size_t vectors = (r->length + V_W - 1) / V_W, pieces = (vectors + GATHER_MAX - 1) / GATHER_MAX;
    size_t most = (vectors + pieces - 1) / pieces * V_W;
    if (p->runs) {
        p->begin += p->floats;
        if (p->begin >= r->length) p->begin = 0, p->run += p->runs;
    }
    if (p->run >= r->count) return 0;
    p->floats = r->length - p->begin < most ? r->length - p->begin : most;
    /* Short runs go together; with groups, only within a filter row, where spacing is equal. */
    size_t together = pieces == 1 ? GATHER_MAX / vectors : 1;
    size_t same =
        r->per_row == 1 ? (size_t)(r->count - p->run) : r->per_row - (size_t)p->run % r->per_row;
    p->runs = (int)(together < same ? together : same);
    return 1;
}

/* The nonzero elements of one image's dy, by output channel and by pixel. */
typedef struct lists {
    uint32_t *count;      /* [out_c] */
    uint32_t *pixel;      /* [out_c][pixels]: offset of the pixel's window in the image */
    float *value;         /* [out_c][pixels] */
    uint32_t *begin;      /* [pixels + 1], per group */
    uint32_t *channel;    /* [pixels * out_c]: offset of the channel's weights */
    float *channel_value; /* same */
    float *dimage;        /* one padded image */
} lists;

static size_t up16(size_t n)
{
    return (n + 15) & ~(size_t)15;
}

static lists lay_out(const td_conv *s, float *scratch)
{
    size_t pixels = td_conv_pixels(s), all = up16(pixels * (size_t)s->out_c);
    lists l;
    l.count = (uint32_t *)scratch, scratch += up16((size_t)s->out_c);
    l.begin = (uint32_t *)scratch, scratch += up16(pixels + 1);
    l.pixel = (uint32_t *)scratch, scratch += all;
    l.value = scratch, scratch += all;
    l.channel = (uint32_t *)scratch, scratch += all;
    l.channel_value = scratch, scratch += all;
    l.dimage = scratch;
    return l;
}

/* Fills the lists for the output channels of one group. */
static void list_nonzeros(const td_conv *s, const runs *r, size_t group, const float *dy, lists *l)
{
    size_t pixels = td_conv_pixels(s), out = (size_t)(s->out_c / s->groups);
    size_t taps = td_conv_taps(s);
    memset(l->count, 0, out * sizeof *l->count);
    uint32_t n = 0;
    dy += group * out;
    for (size_t p = 0; p < pixels; p++, dy += s->out_c) {
        uint32_t at = (uint32_t)pixel_offset(s, r, p);
        l->begin[p] = n;
        for (size_t o = 0; o < out; o += V_W) {
            int width = out - o < V_W ? (int)(out - o) : V_W;
            for (unsigned bits = v_nonzero(v_load_n(dy + o, width)); bits; bits &= bits - 1) {
                size_t c = o + (size_t)__builtin_ctz(bits);
                uint32_t k = l->count[c]++;
                l->pixel[c * pixels + k] = at;
                l->value[c * pixels + k] = dy[c];
                l->channel[n] = (uint32_t)(c * taps);
                l->channel_value[n++] = dy[c];
            }
        }
    }
    l->begin[pixels] = n;
}

static void add_weight_gradient(const td_conv *s, const runs *r, size_t group, const float *x,
                                const lists *l, float *dweights)
{
    size_t out = (size_t)(s->out_c / s->groups), taps = td_conv_taps(s);
    size_t pixels = td_conv_pixels(s);
    dweights += group * out * taps;
    for (piece p = {0}; next_piece(r, &p);) {
        size_t vectors = (p.floats + V_W - 1) / V_W;
        gather_args g = {
            .dst_run = r->length,
            .src = x + run_offset(s, r, p.run) + p.begin,
            .src_run = r->per_row == 1 ? r->row : (size_t)s->in_c,
            .last = (int)(p.floats - (vectors - 1) * V_W),
        };
        for (size_t o = 0; o < out; o++) {
            if (!l->count[o]) continue;
            g.dst = dweights + o * taps + (size_t)p.run * r->length + p.begin;
            g.entries = l->count[o];
            g.at = l->pixel + o * pixels;
            g.value = l->value + o * pixels;
            gather_of(p.runs, (int)vectors, &g);
        }
    }
}

/* One element of the image meets several pixels' windows. Its order of addition is by run, block
 * of IMAGE_BLOCK floats and pixel, which no vector width changes. */
static void add_image_gradient(const td_conv *s, const runs *r, size_t group, const float *weights,
                               const lists *l)
{
    size_t out = (size_t)(s->out_c / s->groups), taps = td_conv_taps(s);
    size_t pixels = td_conv_pixels(s);
    float *dimage = l->dimage + group * (size_t)(s->in_c / s->groups);
    for (int run = 0; run < r->count; run++)
        for (size_t begin = 0; begin < r->length; begin += IMAGE_BLOCK) {
            size_t end = begin + IMAGE_BLOCK < r->length ? begin + IMAGE_BLOCK : r->length;
            float *base = dimage + run_offset(s, r, run);
            const float *taps_of_run = weights + group * out * taps + (size_t)run * r->length;
            for (size_t px = 0; px < pixels; px++) {
                uint32_t first = l->begin[px];
                if (l->begin[px + 1] == first) continue;
                float *window = base + pixel_offset(s, r, px);
                for (size_t at = begin; at < end; at += GATHER_MAX * V_W) {
                    size_t floats = end - at < GATHER_MAX * V_W ? end - at : GATHER_MAX * V_W;
                    size_t vectors = (floats + V_W - 1) / V_W;
                    gather_args g = {
                        .dst = window + at,
                        .src = taps_of_run + at,
                        .entries = l->begin[px + 1] - first,
                        .at = l->channel + first,
                        .value = l->channel_value + first,
                        .last = (int)(floats - (vectors - 1) * V_W),
                    };
                    gather_of(1, (int)vectors, &g);
                }
            }
        }
}

void TD_K(conv_backward)(const td_conv_backward *b)
{
    const td_conv *s = b->shape;
    runs r = runs_of(s);
    lists l = lay_out(s, b->scratch);
    size_t pixels = td_conv_pixels(s), channels = (size_t)s->out_c, image = td_conv_padded(s);
    size_t line = (size_t)(s->in_w * s->in_c), in_group = (size_t)(s->in_c / s->groups);
    for (size_t row = 0; row < b->rows; row++) {
        const float *dy = b->dy + row * pixels * channels, *x = b->x + row * image;
        if (b->dbias)
            for (size_t p = 0; p < pixels; p++)
                for (size_t o = 0; o < channels; o++) b->dbias[o] += dy[p * channels + o];
        if (b->dx) memset(l.dimage, 0, image * sizeof *l.dimage);
        for (size_t g = 0; g < (size_t)s->groups; g++) {
            list_nonzeros(s, &r, g, dy, &l);
            add_weight_gradient(s, &r, g, x + g * in_group, &l, b->dweights);
            if (b->dx) add_image_gradient(s, &r, g, b->weights, &l);
        }
        if (!b->dx) continue;
        float *dx = b->dx + row * (size_t)s->in_h * line;
        for (size_t y = 0; y < (size_t)s->in_h; y++)
            memcpy(dx + y * line,
                   l.dimage + (y + (size_t)s->pad) * r.row + (size_t)(s->pad * s->in_c),
                   line * sizeof *dx);
    }
}
