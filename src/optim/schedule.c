/* Schedules. Warm-up comes first, whatever follows; cosine and linear run over the steps behind it.
 *
 *   constant  lr
 *   step      lr * gamma^(step / every)
 *   cosine    final + (lr - final) (1 + cos(pi t)) / 2      (Loshchilov and Hutter 2017)
 *   linear    final + (lr - final) (1 - t)
 * where t is the share of the steps behind the warm-up that is done. */
#include "optim/schedule.h"

#include "base/error.h"

#include <math.h>
#include <string.h>

static double constant(const td_optim_config *c, uint64_t step)
{
    (void)step;
    return c->lr;
}

static double by_steps(const td_optim_config *c, uint64_t step)
{
    return c->lr * pow(c->gamma, (double)(step / c->every));
}

static double share_done(const td_optim_config *c, uint64_t step)
{
    if (step >= c->total) return 1;
    if (step <= c->warmup || c->total <= c->warmup) return 0;
    return (double)(step - c->warmup) / (double)(c->total - c->warmup);
}

static double cosine(const td_optim_config *c, uint64_t step)
{
    double wave = (1 + cos(3.14159265358979324 * share_done(c, step))) / 2;
    return c->final_lr + (c->lr - c->final_lr) * wave;
}

static double linear(const td_optim_config *c, uint64_t step)
{
    return c->final_lr + (c->lr - c->final_lr) * (1 - share_done(c, step));
}

static const struct {
    const char *name;
    double (*rate)(const td_optim_config *c, uint64_t step);
    bool needs_total, needs_every;
} schedules[] = {
    {"constant", constant, false, false},
    {"step", by_steps, false, true},
    {"cosine", cosine, true, false},
    {"linear", linear, true, false},
};
enum { SCHEDULES = sizeof schedules / sizeof *schedules };

const char *const td_optim_schedule_names[] = {"constant", "step", "cosine", "linear", NULL};

static int find(const td_optim_config *c)
{
    int i = 0;
    if (!c->schedule) return 0;
    while (i < SCHEDULES && strcmp(schedules[i].name, c->schedule) != 0) i++;
    return i;
}

td_status td_schedule_check(const td_optim_config *c)
{
    int i = find(c);
    if (i == SCHEDULES)
        return td_fail(TD_ERR_ARG,
                       "no schedule is called \"%s\"; there are constant, step, cosine "
                       "and linear",
                       c->schedule);
    if (schedules[i].needs_every && c->every == 0)
        return td_fail(TD_ERR_ARG, "the schedule \"step\" needs the number of steps between drops");
    if (schedules[i].needs_total && c->total == 0)
        return td_fail(TD_ERR_ARG, "the schedule \"%s\" needs the number of steps of the run",
                       c->schedule);
    return TD_OK;
}

bool td_schedule_needs_total(const char *name)
{
    td_optim_config c = {.schedule = name};
    return schedules[find(&c)].needs_total;
}

double td_schedule_rate(const td_optim_config *c, uint64_t step)
{
    if (step < c->warmup) return c->lr * (double)(step + 1) / (double)c->warmup;
    return schedules[find(c)].rate(c, step);
}
