/* IDX, the format of MNIST and its kin (http://yann.lecun.com/exdb/mnist):
 *
 *     byte 0  1  2     3      4         8         ...
 *          0  0  type  rank   size[0]   size[1]   ...   values, all big-endian
 *
 * type: 08 u8, 09 i8, 0B i16, 0C i32, 0D f32, 0E f64. Values are streamed into their final place:
 * in bytes as they come; wider ones through a buffer. Samples of two dimensions are images of one
 * channel, of three images of [channel][row][column], of one rows of a table. */
#include "data/readers/reader.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

enum { MAX_RANK = 4, BUFFER = 1 << 16, CHUNK = 1 << 24 };

typedef struct idx_head {
    int type, rank;
    size_t width; /* bytes of a value */
    uint64_t size[MAX_RANK];
    uint64_t values; /* all of them */
} idx_head;

static bool looks_like(const unsigned char *data, size_t size)
{
    return size >= 8 && data[0] == 0 && data[1] == 0 && data[2] >= 8 && data[2] <= 14 &&
           data[3] >= 1 && data[3] <= MAX_RANK;
}

static uint32_t big_endian(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static td_status read_head(td_stream *stream, idx_head *head)
{
    static const unsigned char widths[16] =
        {[8] = 1, [9] = 1, [11] = 2, [12] = 4, [13] = 4, [14] = 8};
    const char *name = stream->source.name;
    unsigned char bytes[4 + 4 * MAX_RANK];
    size_t got;
    TD_TRY(td_stream_read(stream, bytes, 4, &got));
    if (got == 0) return td_fail(TD_ERR_DATA, "%s is empty, not an IDX file", name);
    if (got < 4 || bytes[0] || bytes[1] || bytes[2] > 15 || !widths[bytes[2]])
        return td_fail(TD_ERR_DATA,
                       "%s is not an IDX file: it begins with %02x %02x %02x %02x, not 00 00, a "
                       "type "
                       "and a rank",
                       name, bytes[0], got > 1 ? bytes[1] : 0, got > 2 ? bytes[2] : 0,
                       got > 3 ? bytes[3] : 0);
    head->type = bytes[2];
    head->rank = bytes[3];
    head->width = widths[bytes[2]];
    if (head->rank < 1 || head->rank > MAX_RANK)
        return td_fail(TD_ERR_DATA,
                       "%s: an IDX file of %d dimensions (byte 3); 1 to %d can be read", name,
                       head->rank, MAX_RANK);
    TD_TRY(td_stream_read(stream, bytes, 4 * (size_t)head->rank, &got));
    if (got < 4 * (size_t)head->rank)
        return td_fail(TD_ERR_DATA, "%s is cut off in its header, at byte %zu of %d", name, got + 4,
                       4 + 4 * head->rank);
    size_t values = 1, total;
    for (int d = 0; d < head->rank; d++) {
        head->size[d] = big_endian(bytes + 4 * d);
        if (head->size[d] == 0)
            return td_fail(TD_ERR_DATA, "%s: dimension %d (byte %d) is 0", name, d, 4 + 4 * d);
        if (!td_mul(values, head->size[d], &values) || !td_mul(values, 8, &total) || total >> 47)
            return td_fail(TD_ERR_DATA, "%s: the sizes in its header are too large (byte %d)", name,
                           4 + 4 * d);
    }
    head->values = values;
    return TD_OK;
}

static td_status cut_off(const td_stream *stream, const idx_head *head, uint64_t got)
{
    return td_fail(TD_ERR_DATA,
                   "%s is cut off: its header promises %llu values of %zu bytes, %llu bytes are "
                   "there",
                   stream->source.name, (unsigned long long)head->values, head->width,
                   (unsigned long long)got);
}

static td_status check_end(td_stream *stream)
{
    char extra;
    size_t got;
    TD_TRY(td_stream_read(stream, &extra, 1, &got));
    if (got)
        return td_fail(TD_ERR_DATA, "%s goes on behind the values that its header promises",
                       stream->source.name);
    return TD_OK;
}

static double decode(const unsigned char *at, int type)
{
    switch (type) {
    case 0x08: return at[0];
    case 0x09: return (int8_t)at[0];
    case 0x0B: return (int16_t)(at[0] << 8 | at[1]);
    case 0x0C: return (int32_t)big_endian(at);
    case 0x0D: {
        uint32_t bits = big_endian(at);
        float x;
        memcpy(&x, &bits, sizeof x);
        return x;
    }
    default: {
        uint64_t bits = (uint64_t)big_endian(at) << 32 | big_endian(at + 4);
        double x;
        memcpy(&x, &bits, sizeof x);
        return x;
    }
    }
}

/* The promise of a header is checked against what a file of this size can hold before memory is
 * asked for: deflate makes at most 1032 bytes of one. */
static bool plausible(const td_stream *stream, const idx_head *head)
{
    uint64_t most = stream->gz ? (uint64_t)stream->source.size * 1032 : stream->source.size;
    return head->values * head->width <= most;
}

static td_status read_values(td_stream *stream, const idx_head *head, td_dtype dtype, void *to)
{
    size_t got;
    if (dtype == TD_DTYPE_U8) {
        for (uint64_t done = 0; done < head->values; done += got) {
            uint64_t left = head->values - done;
            size_t want = left < CHUNK ? (size_t)left : CHUNK;
            TD_TRY(td_stream_read(stream, (char *)to + done, want, &got));
            if (got < want) return cut_off(stream, head, done + got);
        }
        return check_end(stream);
    }
    unsigned char buffer[BUFFER];
    for (uint64_t done = 0; done < head->values;) {
        uint64_t left = (head->values - done) * head->width;
        size_t want = left < BUFFER ? (size_t)left : BUFFER;
        TD_TRY(td_stream_read(stream, buffer, want, &got));
        if (got < want) return cut_off(stream, head, done * head->width + got);
        for (size_t i = 0; i < want; i += head->width, done++) {
            double x = decode(buffer + i, head->type);
            float f = (float)x;
            if (dtype == TD_DTYPE_I32)
                ((int32_t *)to)[done] = (int32_t)x;
            else
                ((float *)to)[done] = f;
            if (!(f - f == 0)) /* a double beyond a float's range too */
                return td_fail(TD_ERR_DATA, "%s: value %llu, %g, is not a finite float",
                               stream->source.name, (unsigned long long)done, x);
        }
    }
    return check_end(stream);
}

static td_status read_features(td_source source, td_dataset *out)
{
    td_stream stream;
    idx_head head;
    TD_TRY(td_stream_open(&stream, source));
    td_status status = TD_OK;
    TD_GOTO(read_head(&stream, &head));
    if (head.rank < 2) {
        status = td_fail(TD_ERR_DATA, "%s holds %d dimension; images need 3, a table 2",
                         source.name, head.rank);
        goto out;
    }
    if (!plausible(&stream, &head)) {
        status = cut_off(&stream, &head, source.size);
        goto out;
    }
    td_data_info *info = &out->info;
    out->dtype = head.type == 0x08 ? TD_DTYPE_U8 : head.type >= 0x0D ? TD_DTYPE_F32 : TD_DTYPE_I32;
    info->samples = head.size[0];
    info->features = out->columns = (size_t)(head.values / head.size[0]);
    info->rank = head.rank == 2 ? 1 : 3;
    if (head.rank == 2) {
        info->shape[0] = (size_t)head.size[1];
    } else {
        info->shape[0] = head.rank == 4 ? (size_t)head.size[1] : 1;
        info->shape[1] = (size_t)head.size[head.rank - 2];
        info->shape[2] = (size_t)head.size[head.rank - 1];
    }
    size_t width = out->dtype == TD_DTYPE_U8 ? 1 : 4;
    void *values;
    TD_GOTO(td_dataset_take(out, head.values, width, "values", &values));
    out->dense = values;
    info->bytes = head.values * width;
    status = read_values(&stream, &head, out->dtype, values);
out:
    td_stream_close(&stream);
    return status;
}

static td_status set_labels(const td_read_job *job, const int32_t *label, td_dataset *out)
{
    const td_dataset *like = job->config->like;
    uint64_t n = out->info.samples;
    int classes = 0;
    if (job->config->label_kind == TD_LABEL_VALUE) {
        float *target;
        TD_TRY(td_dataset_take(out, n, sizeof *target, "targets", &target));
        for (uint64_t i = 0; i < n; i++) target[i] = (float)label[i];
        out->target = target;
        return TD_OK;
    }
    for (uint64_t i = 0; i < n; i++) {
        int limit = like ? like->info.classes : 65536;
        if (label[i] < 0 || label[i] >= limit)
            return td_fail(TD_ERR_DATA, "%s: label %d of sample %llu is not in 0..%d%s",
                           job->label.name, label[i], (unsigned long long)i, limit - 1,
                           like ? ", the classes of the training set" : "");
        if (label[i] >= classes) classes = label[i] + 1;
    }
    out->label = label;
    out->info.classes = like ? like->info.classes : classes;
    return TD_OK;
}

static td_status read_labels(const td_read_job *job, td_dataset *out)
{
    td_stream stream;
    idx_head head;
    TD_TRY(td_stream_open(&stream, job->label));
    td_status status = TD_OK;
    int32_t *label;
    TD_GOTO(read_head(&stream, &head));
    if (head.rank != 1 || head.type >= 0x0D) {
        status =
            td_fail(TD_ERR_DATA, "%s holds %d dimensions of type %02x; labels are 1 of integers",
                    job->label.name, head.rank, (unsigned)head.type);
        goto out;
    }
    if (head.values != out->info.samples) {
        status = td_fail(TD_ERR_DATA, "%s holds %llu labels for the %llu samples of %s",
                         job->label.name, (unsigned long long)head.values,
                         (unsigned long long)out->info.samples, job->main.name);
        goto out;
    }
    TD_GOTO(td_dataset_take(out, head.values, sizeof *label, "labels", &label));
    TD_GOTO(read_values(&stream, &head, TD_DTYPE_I32, label));
    status = set_labels(job, label, out);
out:
    td_stream_close(&stream);
    return status;
}

static td_status read_idx(const td_read_job *job, td_dataset *out)
{
    TD_TRY(read_features(job->main, out));
    return job->label.name ? read_labels(job, out) : TD_OK;
}

static const char *const extensions[] = {"ubyte", ".idx", NULL};

const td_reader td_reader_idx = {
    .format = TD_FORMAT_IDX,
    .extensions = extensions,
    .looks_like = looks_like,
    .read = read_idx,
};
