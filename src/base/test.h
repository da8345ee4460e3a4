/* What every unit test includes: cmocka with the headers it needs, and two shorthands. */
#ifndef TD_BASE_TEST_H
#define TD_BASE_TEST_H

#include "tandem/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define assert_ok(call)                                                                           \
    do {                                                                                          \
        td_status assert_ok_ = (call);                                                            \
        if (assert_ok_ != TD_OK)                                                                  \
            fail_msg("%s: %s: %s", #call, td_status_name(assert_ok_), td_last_error());           \
    } while (0)

/* The call fails with `want`, and its sentence contains `text`. */
#define assert_fails(want, text, call)                                                            \
    do {                                                                                          \
        td_status assert_fails_ = (call);                                                         \
        if (assert_fails_ != (want))                                                              \
            fail_msg("%s: %s, expected %s", #call, td_status_name(assert_fails_), #want);         \
        if (!strstr(td_last_error(), (text)))                                                     \
            fail_msg("%s: \"%s\" does not say \"%s\"", #call, td_last_error(), (text));           \
    } while (0)

#endif
