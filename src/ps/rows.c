/* See table_impl.h: a table's index, and its rows in slabs. */
#include "ps/table_impl.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

/* --- rows --- */

static td_status add_slab(td_table *t)
{
    size_t count = t->slab_count + 1, room = count << t->slab_bits;
    float **slabs = td_reallocarray(t->slabs, count, sizeof *slabs);
    if (slabs) t->slabs = slabs;
    uint32_t *spare = slabs ? td_reallocarray(t->spare, room, sizeof *spare) : NULL;
    if (spare) t->spare = spare;
    uint8_t *marks = spare && t->tier.cold ? td_realloc(t->tier.marks, room) : NULL;
    if (marks) t->tier.marks = marks;
    if (spare && (marks || !t->tier.cold)) t->spare_room = room;
    float *slab = t->spare_room == room
                      ? td_alloc_aligned(((size_t)1 << t->slab_bits) * t->stride * sizeof *slab)
                      : NULL;
    if (!slab) return td_fail(TD_ERR_NOMEM, "no memory for more than %zu rows of a table", t->rows);
    t->slabs[t->slab_count++] = slab;
    return TD_OK;
}

td_status td_table_give_row(td_table *t, td_entry *e)
{
    if (t->spare_count) {
        e->row = t->spare[--t->spare_count];
    } else {
        if (t->made == TD_TABLE_SIGHTED - 1)
            return td_fail(TD_ERR_UNSUPPORTED, "a table has at most %u rows on a server",
                           TD_TABLE_SIGHTED - 1);
        if (t->made >> t->slab_bits == t->slab_count) TD_TRY(add_slab(t));
        e->row = t->made++;
    }
    if (t->tier.marks) t->tier.marks[e->row] = TD_ROW_MOVED;
    t->rows++;
    return TD_OK;
}

/* --- the index --- */

bool td_part_make(td_part *p, size_t entries)
{
    p->entries = td_alloc_aligned(entries * sizeof(td_entry));
    if (!p->entries) return false;
    p->mask = entries - 1;
    memset(p->entries, 0xff, entries * sizeof(td_entry)); /* all NONE */
    return true;
}

static td_status grow(td_part *p)
{
    td_part larger = {.taken = p->taken};
    if (!td_part_make(&larger, 2 * (p->mask + 1)))
        return td_fail(TD_ERR_NOMEM, "no memory for a table's index of %zu keys",
                       2 * (p->mask + 1));
    for (size_t k = 0; k <= p->mask; k++) {
        if (p->entries[k].row == TD_TABLE_NONE) continue;
        size_t at = td_table_home(&larger, td_table_mixed(p->entries[k].key));
        while (larger.entries[at].row != TD_TABLE_NONE) at = (at + 1) & larger.mask;
        larger.entries[at] = p->entries[k];
    }
    td_free(p->entries);
    *p = larger;
    return TD_OK;
}

td_status td_table_enter(td_table *t, uint64_t key, uint64_t hash, td_entry **out)
{
    td_part *p = &t->parts[td_table_part(hash)];
    if (4 * (p->taken + 1) > 3 * (p->mask + 1)) TD_TRY(grow(p));
    *out = td_table_probe(t, key, hash);
    **out = (td_entry){.key = key, .row = TD_TABLE_SIGHTED};
    p->taken++;
    if (t->notes.on) td_table_note(t, key);
    return TD_OK;
}

/* Moves the entries behind the hole that it kept from their places (Knuth, 6.4 R). */
void td_table_take_out(td_table *t, td_part *p, size_t hole)
{
    uint32_t row = p->entries[hole].row;
    if (row < TD_TABLE_SIGHTED) t->spare[t->spare_count++] = row, t->rows--;
    for (size_t at = (hole + 1) & p->mask; p->entries[at].row != TD_TABLE_NONE;
         at = (at + 1) & p->mask) {
        size_t home = td_table_home(p, td_table_mixed(p->entries[at].key));
        if (((at - home) & p->mask) < ((at - hole) & p->mask)) continue;
        p->entries[hole] = p->entries[at];
        hole = at;
    }
    p->entries[hole].row = TD_TABLE_NONE;
    p->taken--;
}

td_status td_table_see_rowless(td_table *t, uint64_t key, uint64_t hash, td_entry *e, float **row)
{
    *row = NULL;
    if (e->row == TD_TABLE_NONE) TD_TRY(td_table_enter(t, key, hash, &e));
    e->used = t->clock;
    t->rowless++;
    if (++e->row - TD_TABLE_SIGHTED < t->config.admit) return TD_OK;
    uint32_t sighted = e->row - 1;
    td_status status = td_table_give_row(t, e);
    if (status != TD_OK) {
        e->row = sighted;
        return status;
    }
    *row = td_table_row(t, e->row);
    memset(*row, 0, t->stride * sizeof **row);
    td_rule_first_weights(&t->config, key, *row);
    return TD_OK;
}
