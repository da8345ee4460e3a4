/* What was measured best, in a file:
 *
 *     tandem tuning 1
 *     host NAME cores N kernels ISA transport T ranks N hosts N largest-host N
 *     PATTERN FROM-BYTES ALGORITHM     "all-reduce/whole": of whole numbers
 *     ...
 *     end HASH-OF-ALL-ABOVE
 */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "math/kernels.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { LINE = 256, MOST_ALGORITHMS = 16, FILE_ROOM = (TD_TUNING_ROWS + 4) * LINE };

static const char whole_numbers[] = "/whole";

static int largest_host(const td_comm *comm)
{
    int largest = 0;
    for (int h = 0; h < comm->hosts; h++) {
        int n = 0;
        for (int r = 0; r < comm->size; r++) n += comm->host[r] == h;
        if (n > largest) largest = n;
    }
    return largest;
}

static void describe_group(const td_comm *comm, char text[LINE])
{
    char name[64] = "?";
    gethostname(name, sizeof name - 1);
    snprintf(text, LINE,
             "host %s cores %ld kernels %s transport %s ranks %d hosts %d largest-host %d", name,
             sysconf(_SC_NPROCESSORS_ONLN), td_kernels_best()->isa, comm->ops->name, comm->size,
             comm->hosts, largest_host(comm));
}

td_status td_tuning_write(const td_comm *comm, const td_tuning *tuning, const char *path)
{
    char group[LINE], *text = td_malloc(FILE_ROOM);
    if (!text) return td_fail(TD_ERR_NOMEM, "no memory for a tuning file");
    describe_group(comm, group);
    size_t n = (size_t)snprintf(text, FILE_ROOM, "tandem tuning 1\n%s\n", group);
    for (int k = 0; k < tuning->count; k++) {
        const td_tuning_row *r = &tuning->row[k];
        const char *names[MOST_ALGORITHMS];
        td_coll_algorithms(comm, r->pattern, r->whole, names, MOST_ALGORITHMS);
        n += (size_t)snprintf(text + n, FILE_ROOM - n, "%s%s %llu %s\n", td_does_names[r->pattern],
                              r->whole ? whole_numbers : "", (unsigned long long)r->from_bytes,
                              names[r->algorithm]);
    }
    n += (size_t)snprintf(text + n, FILE_ROOM - n, "end %016llx\n",
                          (unsigned long long)XXH64(text, n, 0));
    td_status status = td_write_file(path, text, n);
    td_free(text);
    return status;
}

static td_status read_row(const td_comm *comm, const char *path, int number, const char *line,
                          td_tuning *out)
{
    char pattern[32], name[32];
    unsigned long long bytes;
    const char *names[MOST_ALGORITHMS];
    if (out->count == TD_TUNING_ROWS || sscanf(line, "%31s %llu %31s", pattern, &bytes, name) != 3)
        return td_fail(TD_ERR_CORRUPT, "%s:%d: write PATTERN BYTES ALGORITHM", path, number);
    char *slash = strchr(pattern, '/');
    bool whole = slash && !strcmp(slash, whole_numbers);
    if (whole) *slash = 0;
    for (int p = 0; p < TD_PATTERNS; p++) {
        if (strcmp(td_does_names[p], pattern) != 0 || (whole && p < TD_REDUCE)) continue;
        int n = td_coll_algorithms(comm, (td_pattern)p, whole, names, MOST_ALGORITHMS);
        for (int i = 0; i < n; i++) {
            if (strcmp(names[i], name) != 0) continue;
            out->row[out->count++] = (td_tuning_row){(td_pattern)p, whole, bytes, i};
            return TD_OK;
        }
    }
    return td_fail(TD_ERR_CORRUPT, "%s:%d: no algorithm \"%s\" of %s serves this group", path,
                   number, name, pattern);
}

static td_status parse(const td_comm *comm, const char *path, char *text, size_t size,
                       td_tuning *out)
{
    char group[LINE];
    unsigned long long hash = 0;
    char *end = size ? strstr(text, "\nend ") : NULL;
    if (strncmp(text, "tandem tuning 1\n", 16) != 0)
        return td_fail(TD_ERR_CORRUPT, "%s is not a tuning file", path);
    if (!end || sscanf(end, "\nend %16llx", &hash) != 1 ||
        hash != (unsigned long long)XXH64(text, (size_t)(end + 1 - text), 0))
        return td_fail(TD_ERR_CORRUPT, "%s is cut short, or was changed by hand; measure it again",
                       path);
    end[1] = 0;
    describe_group(comm, group);
    char *line = text + 16, *stop = strchr(line, '\n');
    if (!stop) return td_fail(TD_ERR_CORRUPT, "%s:2: a description of the group is missing", path);
    *stop = 0;
    if (strcmp(line, group) != 0)
        return td_fail(TD_ERR_ARG, "%s was measured for \"%s\"; this is \"%s\"", path, line, group);
    out->count = 0;
    int number = 3;
    for (line = stop + 1; *line; line = stop + 1, number++) {
        stop = strchr(line, '\n');
        *stop = 0;
        TD_TRY(read_row(comm, path, number, line, out));
    }
    return TD_OK;
}

td_status td_tuning_read(const td_comm *comm, const char *path, td_tuning *out)
{
    char *text;
    size_t size;
    TD_TRY(td_read_file(path, &text, &size));
    td_status status = memchr(text, 0, size)
                           ? td_fail(TD_ERR_CORRUPT, "%s is not a tuning file", path)
                           : parse(comm, path, text, size, out);
    td_free(text);
    return status;
}

td_status td_comm_tune(td_comm *comm, const char *path)
{
    TD_TRY(td_comm_check_open(comm, "tune"));
    td_tuning *tuning = td_calloc(1, sizeof *tuning);
    td_status status = TD_OK;
    if (!tuning)
        status = td_fail(TD_ERR_NOMEM, "no memory for the tuning");
    else if (comm->rank == 0 && !path)
        status = td_fail(TD_ERR_ARG, "tune: no path of a file");
    else if (comm->rank == 0)
        status = td_tuning_read(comm, path, tuning);
    status = td_comm_agree(comm, status);
    if (status == TD_OK) status = td_comm_broadcast(comm, tuning, sizeof *tuning, 0);
    if (status != TD_OK) {
        td_free(tuning);
        return status;
    }
    for (int k = 0; k < tuning->count; k++)
        tuning->row[k].algorithm = td_coll_row(comm, tuning->row[k].pattern, tuning->row[k].whole,
                                               tuning->row[k].algorithm);
    tuning->older = comm->tuning;
    comm->tuning = tuning;
    return TD_OK;
}

void td_tuning_free(td_tuning *tuning)
{
    for (td_tuning *older; tuning; tuning = older) {
        older = tuning->older;
        td_free(tuning);
    }
}

td_status td_tuning_inherit(const td_comm *from, td_comm *to)
{
    if (!from->tuning || to->size != from->size || to->hosts != from->hosts ||
        largest_host(to) != largest_host(from))
        return TD_OK;
    to->tuning = td_malloc(sizeof *to->tuning);
    if (!to->tuning) return td_fail(TD_ERR_NOMEM, "no memory for the tuning");
    *to->tuning = *from->tuning;
    to->tuning->older = NULL;
    return TD_OK;
}
