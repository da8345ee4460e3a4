/* What every unit test includes: cmocka with the headers it needs, and three shorthands. */
#ifndef TD_BASE_TEST_H
#define TD_BASE_TEST_H

#include "base/alloc.h"
#include "tandem/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define assert_ok(call)                                                                            \
    do {                                                                                           \
        td_status assert_ok_ = (call);                                                             \
        if (assert_ok_ != TD_OK)                                                                   \
            fail_msg("%s: %s: %s", #call, td_status_name(assert_ok_), td_last_error());            \
    } while (0)

/* The call fails with `want`, and its sentence contains `text`. */
#define assert_fails(want, text, call)                                                             \
    do {                                                                                           \
        td_status assert_fails_ = (call);                                                          \
        if (assert_fails_ != (want))                                                               \
            fail_msg("%s: %s, expected %s", #call, td_status_name(assert_fails_), #want);          \
        if (!strstr(td_last_error(), (text)))                                                      \
            fail_msg("%s: \"%s\" does not say \"%s\"", #call, td_last_error(), (text));            \
    } while (0)

/* Fails each allocation of `attempt` in turn, past the last one: every time it must say so or get
 * through all the same. Under sanitizers, which look at the code, it leaves out most of the later
 * ones. */
typedef td_status attempt_fn(void *arg);
static inline void assert_survives_no_memory(attempt_fn *attempt, void *arg)
{
    td_status status = TD_ERR_NOMEM;
    bool some = getenv("TANDEM_TEST_SHORT") != NULL;
    size_t k = 0;
    for (size_t asked = 0; asked >= k;) {
        k += some && k > 40 ? 7 : 1;
        td_alloc_fail_at(k);
        status = attempt(arg);
        asked = td_alloc_count();
        td_alloc_fail_at(0);
        if (status != TD_OK && status != TD_ERR_NOMEM)
            fail_msg("allocation %zu: %s: %s", k, td_status_name(status), td_last_error());
    }
    assert_int_equal(status, TD_OK);
    assert_true(k > 2);
}

#endif
