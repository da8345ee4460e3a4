/* What was measured best on a machine, for groups of several shapes, in a file:
 *
 *     tandem tuning 2
 *     machine NAME cores N kernels ISA
 *     group transport T ranks N hosts N largest-host N
 *     PATTERN FROM-BYTES ALGORITHM     "all-reduce/whole": of whole numbers
 *     ...
 *     group ...
 *     end HASH-OF-ALL-ABOVE
 */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "math/kernels.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { LINE = 256, MOST_ALGORITHMS = 16, GROUP_ROOM = (TD_TUNING_ROWS + 4) * LINE };

static const char whole_numbers[] = "/whole", magic[] = "tandem tuning 2\n", a_group[] = "group ";

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

static void describe_machine(char text[LINE])
{
    char name[64] = "?";
    gethostname(name, sizeof name - 1);
    snprintf(text, LINE, "machine %s cores %ld kernels %s", name, sysconf(_SC_NPROCESSORS_ONLN),
             td_kernels_best()->isa);
}

static void describe_group(const td_comm *comm, char text[LINE])
{
    snprintf(text, LINE, "%stransport %s ranks %d hosts %d largest-host %d", a_group,
             comm->ops->name, comm->size, comm->hosts, largest_host(comm));
}

/* --- the parts of a file's text, whose end line is cut off --- */

static size_t line_length(const char *line)
{
    return strcspn(line, "\n");
}

static bool is_line(const char *line, const char *text)
{
    return line_length(line) == strlen(text) && !memcmp(line, text, strlen(text));
}

/* The next line that begins a group, or the end. */
static const char *next_group(const char *line)
{
    while (*line && strncmp(line, a_group, sizeof a_group - 1) != 0)
        line += line_length(line) + (line[line_length(line)] != 0);
    return line;
}

/* The line that begins that group's part, or the end. */
static const char *find_group(const char *text, const char *group)
{
    const char *line = next_group(text);
    while (*line && !is_line(line, group)) line = next_group(line + line_length(line));
    return line;
}

static td_status check_machine(const char *path, const char *text)
{
    char machine[LINE];
    const char *line = text + sizeof magic - 1;
    describe_machine(machine);
    if (is_line(line, machine)) return TD_OK;
    return td_fail(TD_ERR_ARG,
                   "%s was measured on \"%.*s\"; this is \"%s\": measure here, into another file, "
                   "with \"tandem bench --comm all --tune FILE\"",
                   path, (int)line_length(line), line, machine);
}

/* Cuts off the end line. */
static td_status check_whole(const char *path, char *text, size_t size)
{
    unsigned long long hash = 0;
    char *end = size ? strstr(text, "\nend ") : NULL;
    if (memchr(text, 0, size) || strncmp(text, "tandem tuning ", 14) != 0)
        return td_fail(TD_ERR_CORRUPT, "%s is not a tuning file", path);
    if (strncmp(text, "tandem tuning 1\n", 16) == 0)
        return td_fail(TD_ERR_CORRUPT, "%s is of an earlier version: remove it and measure again",
                       path);
    if (!end || sscanf(end, "\nend %16llx", &hash) != 1 ||
        strncmp(text, magic, sizeof magic - 1) != 0 ||
        hash != (unsigned long long)XXH64(text, (size_t)(end + 1 - text), 0))
        return td_fail(TD_ERR_CORRUPT,
                       "%s is cut short, or was changed by hand: remove it and measure again",
                       path);
    end[1] = 0;
    return TD_OK;
}

/* The text of a file of this machine. The caller's. */
static td_status load(const char *path, char **out)
{
    size_t size;
    TD_TRY(td_read_file(path, out, &size));
    td_status status = check_whole(path, *out, size);
    if (status == TD_OK) status = check_machine(path, *out);
    if (status != TD_OK) td_free(*out);
    return status;
}

/* --- writing --- */

/* What is there already; an empty file is like none. A pipe is not read, and a device not replaced.
 */
static td_status load_earlier(const char *path, char **out)
{
    struct stat is;
    *out = NULL;
    if (stat(path, &is) != 0) return TD_OK;
    if (!S_ISREG(is.st_mode))
        return td_fail(TD_ERR_ARG, "%s is no file that a tuning could be written to", path);
    if (is.st_size == 0) return TD_OK;
    return load(path, out);
}

td_status td_tuning_can_add(const char *path)
{
    char *text;
    TD_TRY(load_earlier(path, &text));
    td_free(text);
    return TD_OK;
}

static size_t print_rows(const td_comm *comm, const td_tuning *tuning, char *text, size_t room)
{
    size_t n = 0;
    for (int k = 0; k < tuning->count; k++) {
        const td_tuning_row *r = &tuning->row[k];
        const char *names[MOST_ALGORITHMS];
        td_coll_algorithms(comm, r->pattern, r->whole, names, MOST_ALGORITHMS);
        n += (size_t)snprintf(text + n, room - n, "%s%s %llu %s\n", td_does_names[r->pattern],
                              r->whole ? whole_numbers : "", (unsigned long long)r->from_bytes,
                              names[r->algorithm]);
    }
    return n;
}

static bool has_pattern(const td_tuning *tuning, const char *line)
{
    for (int k = 0; k < tuning->count; k++) {
        const char *name = td_does_names[tuning->row[k].pattern];
        size_t n = strlen(name);
        if (!strncmp(line, name, n) && (line[n] == ' ' || line[n] == whole_numbers[0])) return true;
    }
    return false;
}

/* The group's earlier rows of patterns that were not measured now. */
static size_t keep_patterns(const char *earlier, const char *group, const td_tuning *tuning,
                            char *to)
{
    const char *line = find_group(earlier, group), *end = next_group(line + line_length(line));
    size_t n = 0;
    if (!*line) return 0;
    for (line += line_length(line) + 1; line < end; line += line_length(line) + 1) {
        if (has_pattern(tuning, line)) continue;
        memcpy(to + n, line, line_length(line) + 1);
        n += line_length(line) + 1;
    }
    return n;
}

/* The groups of an earlier text but one. */
static size_t keep_groups(const char *earlier, const char *but, char *to)
{
    size_t n = 0;
    for (const char *line = next_group(earlier), *next; *line; line = next) {
        next = next_group(line + line_length(line));
        if (is_line(line, but)) continue;
        memcpy(to + n, line, (size_t)(next - line));
        n += (size_t)(next - line);
    }
    return n;
}

td_status td_tuning_write(const td_comm *comm, const td_tuning *tuning, const char *path)
{
    char machine[LINE], group[LINE], *earlier;
    TD_TRY(load_earlier(path, &earlier));
    size_t room = GROUP_ROOM + (earlier ? strlen(earlier) : 0);
    char *text = td_malloc(room);
    if (!text) {
        td_free(earlier);
        return td_fail(TD_ERR_NOMEM, "no memory for a tuning file");
    }
    describe_machine(machine);
    describe_group(comm, group);
    size_t n = (size_t)snprintf(text, room, "%s%s\n", magic, machine);
    if (earlier) n += keep_groups(earlier, group, text + n);
    n += (size_t)snprintf(text + n, room - n, "%s\n", group);
    if (earlier) n += keep_patterns(earlier, group, tuning, text + n);
    n += print_rows(comm, tuning, text + n, room - n);
    n += (size_t)snprintf(text + n, room - n, "end %016llx\n",
                          (unsigned long long)XXH64(text, n, 0));
    td_status status = td_write_file(path, text, n);
    td_free(text), td_free(earlier);
    return status;
}

/* --- reading --- */

static td_status read_row(const td_comm *comm, const char *path, const char *line, td_tuning *out)
{
    char pattern[32], name[32];
    unsigned long long bytes;
    const char *names[MOST_ALGORITHMS];
    if (out->count == TD_TUNING_ROWS || sscanf(line, "%31s %llu %31s", pattern, &bytes, name) != 3)
        return td_fail(TD_ERR_CORRUPT, "%s: \"%.*s\" is not PATTERN BYTES ALGORITHM", path,
                       (int)line_length(line), line);
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
    return td_fail(TD_ERR_CORRUPT, "%s: no algorithm \"%s\" of %s serves this group", path, name,
                   pattern);
}

/* The rows of the group's part, if there is one; *found: whether. */
static td_status read_group(const td_comm *comm, const char *path, td_tuning *out, bool *found)
{
    char group[LINE];
    describe_group(comm, group);
    const char *line = find_group(out->text, group);
    *found = *line;
    out->count = 0;
    if (!*found) return TD_OK;
    const char *end = next_group(line + line_length(line));
    for (line += line_length(line) + 1; line < end; line += line_length(line) + 1)
        TD_TRY(read_row(comm, path, line, out));
    return TD_OK;
}

/* Names some of the groups that there are. */
static td_status another_group(const td_comm *comm, const char *path, const char *text)
{
    enum { MOST = 3 };
    char group[LINE], of[MOST * (LINE + 4)] = "no group";
    const size_t skip = sizeof a_group - 1;
    int groups = 0;
    size_t n = 0;
    describe_group(comm, group);
    for (const char *line = next_group(text); *line; line = next_group(line + line_length(line)))
        if (groups++ < MOST && line_length(line) < LINE)
            n += (size_t)snprintf(of + n, sizeof of - n, "%s\"%.*s\"", n ? ", " : "",
                                  (int)(line_length(line) - skip), line + skip);
    return td_fail(TD_ERR_ARG,
                   "%s was measured for %s%s; this is \"%s\": \"tandem bench --comm all --tune "
                   "%s\" by such a group adds it",
                   path, of, groups > MOST ? " and others" : "", group + skip, path);
}

td_status td_tuning_read(const td_comm *comm, const char *path, td_tuning **out)
{
    bool found = false;
    td_tuning *t = td_calloc(1, sizeof *t);
    if (!t) return td_fail(TD_ERR_NOMEM, "no memory for the tuning");
    td_status status = load(path, &t->text);
    if (status != TD_OK) t->text = NULL;
    if (status == TD_OK) status = read_group(comm, path, t, &found);
    if (status == TD_OK && !found) status = another_group(comm, path, t->text);
    if (status == TD_OK)
        *out = t;
    else
        td_tuning_free(t);
    return status;
}

/* --- of a group --- */

/* From a text that a rank has checked for its own group. One that has no part for this group, or
 * names algorithms there that do not serve it, leaves the choice to the table. */
static td_status make(const td_comm *comm, const char *text, td_tuning **out)
{
    bool found;
    td_tuning *t = td_calloc(1, sizeof *t);
    if (t) t->text = td_strdup(text);
    if (!t || !t->text) {
        td_free(t);
        return td_fail(TD_ERR_NOMEM, "no memory for the tuning");
    }
    if (read_group(comm, "the tuning", t, &found) != TD_OK) {
        td_error_clear();
        t->count = 0;
    }
    for (int k = 0; k < t->count; k++)
        t->row[k].algorithm =
            td_coll_row(comm, t->row[k].pattern, t->row[k].whole, t->row[k].algorithm);
    *out = t;
    return TD_OK;
}

static void install(td_comm *comm, td_tuning *tuning)
{
    tuning->older = comm->tuning;
    comm->tuning = tuning;
}

/* Takes what the lowest rank that has a text has; size: of this one's with its end, 0: none. */
static td_status take_common(td_comm *comm, const char *text, uint64_t size)
{
    uint64_t *sizes = td_calloc((size_t)comm->size, sizeof *sizes);
    td_status status = sizes ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for the tuning");
    td_tuning *made = NULL;
    char *all = NULL;
    int from = 0;
    TD_GOTO(td_comm_agree(comm, status));
    TD_GOTO(td_comm_allgather(comm, &size, sizeof size, sizes));
    while (from < comm->size && !sizes[from]) from++;
    if (from == comm->size) goto out;
    all = td_malloc(sizes[from]);
    if (!all) status = td_fail(TD_ERR_NOMEM, "no memory for the tuning");
    TD_GOTO(td_comm_agree(comm, status));
    if (from == comm->rank) memcpy(all, text, size);
    TD_GOTO(td_comm_broadcast(comm, all, sizes[from], from));
    TD_GOTO(td_comm_agree(comm, make(comm, all, &made)));
    install(comm, made), made = NULL;
out:
    td_tuning_free(made);
    td_free(sizes), td_free(all);
    return status;
}

td_status td_comm_tune(td_comm *comm, const char *path)
{
    TD_TRY(td_comm_check_open(comm, "tune"));
    td_tuning *read = NULL;
    td_status status = TD_OK;
    if (comm->rank == 0 && !path)
        status = td_fail(TD_ERR_ARG, "tune: no path of a file");
    else if (comm->rank == 0)
        status = td_tuning_read(comm, path, &read);
    status = td_comm_agree(comm, status);
    const char *text = read ? read->text : NULL;
    if (status == TD_OK) status = take_common(comm, text, text ? strlen(text) + 1 : 0);
    td_tuning_free(read);
    return status;
}

void td_tuning_free(td_tuning *tuning)
{
    for (td_tuning *older; tuning; tuning = older) {
        older = tuning->older;
        td_free(tuning->text);
        td_free(tuning);
    }
}

td_status td_tuning_inherit(const td_comm *from, td_comm *to)
{
    td_tuning *made;
    if (!from->tuning) return TD_OK;
    TD_TRY(make(to, from->tuning->text, &made));
    install(to, made);
    return TD_OK;
}

td_status td_tuning_pass_on(const td_comm *before, td_comm *after)
{
    const char *text = before && before->tuning ? before->tuning->text : NULL;
    return take_common(after, text, text ? strlen(text) + 1 : 0);
}
