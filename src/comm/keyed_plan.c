/* Requests for keyed parts that are started time and again: see tandem/keyed.h. */
#include "comm/keyed_ticket.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

struct td_keyed_plan {
    td_keyed *keyed;
    td_keyed_does does;
    td_parts parts; /* its arrays are the plan's, but for values and answers */
    char note[TD_KEYED_NOTE];
};

static td_status copy(const void *from, size_t items, size_t bytes, void *to)
{
    void *own = from ? td_calloc(items + 1, bytes) : NULL;
    if (from && !own) return td_fail(TD_ERR_NOMEM, "no memory for %zu keyed parts", items);
    if (from && items) memcpy(own, from, items * bytes);
    memcpy(to, &own, sizeof own);
    return TD_OK;
}

/* Servers of the keys, asked for once. */
static td_status look_up(const td_keyed *k, td_parts *p)
{
    int servers = k->config.server_count;
    if (p->owner || servers == 1) return TD_OK; /* one server needs no looking up */
    int *owner = td_calloc(p->count + 1, sizeof *owner);
    if (!owner) return td_fail(TD_ERR_NOMEM, "no memory for %zu keyed parts", p->count);
    for (size_t i = 0; i < p->count; i++)
        owner[i] = k->config.owner ? k->config.owner(k->config.user, p->keys[i], servers)
                                   : td_keyed_owner(p->keys[i], servers);
    p->owner = owner;
    return TD_OK;
}

td_status td_keyed_plan_create(td_keyed *k, td_keyed_does does, const td_parts *parts,
                               td_keyed_plan **out)
{
    TD_TRY(td_keyed_check(k, does, parts));
    TD_TRY(td_comm_check_given(out, td_keyed_name(does), "place for the plan"));
    td_keyed_plan *plan = td_calloc(1, sizeof *plan);
    if (!plan) return td_fail(TD_ERR_NOMEM, "no memory for %zu keyed parts", parts->count);
    td_parts *own = &plan->parts;
    *plan = (td_keyed_plan){.keyed = k, .does = does, .parts = *parts};
    own->keys = NULL, own->sizes = NULL, own->owner = NULL, own->note = NULL;
    td_status status = copy(parts->keys, parts->count, sizeof *parts->keys, &own->keys);
    if (status == TD_OK)
        status = copy(parts->sizes, parts->count, sizeof *parts->sizes, &own->sizes);
    if (status == TD_OK)
        status = copy(parts->owner, parts->count, sizeof *parts->owner, &own->owner);
    if (status == TD_OK) status = look_up(k, own);
    if (status != TD_OK) {
        td_keyed_plan_destroy(plan);
        return status;
    }
    if (parts->note) memcpy(plan->note, parts->note, sizeof plan->note);
    own->note = plan->note;
    *out = plan;
    return TD_OK;
}

td_status td_keyed_plan_start(td_keyed_plan *plan, uint64_t *ticket)
{
    TD_TRY(td_comm_check_given(plan, "keyed parts", "plan"));
    return td_keyed_start(plan->keyed, plan->does, &plan->parts, ticket);
}

void td_keyed_plan_destroy(td_keyed_plan *plan)
{
    if (!plan) return;
    td_free((void *)(uintptr_t)plan->parts.keys);
    td_free((void *)(uintptr_t)plan->parts.sizes);
    td_free((void *)(uintptr_t)plan->parts.owner);
    td_free(plan);
}
