/* What the library says while it runs: lines on standard error, "tandem: ..." . */
#ifndef TD_BASE_LOG_H
#define TD_BASE_LOG_H

#include "tandem/status.h"

typedef enum td_log_level { TD_LOG_QUIET, TD_LOG_WARN, TD_LOG_INFO, TD_LOG_DEBUG } td_log_level;

/* The level is one per process (it belongs to the terminal, not to a rank); default
 * TD_LOG_WARN. Safe from any thread. */
void td_log_set_level(td_log_level level);
td_log_level td_log_get_level(void);
void td_log(td_log_level level, const char *format, ...) TD_PRINTF(2, 3);

#define td_warn(...) td_log(TD_LOG_WARN, __VA_ARGS__)
#define td_info(...) td_log(TD_LOG_INFO, __VA_ARGS__)
#define td_debug(...) td_log(TD_LOG_DEBUG, __VA_ARGS__)

#endif
