/* The learning rate as a function of the step. */
#ifndef TD_OPTIM_SCHEDULE_H
#define TD_OPTIM_SCHEDULE_H

#include "tandem/optim.h"

/* TD_ERR_ARG when the schedule's name is unknown or what it needs is missing. */
TD_MUST_CHECK td_status td_schedule_check(const td_optim_config *config);
double td_schedule_rate(const td_optim_config *config, uint64_t step);

#endif
