/* The learning rate as a function of the step. */
#ifndef TD_OPTIM_SCHEDULE_H
#define TD_OPTIM_SCHEDULE_H

#include "tandem/optim.h"

/* TD_ERR_ARG when the schedule's name is unknown or what it needs is missing. */
TD_MUST_CHECK td_status td_schedule_check(const td_optim_config *config);
/* Whether the rate depends on how many steps the run has. A name that is known. */
bool td_schedule_needs_total(const char *name);
double td_schedule_rate(const td_optim_config *config, uint64_t step);

#endif
