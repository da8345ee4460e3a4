/* Forward and backward of layers, one thread, beside oneDNN in the layout that it prefers; and
 * whether oneDNN's bits of a sample stay the same.
 *
 *     onednn_bench [ROUNDS]           default 9
 *
 * A step has 16 leaves of 8 samples. Ours computes what training computes: one product per leaf,
 * leaves folded along the tree. oneDNN's backward is one call over all 128 samples, which is its
 * best case and has no leaves; activations are in its own layout already, only the weights, new in
 * each step, are reordered. Its results are compared with ours (relative to the largest value).
 * Then one process for each instruction set and thread count hashes what oneDNN makes of the same
 * 8 samples in batches of 8, 24 and 128. Prints TSV. */
#include "base/clock.h"
#include "base/rng.h"
#include "math/kernels.h"
#include "math/tree.h"

#include <dnnl.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

enum { LEAVES = 16, ROWS = 8, BATCH = LEAVES * ROWS, MOST_ROUNDS = 99 };

typedef struct shape {
    const char *name;
    bool dense;
    int in_c, in_h, out_c, kernel, pad; /* in_h 1, kernel 1 for dense */
    bool first;                         /* its input has no gradient */
} shape;

static const shape shapes[] = {
    {"lenet conv 1-32 5x5", false, 1, 28, 32, 5, 2, true},
    {"lenet conv 32-64 5x5", false, 32, 14, 64, 5, 2, false},
    {"resnet20 conv 16-16 3x3", false, 16, 28, 16, 3, 1, false},
    {"resnet20 conv 64-64 3x3", false, 64, 7, 64, 3, 1, false},
    {"mlp dense 784-256", true, 784, 1, 256, 1, 0, true},
    {"mlp dense 256-128", true, 256, 1, 128, 1, 0, false},
    {"lenet dense 3136-512", true, 3136, 1, 512, 1, 0, false},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static size_t pixels(const shape *s)
{
    return (size_t)s->in_h * (size_t)s->in_h;
}
static size_t weights_of(const shape *s)
{
    return (size_t)s->out_c * (size_t)s->in_c * (size_t)s->kernel * (size_t)s->kernel;
}
static double flops_of(const shape *s)
{
    return 2.0 * BATCH * (double)pixels(s) * (double)weights_of(s);
}

static void *must_alloc(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 4096) / 64 * 64);
    if (!p) {
        fprintf(stderr, "onednn_bench: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    memset(p, 0, (bytes + 4096) / 64 * 64);
    return p;
}
static float *must_floats(size_t n)
{
    return must_alloc(n * sizeof(float));
}

static void fill(float *to, size_t n, uint64_t seed, float sparse)
{
    td_rng rng;
    td_rng_init(&rng, seed, TD_RNG_TEST, 0, 0);
    for (size_t i = 0; i < n; i++) {
        float v = td_rng_unit(&rng) - .5F;
        to[i] = td_rng_unit(&rng) < sparse ? 0 : v;
    }
}

/* One layer with its data, channel-last and weights [out][in][ky][kx]: what both are given. */
typedef struct layer {
    const shape *s;
    size_t x_size, y_size; /* of one sample */
    float *x, *weights, *bias, *dy;
    float *y, *dx, *dweights, *dbias; /* ours */
    float *padded, *packed, *scratch, *fold;
    td_conv conv;
} layer;

static void layer_make(layer *l, const shape *s)
{
    *l = (layer){.s = s,
                 .x_size = pixels(s) * (size_t)s->in_c,
                 .y_size = pixels(s) * (size_t)s->out_c};
    l->conv = (td_conv){.in_h = s->in_h,
                        .in_w = s->in_h,
                        .in_c = s->in_c,
                        .out_h = s->in_h,
                        .out_w = s->in_h,
                        .out_c = s->out_c,
                        .kernel_h = s->kernel,
                        .kernel_w = s->kernel,
                        .stride = 1,
                        .pad = s->pad,
                        .groups = 1};
    size_t weights = weights_of(s), out = (size_t)s->out_c;
    l->x = must_floats(BATCH * l->x_size);
    l->dy = must_floats(BATCH * l->y_size);
    l->y = must_floats(BATCH * l->y_size);
    l->dx = must_floats(BATCH * l->x_size);
    l->weights = must_floats(weights);
    l->dweights = must_floats(weights);
    l->bias = must_floats(out);
    l->dbias = must_floats(out);
    fill(l->x, BATCH * l->x_size, 1, s->first ? .5F : 0);
    fill(l->weights, weights, 2, 0);
    fill(l->bias, out, 3, 0);
    /* Behind ReLU and 2x2 max pooling a seventh of a convolution's gradients is not zero; behind
     * ReLU alone half. */
    fill(l->dy, BATCH * l->y_size, 4, s->dense ? .5F : s->in_h == 7 || s->in_c == 16 ? .5F : .86F);
    if (s->dense) {
        l->scratch = must_floats(td_dense_grad_scratch(BATCH, out));
        return;
    }
    size_t packed = td_kernels_best()->conv_packed(&l->conv);
    l->padded = must_floats(BATCH * td_conv_padded(&l->conv) + TD_CONV_SLACK);
    l->packed = must_floats((packed > weights ? packed : weights) + TD_CONV_SLACK);
    l->scratch = must_floats(td_conv_scratch(&l->conv));
    l->fold = must_floats(8 * (weights + out));
}

static void layer_free(layer *l)
{
    float *all[] = {l->x,    l->dy,     l->y,      l->dx,      l->weights, l->dweights,
                    l->bias, l->padded, l->packed, l->scratch, l->fold,    l->dbias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void dense_forward(layer *l)
{
    size_t in = l->x_size, out = l->y_size;
    td_gemm g = {.m = out,
                 .n = BATCH,
                 .k = in,
                 .a = l->weights,
                 .a_row = in,
                 .a_col = 1,
                 .b = l->x,
                 .b_row = 1,
                 .b_col = in,
                 .c = l->y,
                 .c_row = 1,
                 .c_col = out,
                 .bias_row = l->bias};
    td_kernels_best()->gemm(&g);
}

static void dense_backward(layer *l)
{
    const td_kernels *k = td_kernels_best();
    size_t in = l->x_size, out = l->y_size, rows[LEAVES + 1];
    int merges[LEAVES];
    float *nodes[1] = {l->dweights};
    for (size_t i = 0; i <= LEAVES; i++) rows[i] = i * ROWS;
    td_tree_merges(LEAVES, 0, LEAVES, merges);
    td_dense_grad d = {in, out, LEAVES, rows, merges, l->x, l->dy, nodes, l->scratch};
    k->dense_grad(&d);
    memset(l->dbias, 0, out * sizeof *l->dbias);
    for (size_t r = 0; r < BATCH; r++) k->add(out, l->dbias, l->dy + r * out, l->dbias);
    if (l->s->first) return;
    td_gemm g = {.m = BATCH,
                 .n = in,
                 .k = out,
                 .a = l->dy,
                 .a_row = out,
                 .a_col = 1,
                 .b = l->weights,
                 .b_row = in,
                 .b_col = 1,
                 .c = l->dx,
                 .c_row = in,
                 .c_col = 1};
    k->gemm(&g);
}

static void conv_forward(layer *l)
{
    const td_kernels *k = td_kernels_best();
    const td_conv *s = &l->conv;
    size_t line = (size_t)(s->in_w * s->in_c), pad = (size_t)(s->pad * s->in_c);
    for (size_t r = 0; r < BATCH; r++)
        for (size_t y = 0; y < (size_t)s->in_h; y++)
            memcpy(l->padded + r * td_conv_padded(s) + (y + (size_t)s->pad) * (line + 2 * pad) +
                       pad,
                   l->x + (r * (size_t)s->in_h + y) * line, line * sizeof *l->x);
    k->conv_pack(s, l->weights, l->packed);
    k->conv_forward(s, BATCH, l->padded, l->packed, l->bias, l->y);
}

static void conv_backward(layer *l)
{
    const td_kernels *k = td_kernels_best();
    const td_conv *s = &l->conv;
    size_t out = (size_t)s->out_c, channels = (size_t)s->in_c, weights = weights_of(l->s),
           window = weights / out / channels, count = weights + out, depth = 0;
    int merges[LEAVES];
    td_tree_merges(LEAVES, 0, LEAVES, merges);
    for (size_t o = 0; o < out; o++)
        for (size_t w = 0; w < window; w++)
            for (size_t c = 0; c < channels; c++)
                l->packed[(o * window + w) * channels + c] =
                    l->weights[(o * channels + c) * window + w];
    for (size_t leaf = 0; leaf < LEAVES; leaf++) {
        float *g = l->fold + depth++ * count;
        memset(g, 0, count * sizeof *g);
        td_conv_backward b = {.shape = s,
                              .rows = ROWS,
                              .x = l->padded + leaf * ROWS * td_conv_padded(s),
                              .dy = l->dy + leaf * ROWS * l->y_size,
                              .weights = l->packed,
                              .dweights = g,
                              .dbias = g + weights,
                              .dx = l->s->first ? NULL : l->dx + leaf * ROWS * l->x_size,
                              .scratch = l->scratch};
        k->conv_backward(&b);
        for (int merge = 0; merge < merges[leaf]; merge++) {
            float *newer = l->fold + --depth * count, *older = newer - count;
            k->add(count, older, newer, older);
        }
    }
    for (size_t o = 0; o < out; o++)
        for (size_t w = 0; w < window; w++)
            for (size_t c = 0; c < channels; c++)
                l->dweights[(o * channels + c) * window + w] =
                    l->fold[(o * window + w) * channels + c];
    memcpy(l->dbias, l->fold + weights, out * sizeof *l->dbias);
}

/* ---- oneDNN ---- */

static dnnl_engine_t engine;
static dnnl_stream_t stream;

static void dnnl_must(dnnl_status_t status, const char *what)
{
    if (status == dnnl_success) return;
    fprintf(stderr, "onednn_bench: oneDNN refuses %s (status %d)\n", what, (int)status);
    exit(1);
}

/* A tensor in the layout that a primitive prefers, and in ours. */
typedef struct tensor {
    dnnl_memory_t inside, outside;
    dnnl_primitive_t in, out; /* reorders */
} tensor;

static void run(dnnl_primitive_t p, const dnnl_exec_arg_t *args, int count)
{
    dnnl_must(dnnl_primitive_execute(p, stream, count, args), "to run");
    dnnl_must(dnnl_stream_wait(stream), "to wait");
}

static dnnl_primitive_t reorder(const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *to)
{
    dnnl_primitive_desc_t pd;
    dnnl_primitive_t p;
    dnnl_must(dnnl_reorder_primitive_desc_create(&pd, from, engine, to, engine, NULL), "a reorder");
    dnnl_must(dnnl_primitive_create(&p, pd), "a reorder");
    dnnl_must(dnnl_primitive_desc_destroy(pd), "to let go");
    return p;
}

static tensor tensor_make(dnnl_primitive_desc_t pd, dnnl_query_t what,
                          const dnnl_memory_desc_t *plain, float *data)
{
    tensor t;
    const dnnl_memory_desc_t *md = dnnl_primitive_desc_query_md(pd, what, 0);
    dnnl_must(dnnl_memory_create(&t.inside, md, engine, DNNL_MEMORY_ALLOCATE), "memory");
    dnnl_must(dnnl_memory_create(&t.outside, plain, engine, data), "memory");
    t.in = reorder(plain, md);
    t.out = reorder(md, plain);
    return t;
}

static void tensor_move(const tensor *t, bool in)
{
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, in ? t->outside : t->inside},
                              {DNNL_ARG_TO, in ? t->inside : t->outside}};
    run(in ? t->in : t->out, args, 2);
}

static void tensor_free(tensor *t)
{
    dnnl_memory_destroy(t->inside);
    dnnl_memory_destroy(t->outside);
    dnnl_primitive_destroy(t->in);
    dnnl_primitive_destroy(t->out);
}

typedef enum pass { FORWARD, DATA, WEIGHTS } pass;

/* One primitive: y = f(x, w, bias), dx = f(dy, w), or dw, dbias = f(x, dy). */
typedef struct primitive {
    pass kind;
    dnnl_primitive_t run;
    tensor x, y, w, bias; /* the tensors or their gradients */
    float *result;        /* plain layout: y, dx or dw */
    size_t result_size;
} primitive;

static dnnl_memory_desc_t desc(int n, const dnnl_dims_t dims, dnnl_format_tag_t tag)
{
    dnnl_memory_desc_t md;
    dnnl_must(dnnl_memory_desc_init_by_tag(&md, n, dims, dnnl_f32, tag), "a layout");
    return md;
}

static dnnl_primitive_desc_t describe(const shape *s, pass kind, const dnnl_memory_desc_t md[4])
{
    const dnnl_dims_t stride = {1, 1}, pad = {s->pad, s->pad};
    const dnnl_memory_desc_t *x = &md[0], *w = &md[1], *b = &md[2], *y = &md[3];
    const dnnl_alg_kind_t alg = dnnl_convolution_direct;
    dnnl_primitive_desc_t hint = NULL, pd;
    dnnl_convolution_desc_t conv;
    dnnl_inner_product_desc_t dense;
    for (int turn = kind == FORWARD; turn < 2;
         turn++) { /* backward wants the forward's as a hint */
        enum { HINT = 99 };
        int what = turn ? (int)kind : HINT;
        if (what == HINT || what == FORWARD) {
            if (s->dense)
                dnnl_must(dnnl_inner_product_forward_desc_init(&dense, dnnl_forward_training, x, w,
                                                               b, y),
                          "a dense layer");
            else
                dnnl_must(dnnl_convolution_forward_desc_init(&conv, dnnl_forward_training, alg, x,
                                                             w, b, y, stride, pad, pad),
                          "a convolution");
        } else if (what == DATA) {
            if (s->dense)
                dnnl_must(dnnl_inner_product_backward_data_desc_init(&dense, x, w, y), "dx");
            else
                dnnl_must(dnnl_convolution_backward_data_desc_init(&conv, alg, x, w, y, stride, pad,
                                                                   pad),
                          "dx");
        } else if (s->dense) {
            dnnl_must(dnnl_inner_product_backward_weights_desc_init(&dense, x, w, b, y), "dw");
        } else {
            dnnl_must(dnnl_convolution_backward_weights_desc_init(&conv, alg, x, w, b, y, stride,
                                                                  pad, pad),
                      "dw");
        }
        dnnl_must(dnnl_primitive_desc_create(&pd, s->dense ? (void *)&dense : (void *)&conv, NULL,
                                             engine, hint),
                  "a primitive");
        if (hint) dnnl_primitive_desc_destroy(hint);
        hint = pd;
    }
    return pd;
}

static primitive primitive_make(const layer *l, pass kind, int rows)
{
    const shape *s = l->s;
    primitive p = {.kind = kind};
    int n = s->dense ? 2 : 4;
    const dnnl_dims_t x = {rows, s->in_c, s->in_h, s->in_h}, y = {rows, s->out_c, s->in_h, s->in_h},
                      w = {s->out_c, s->in_c, s->kernel, s->kernel}, b = {s->out_c};
    dnnl_memory_desc_t any[] = {desc(n, x, dnnl_format_tag_any), desc(n, w, dnnl_format_tag_any),
                                desc(1, b, dnnl_a), desc(n, y, dnnl_format_tag_any)};
    dnnl_format_tag_t rows_tag = s->dense ? dnnl_ab : dnnl_acdb,
                      w_tag = s->dense ? dnnl_ab : dnnl_abcd;
    dnnl_memory_desc_t plain[] = {desc(n, x, rows_tag), desc(n, w, w_tag), desc(1, b, dnnl_a),
                                  desc(n, y, rows_tag)};
    dnnl_primitive_desc_t pd = describe(s, kind, any);
    dnnl_must(dnnl_primitive_create(&p.run, pd), "a primitive");
    p.result_size = kind == FORWARD ? (size_t)rows * l->y_size
                    : kind == DATA  ? (size_t)rows * l->x_size
                                    : weights_of(s);
    p.result = must_floats(p.result_size);
    p.x = tensor_make(pd, kind == DATA ? dnnl_query_diff_src_md : dnnl_query_src_md, &plain[0],
                      kind == DATA ? p.result : l->x);
    p.w = tensor_make(pd, kind == WEIGHTS ? dnnl_query_diff_weights_md : dnnl_query_weights_md,
                      &plain[1], kind == WEIGHTS ? p.result : l->weights);
    p.y = tensor_make(pd, kind == FORWARD ? dnnl_query_dst_md : dnnl_query_diff_dst_md, &plain[3],
                      kind == FORWARD ? p.result : l->dy);
    dnnl_must(dnnl_memory_create(&p.bias.inside, &plain[2], engine,
                                 kind == FORWARD ? l->bias : DNNL_MEMORY_ALLOCATE),
              "memory");
    if (kind != DATA) tensor_move(&p.x, true);
    if (kind != FORWARD) tensor_move(&p.y, true);
    dnnl_primitive_desc_destroy(pd);
    return p;
}

/* The weights are new in each step, and their gradient is wanted in their layout. */
static void primitive_run(primitive *p)
{
    if (p->kind != WEIGHTS) tensor_move(&p->w, true);
    dnnl_exec_arg_t args[] = {{p->kind == DATA ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, p->x.inside},
                              {p->kind == WEIGHTS ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS,
                               p->w.inside},
                              {p->kind == FORWARD ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, p->y.inside},
                              {p->kind == FORWARD ? DNNL_ARG_BIAS : DNNL_ARG_DIFF_BIAS,
                               p->bias.inside}};
    run(p->run, args, p->kind == DATA ? 3 : 4);
    if (p->kind == WEIGHTS) tensor_move(&p->w, false);
}

static void primitive_result(primitive *p)
{
    if (p->kind != WEIGHTS) tensor_move(p->kind == FORWARD ? &p->y : &p->x, false);
}

static void primitive_free(primitive *p)
{
    dnnl_primitive_destroy(p->run);
    tensor_free(&p->x);
    tensor_free(&p->y);
    tensor_free(&p->w);
    dnnl_memory_destroy(p->bias.inside);
    free(p->result);
}

/* ---- times ---- */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double worst(const float *a, const float *b, size_t n)
{
    double most = 0, off = 0;
    for (size_t i = 0; i < n; i++) {
        if (fabs((double)b[i]) > most) most = fabs((double)b[i]);
        if (fabs((double)a[i] - (double)b[i]) > off) off = fabs((double)a[i] - (double)b[i]);
    }
    return off / most;
}

static void compare(const shape *s, int rounds)
{
    layer l;
    layer_make(&l, s);
    primitive forward = primitive_make(&l, FORWARD, BATCH), data = {0},
              weights = primitive_make(&l, WEIGHTS, BATCH);
    if (!s->first) data = primitive_make(&l, DATA, BATCH);
    double times[4][MOST_ROUNDS];
    for (int round = -1; round < rounds; round++) {
        int64_t at[5];
        at[0] = td_clock_ns();
        s->dense ? dense_forward(&l) : conv_forward(&l);
        at[1] = td_clock_ns();
        s->dense ? dense_backward(&l) : conv_backward(&l);
        at[2] = td_clock_ns();
        primitive_run(&forward);
        at[3] = td_clock_ns();
        if (!s->first) primitive_run(&data);
        primitive_run(&weights);
        at[4] = td_clock_ns();
        for (int i = 0; round >= 0 && i < 4; i++) times[i][round] = td_seconds(at[i + 1] - at[i]);
    }
    primitive_result(&forward);
    double off = worst(forward.result, l.y, forward.result_size), other;
    if ((other = worst(weights.result, l.dweights, weights.result_size)) > off) off = other;
    if (!s->first) {
        primitive_result(&data);
        if ((other = worst(data.result, l.dx, data.result_size)) > off) off = other;
    }
    if (!(off < 1e-4)) {
        fprintf(stderr, "onednn_bench: %s: results differ by %g\n", s->name, off);
        exit(1);
    }
    for (int i = 0; i < 4; i++) qsort(times[i], (size_t)rounds, sizeof *times[i], ascending);
    int mid = rounds / 2;
    double gflop = flops_of(s) * 1e-9;
    for (int i = 0; i < 2; i++)
        printf("%s\t%s\t%.1f\t%.1f\t%.2f\t%.0e\n", s->name, i ? "backward" : "forward",
               gflop * (i && !s->first ? 2 : 1) / times[i][mid],
               gflop * (i && !s->first ? 2 : 1) / times[2 + i][mid],
               times[2 + i][mid] / times[i][mid], off);
    primitive_free(&forward);
    primitive_free(&weights);
    if (!s->first) primitive_free(&data);
    layer_free(&l);
}

/* ---- bits ---- */

enum { CUTS = 3, KINDS = 2 }; /* forward, data */
static const int cuts[CUTS] = {ROWS, 3 * ROWS, BATCH};
typedef struct hashes {
    XXH64_hash_t of[SHAPES][KINDS][CUTS];
} hashes;

static void begin(int threads)
{
    omp_set_num_threads(threads);
    dnnl_must(dnnl_engine_create(&engine, dnnl_cpu, 0), "an engine");
    dnnl_must(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags), "a stream");
}

static void hash_all(hashes *h, dnnl_cpu_isa_t isa, int threads)
{
    dnnl_must(dnnl_set_max_cpu_isa(isa), "an instruction set");
    begin(threads);
    for (int i = 0; i < SHAPES; i++) {
        layer l;
        layer_make(&l, &shapes[i]);
        for (int kind = 0; kind < KINDS; kind++)
            for (int cut = 0; cut < CUTS; cut++) {
                primitive p = primitive_make(&l, (pass)kind, cuts[cut]);
                primitive_run(&p);
                primitive_result(&p);
                size_t one = kind == FORWARD ? l.y_size : l.x_size;
                h->of[i][kind][cut] = XXH64(p.result, ROWS * one * sizeof(float), 0);
                primitive_free(&p);
            }
        layer_free(&l);
    }
}

static hashes hashes_of(dnnl_cpu_isa_t isa, int threads)
{
    int ends[2], status;
    hashes h;
    if (pipe(ends)) exit(1);
    pid_t child = fork();
    if (child < 0) exit(1);
    if (!child) {
        hash_all(&h, isa, threads);
        _exit(write(ends[1], &h, sizeof h) != (ssize_t)sizeof h);
    }
    bool whole = read(ends[0], &h, sizeof h) == (ssize_t)sizeof h;
    waitpid(child, &status, 0);
    close(ends[0]);
    close(ends[1]);
    if (!whole || status) {
        fprintf(stderr, "onednn_bench: the process that hashes failed\n");
        exit(1);
    }
    return h;
}

static const char *alike(bool yes)
{
    return yes ? "same" : "differ";
}

static void compare_bits(void)
{
    hashes one = hashes_of(dnnl_cpu_isa_all, 1), two = hashes_of(dnnl_cpu_isa_all, 2),
           avx2 = hashes_of(dnnl_cpu_isa_avx2, 1), sse = hashes_of(dnnl_cpu_isa_sse41, 1);
    printf("layer\tpass\tbatch of 8, 24, 128\t1, 2 threads\tbest, AVX2\tbest, SSE4.1\n");
    for (int i = 0; i < SHAPES; i++)
        for (int kind = 0; kind < KINDS; kind++) {
            const XXH64_hash_t *a = one.of[i][kind], *b = two.of[i][kind];
            if (kind == DATA && shapes[i].first) continue;
            bool threads = true;
            for (int cut = 0; cut < CUTS; cut++) threads = threads && a[cut] == b[cut];
            printf("%s\t%s\t%s\t%s\t%s\t%s\n", shapes[i].name, kind == DATA ? "data" : "forward",
                   alike(a[0] == a[1] && a[0] == a[2]), alike(threads),
                   alike(a[0] == avx2.of[i][kind][0]), alike(a[0] == sse.of[i][kind][0]));
        }
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 9;
    if (rounds < 1 || rounds > MOST_ROUNDS) {
        fprintf(stderr, "onednn_bench: ROUNDS is 1 to %d\n", MOST_ROUNDS);
        return 2;
    }
    const dnnl_version_t *v = dnnl_version();
    printf("# oneDNN %d.%d.%d, ours %s\n", v->major, v->minor, v->patch, td_kernels_best()->isa);
    compare_bits();
    begin(1);
    printf("layer\tpass\tours GFLOP/s\toneDNN GFLOP/s\toneDNN's time / ours\tresults differ by\n");
    for (int i = 0; i < SHAPES; i++) compare(&shapes[i], rounds);
    return 0;
}
