/* Options that would do nothing: each is said to be so in a sentence, where it has been given a
 * value other than its default. A resolved job file holds all options at their values, so it is
 * values that are looked at, not what was typed. */
#include "cli/cli.h"

#include "base/error.h"
#include "models/net/net_model.h"
#include "train/rows.h"

#include <string.h>

typedef struct effect {
    const char *flag;
    bool (*has)(const td_job *job);
    const char *with;
} effect;

static bool one_of(const char *name, const char *const *names)
{
    while (*names && strcmp(name, *names) != 0) names++;
    return *names;
}

static bool is_model(const td_job *j, const char *name)
{
    return !strcmp(j->model, name);
}

static bool sparse(const td_job *j)
{
    return td_net_model_is_sparse(j->model);
}

static bool tables(const td_job *j)
{
    return sparse(j) || j->strategy != TD_STRATEGY_ALLREDUCE;
}

static bool ps(const td_job *j)
{
    return j->strategy == TD_STRATEGY_PS;
}

static bool copies(const td_job *j)
{
    return j->strategy == TD_STRATEGY_DOWNPOUR || j->strategy == TD_STRATEGY_EASGD;
}

static bool downpour(const td_job *j)
{
    return j->strategy == TD_STRATEGY_DOWNPOUR;
}

static bool easgd(const td_job *j)
{
    return j->strategy == TD_STRATEGY_EASGD;
}

static bool served(const td_job *j)
{
    return ps(j) || copies(j);
}

static bool not_together(const td_job *j)
{
    return j->strategy != TD_STRATEGY_ALLREDUCE;
}

static bool ps_paced(const td_job *j)
{
    td_clock clock;
    bool read = td_rows_clock(j, &clock) == TD_OK;
    if (!read) td_error_clear(); /* what is wrong with it is told later */
    return ps(j) && (!read || !td_clock_is_exact(&clock));
}

static bool pushes_age(const td_job *j)
{
    return ps_paced(j) || downpour(j);
}

static bool may_balance(const td_job *j)
{
    return j->strategy != TD_STRATEGY_HOGWILD;
}

static bool keyed(const td_job *j)
{
    return sparse(j) && j->strategy != TD_STRATEGY_HOGWILD;
}

static bool factors(const td_job *j)
{
    return sparse(j) && !is_model(j, "linear");
}

static bool dlrm(const td_job *j)
{
    return is_model(j, "dlrm");
}

static bool together(const td_job *j)
{
    return !tables(j);
}

static bool net_of_its_own(const td_job *j)
{
    return dlrm(j) && !easgd(j);
}

static bool net_paced(const td_job *j)
{
    return dlrm(j) && ps_paced(j);
}

static bool rule_of(const td_job *j, const char *const *in_nets, const char *const *in_tables)
{
    const char *const *names = tables(j) ? in_tables : in_nets;
    if (easgd(j)) return false;
    return one_of(j->rule, names) || (dlrm(j) && j->net_rule && one_of(j->net_rule, names));
}

static bool momentum(const td_job *j)
{
    static const char *const nets[] = {"sgd", "nesterov", "rmsprop", NULL};
    static const char *const tables_[] = {"sgd", "nesterov", NULL}; /* the latter is refused */
    return rule_of(j, nets, tables_);
}

static bool beta1(const td_job *j)
{
    static const char *const names[] = {"adam", "adamw", NULL};
    return rule_of(j, names, names);
}

static bool beta2(const td_job *j)
{
    static const char *const names[] = {"adam", "adamw", "rmsprop", NULL};
    return rule_of(j, names, names);
}

static bool epsilon(const td_job *j)
{
    static const char *const names[] = {"adam", "adamw", "adagrad", "rmsprop", NULL};
    return rule_of(j, names, names);
}

static bool ftrl(const td_job *j)
{
    static const char *const names[] = {"ftrl", NULL};
    return rule_of(j, names, names);
}

static bool decays(const td_job *j)
{
    if (easgd(j) || strcmp(j->rule, "ftrl") != 0) return true;
    return dlrm(j) && j->net_rule && *j->net_rule && strcmp(j->net_rule, "ftrl") != 0;
}

static bool any_rule(const td_job *j)
{
    return !easgd(j);
}

static bool in_steps(const td_job *j)
{
    return !strcmp(td_optim_schedule_names[j->schedule], "step");
}

static bool to_final(const td_job *j)
{
    const char *name = td_optim_schedule_names[j->schedule];
    return !strcmp(name, "cosine") || !strcmp(name, "linear");
}

#define HASHED "models over hashed features: linear, fm, ffm, dlrm"
#define KEPT "models over hashed features whose rows lie in tables, not hogwild's memory"
#define TOGETHER "networks with --strategy allreduce"

static const effect effects[] = {
    {"clock", ps, "--strategy ps"},
    {"servers", served, "--strategy ps, downpour or easgd"},
    {"data-servers", not_together, "--strategy ps, downpour, easgd or hogwild"},
    {"replicas", tables, "parameters in tables: --strategy ps, or a model over hashed features"},
    {"staleness-rate", pushes_age, "--strategy downpour, or ps at a --clock other than bsp"},
    {"compensation", ps_paced, "--strategy ps at a --clock other than bsp"},
    {"push-every", copies, "--strategy downpour or easgd"},
    {"fetch-every", downpour, "--strategy downpour"},
    {"elastic", easgd, "--strategy easgd"},
    {"table-memory", sparse, HASHED},
    {"admit", keyed, KEPT},
    {"evict-after", keyed, KEPT},
    {"rows-from", sparse, HASHED},
    {"bits", sparse, HASHED},
    {"hash-seed", sparse, HASHED},
    {"factors", factors, "--model fm, ffm or dlrm"},
    {"bottom", dlrm, "--model dlrm"},
    {"top", dlrm, "--model dlrm"},
    {"balance", may_balance, "strategies other than hogwild, whose rows lie in one memory"},
    {"shift", together, TOGETHER},
    {"flip", together, TOGETHER},
    {"crop", together, TOGETHER},
    {"shard-optimizer", together, TOGETHER},
    {"optimizer", any_rule, "strategies other than easgd, which moves by plain sgd"},
    {"net-optimizer", net_of_its_own, "--model dlrm, but not easgd"},
    {"net-lr", net_of_its_own, "--model dlrm, but not easgd"},
    {"net-clock", net_paced, "--model dlrm with --strategy ps at a --clock other than bsp"},
    {"momentum", momentum, "--optimizer sgd, or networks' nesterov and rmsprop"},
    {"beta1", beta1, "--optimizer adam or adamw"},
    {"beta2", beta2, "--optimizer adam, adamw or rmsprop"},
    {"epsilon", epsilon, "--optimizer adam, adamw, adagrad or rmsprop"},
    {"l1", ftrl, "--optimizer ftrl"},
    {"l2", ftrl, "--optimizer ftrl"},
    {"ftrl-beta", ftrl, "--optimizer ftrl"},
    {"weight-decay", decays, "rules other than ftrl, which has --l1 and --l2"},
    {"step-every", in_steps, "--schedule step"},
    {"gamma", in_steps, "--schedule step"},
    {"final-lr", to_final, "--schedule cosine or linear"},
};

static const td_option *row_of(const char *flag)
{
    const td_option *row = td_job_rows;
    while (row->name &&
           !((row->where & TD_JOB_TRAIN) && !strcmp(row->flag ? row->flag : row->name, flag)))
        row++;
    return row;
}

td_status td_cli_check_effects(const td_job *job)
{
    td_job usual;
    char text[256], first[256];
    td_status status = td_job_init(&usual);
    for (size_t k = 0; k < sizeof effects / sizeof *effects && status == TD_OK; k++) {
        const effect *e = &effects[k];
        const td_option *row = row_of(e->flag);
        if (!row->name || e->has(job)) continue;
        td_option_text(row, job, text, sizeof text);
        td_option_text(row, &usual, first, sizeof first);
        if (strcmp(text, first) != 0)
            status = td_fail(TD_ERR_ARG, "--%s is for %s; here it would do nothing: leave it out",
                             e->flag, e->with);
    }
    td_options_fini(td_job_rows, &usual);
    return status;
}

td_status td_cli_check_data_effects(const td_job *job, const td_dataset *data)
{
    bool whole = sparse(job) && td_dataset_info(data)->sparse && !job->bits;
    if (!whole || !job->hash_seed) return TD_OK;
    return td_fail(TD_ERR_ARG, "--hash-seed is for keys that are hashed: those of columns, or with "
                               "--bits; here it would do nothing: leave it out");
}
