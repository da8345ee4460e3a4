/* Memory that the other processes of a host may read where it lies: td_comm_alloc of tandem/comm.h.
 *
 * Each piece is a file in memory (memfd_create(2)) that its process keeps open; others open it by
 * its number there (/proc/PID/fd/N, which processes of one user may) and map it. A piece that is
 * freed is emptied, so that the mappings that others still have hold no memory; who reads there
 * meanwhile reads zeros. What MPI calls MPI_Alloc_mem, and NCCL registered buffers. */
#ifndef TD_COMM_REGISTERED_H
#define TD_COMM_REGISTERED_H

#include "tandem/comm.h"

/* Where another process finds some bytes of this one's. */
typedef struct td_registered {
    uint64_t number; /* of the piece in its process; 0: they do not lie in one */
    uint64_t device, inode, offset, bytes; /* bytes: of the piece */
    int32_t pid, file;
} td_registered;

/* A message that goes there, or comes from there, could not be withdrawn. That memory is kept
 * (td_alloc_keep); and from here on all pieces of this process that are freed are emptied, but can
 * be read and written where they were. */
void td_registered_adrift(const void *at, size_t bytes);

/* Whether any thread of this process may have some. */
bool td_registered_any(void);
/* The piece that has all of [at, at + bytes). */
td_registered td_registered_find(const void *at, size_t bytes);

/* Others' pieces as this process has mapped them. Used by one thread at a time; zeroed: none. */
typedef struct td_mappings {
    struct td_mapping *each;
    int count, room;
    uint64_t now;  /* of their use */
    bool writable; /* all are */
} td_mappings;

/* Where those bytes are here, until `most` others have been asked for. TD_ERR_IO: they are there no
 * more, as after their process, or the system does not let this one have them; TD_ERR_NOMEM: no
 * memory, or no file may be opened. */
TD_MUST_CHECK td_status td_mappings_find(td_mappings *m, const td_registered *there, int most,
                                         void **out);
void td_mappings_free(td_mappings *m);

#endif
