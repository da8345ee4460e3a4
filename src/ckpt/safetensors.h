/* The safetensors file format: 8 bytes of header length (little endian), a JSON header that names
 * each tensor's type, shape and bytes, then the bytes. What other tools of the field read. F32 and
 * I64 are written; U64 is read as well. */
#ifndef TD_CKPT_SAFETENSORS_H
#define TD_CKPT_SAFETENSORS_H

#include "base/fs.h"

typedef struct td_tensor {
    const char *name;
    int rank;
    size_t shape[4];
    const float *data; /* F32, [count]; or NULL and */
    size_t count;
    const uint64_t *keys; /* I64, [count] */
} td_tensor;

/* Writes the file (beside, synced, renamed); *out_hash is XXH64 of all its bytes. */
TD_MUST_CHECK td_status td_safetensors_write(const char *path, const td_tensor *tensors, size_t n,
                                             uint64_t *out_hash, uint64_t *out_bytes);

/* XXH64 of a file that is mapped, in pieces whose pages are let go of. */
uint64_t td_mapping_hash(const td_mapping *map);

typedef struct td_safetensors td_safetensors;
/* Maps and checks a file: header, names, and that every tensor lies inside. TD_ERR_CORRUPT. */
TD_MUST_CHECK td_status td_safetensors_open(const char *path, td_safetensors **out);
/* The same over bytes in memory, borrowed until close. */
TD_MUST_CHECK td_status td_safetensors_parse(const char *name, const unsigned char *bytes,
                                             size_t size, td_safetensors **out);
void td_safetensors_close(td_safetensors *file); /* NULL is fine */
uint64_t td_safetensors_hash(const td_safetensors *file);
uint64_t td_safetensors_bytes(const td_safetensors *file);

bool td_safetensors_has(const td_safetensors *file, const char *name);
/* What __metadata__ says under a name; NULL: nothing. The file's. */
const char *td_safetensors_metadata(const td_safetensors *file, const char *name);
/* The name of the first tensor (*at NULL) or of the one behind the last call's; NULL at the end. */
const char *td_safetensors_next(const td_safetensors *file, void **at);

/* Copies a tensor's floats. TD_ERR_CORRUPT when it is missing or has another number of elements:
 * the sentence names file and tensor. */
TD_MUST_CHECK td_status td_safetensors_read(const td_safetensors *file, const char *name,
                                            size_t count, float *out);

/* A tensor where the file is mapped, until it is closed. TD_ERR_CORRUPT when it is missing. */
typedef struct td_tensor_view {
    const char *type; /* "F32", "I64" or "U64" */
    size_t rank;
    size_t shape[4];            /* the first four */
    const unsigned char *bytes; /* perhaps not aligned */
} td_tensor_view;
TD_MUST_CHECK td_status td_safetensors_view(const td_safetensors *file, const char *name,
                                            td_tensor_view *out);
uint64_t td_safetensors_offset(const td_safetensors *file, const void *bytes); /* in the file */

#endif
