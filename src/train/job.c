/* The rows. See job.h. */
#include "train/job.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "comm/transport.h"
#include "data/synth.h"
#include "tandem/data.h"
#include "tandem/net.h"
#include "tandem/optim.h"

#include <string.h>

#define AT(field) offsetof(td_job, field)
#define ALL (TD_JOB_FILE | TD_JOB_TRAIN)
#define READ (ALL | TD_JOB_EVAL | TD_JOB_PREDICT)

static const char *const losses[] = {"auto",  "softmax", "squared", "binary",
                                     "hinge", "poisson", NULL}; /* "auto", then by td_loss */
static const char *const keeps[] = {"auto", "last", "best", NULL};
static const char *const on_hangs[] = {"abort", "wait", "kill", NULL}; /* by td_on_hang */

/* td_optim_rule_names, and what tables know besides (ps/rule.h) */
static const char *const rules[] = {"sgd",     "nesterov", "adam", "adamw",
                                    "adagrad", "rmsprop",  "ftrl", NULL};

static const char *const strategies[] = {"allreduce", "ps",      "downpour",
                                         "easgd",     "hogwild", NULL}; /* by td_job_strategy */

/* By td_pattern, then what else tandem bench times, then "all". */
const char *const td_job_patterns[] = {"barrier", "broadcast",  "scatter",
                                       "gather",  "all-gather", "all-to-all",
                                       "reduce",  "all-reduce", "reduce-scatter",
                                       "scan",    "send-recv",  "push-pull",
                                       "all",     NULL};

const td_option td_job_rows[] = {
    {"data.path", "data", TD_OPT_TEXT, AT(data), NULL, "PATH",
     "data: a file, or a folder with train and test files", 0, 0, NULL, READ | TD_JOB_PLACE},
    {"data.format", "format", TD_OPT_TEXT, AT(data_format), "auto", "NAME",
     "of the data; npy: npz too", 0, 0, td_format_names, READ},
    {"data.label", "label", TD_OPT_TEXT, AT(label), NULL, "COLUMN",
     "label column, by name, or by number from 0 or, from the end, -1 (CSV, TSV); empty: the one "
     "called label, else the first",
     0, 0, NULL, READ},
    {"data.label_kind", "label-kind", TD_OPT_TEXT, AT(label_kind), "auto", "KIND",
     "what labels are", 0, 0, td_label_kind_names, READ},
    {"data.header", "header", TD_OPT_INT, AT(header), "0", "N",
     "1: the first line has names, -1: it has not, 0: look", -1, 1, NULL, READ},
    {"data.delimiter", "delimiter", TD_OPT_TEXT, AT(delimiter), NULL, "CHAR",
     "between fields (CSV)", 0, 0, NULL, READ},
    {"data.weights", "weights", TD_OPT_TEXT, AT(weights), NULL, "COLUMN",
     "column of sample weights (CSV, TSV)", 0, 0, NULL, ALL},
    {"data.categorical", "categorical", TD_OPT_TEXT, AT(categorical), NULL, "COLUMNS",
     "columns that hold categories, or auto or none", 0, 0, NULL, READ},
    {"data.missing", "missing", TD_OPT_TEXT, AT(missing), NULL, "TEXTS",
     "texts that stand for a missing value, as an empty field does; empty: " TD_DATA_MISSING, 0, 0,
     NULL, READ},
    {"data.one_hot", "one-hot", TD_OPT_BOOL, AT(one_hot), "true", NULL,
     "categories as columns of 0 and 1 (default; --no-one-hot: as codes)", 0, 0, NULL, ALL},
    {"data.index_base", "index-base", TD_OPT_INT, AT(index_base), "0", "N",
     "libsvm: 1: indices count from 1, -1: from 0, 0: look", -1, 1, NULL, READ},
    {"data.cache", "cache", TD_OPT_BOOL, AT(cache), "false", NULL,
     "keep parsed text as a binary file beside it", 0, 0, NULL, READ},
    {"data.holdout", "holdout", TD_OPT_NUMBER, AT(holdout), "0", "SHARE",
     "share of the training data held out", 0, 0.9, NULL, ALL},
    {"data.shuffle", "shuffle", TD_OPT_CHOICE, AT(shuffle), "global", "HOW", "order of an epoch", 0,
     0, td_shuffle_names, ALL},
    {"data.drop_last", "drop-last", TD_OPT_BOOL, AT(drop_last), "false", NULL,
     "leave out an epoch's last, partial batch", 0, 0, NULL, ALL},
    {"data.normalise", "normalise", TD_OPT_CHOICE, AT(normalise), "auto", "HOW",
     "scaling of the features", 0, 0, td_normalise_names, ALL},
    {"augment.shift", "shift", TD_OPT_INT, AT(shift), "0", "PIXELS",
     "move images by up to so many pixels", 0, 1000, NULL, ALL},
    {"augment.flip", "flip", TD_OPT_BOOL, AT(flip), "false", NULL, "mirror half of the images", 0,
     0, NULL, ALL},
    {"augment.crop", "crop", TD_OPT_INT, AT(crop), "0", "PIXELS",
     "pad images by so many pixels and cut the size out anywhere", 0, 1000, NULL, ALL},
    {"model.arch", "model", TD_OPT_TEXT, AT(model), "mlp", "MODEL",
     "softmax, mlp, lenet, resnet20, or layers: \"conv:32,5 relu pool:2 dense:0\"; over hashed "
     "features: linear, fm, ffm, dlrm",
     0, 0, NULL, ALL | TD_JOB_BENCH},
    {"model.factors", "factors", TD_OPT_INT, AT(factors), "0", "N",
     "fm, ffm: length of a factor; dlrm: width of an embedding; 0: 4, dlrm 16", 0, 4096, NULL, ALL},
    {"model.bottom", "bottom", TD_OPT_TEXT, AT(bottom), NULL, "UNITS",
     "dlrm: layers for numbers, as 64-16; the last as wide as an embedding", 0, 0, NULL, ALL},
    {"model.top", "top", TD_OPT_TEXT, AT(top), NULL, "UNITS",
     "dlrm: layers over products of embeddings, as 128-64-1", 0, 0, NULL, ALL},
    {"model.bits", "bits", TD_OPT_INT, AT(bits), "0", "N",
     "linear, fm, ffm, dlrm: features are hashed to so many bits; 0: to 64", 0, 63, NULL, ALL},
    {"model.hash_seed", "hash-seed", TD_OPT_SIZE, AT(hash_seed), "0", "N", "of that hash", 0, 0,
     NULL, ALL},
    {"model.init", "init", TD_OPT_TEXT, AT(init), "fan-in", "HOW", "initial weights", 0, 0,
     td_net_init_names, ALL},
    {"model.loss", "loss", TD_OPT_CHOICE, AT(loss), "auto", "LOSS", "what is minimised", 0, 0,
     losses, ALL},
    {"optimizer.name", "optimizer", TD_OPT_TEXT, AT(rule), "sgd", "RULE",
     "update rule; of parameters in tables: sgd, adagrad, adam or ftrl", 0, 0, rules, ALL},
    {"optimizer.lr", "lr", TD_OPT_NUMBER, AT(lr), "0.01", "RATE", "learning rate", 1e-12, 1e5, NULL,
     ALL},
    {"optimizer.momentum", "momentum", TD_OPT_NUMBER, AT(momentum), "0", "MU", "momentum", 0,
     0.999999, NULL, ALL},
    {"optimizer.beta1", "beta1", TD_OPT_NUMBER, AT(beta1), "0", "B",
     "adam: decay of the first moment; 0: 0.9", 0, 0.999999, NULL, ALL},
    {"optimizer.beta2", "beta2", TD_OPT_NUMBER, AT(beta2), "0", "B",
     "adam, rmsprop: decay of the second moment; 0: the rule's", 0, 0.9999999, NULL, ALL},
    {"optimizer.epsilon", "epsilon", TD_OPT_NUMBER, AT(epsilon), "0", "E",
     "keeps divisions finite; 0: the rule's", 0, 1, NULL, ALL},
    {"optimizer.l1", "l1", TD_OPT_NUMBER, AT(l1), "0", "L", "ftrl: keeps weights at 0", 0, 1e6,
     NULL, ALL},
    {"optimizer.l2", "l2", TD_OPT_NUMBER, AT(l2), "0", "L", "ftrl: keeps weights small", 0, 1e6,
     NULL, ALL},
    {"optimizer.beta", "ftrl-beta", TD_OPT_NUMBER, AT(beta), "0", "B",
     "ftrl: slows the rate down at first; 0: 1", 0, 1e6, NULL, ALL},
    {"optimizer.weight_decay", "weight-decay", TD_OPT_NUMBER, AT(weight_decay), "0", "W",
     "decay of weights", 0, 100, NULL, ALL},
    {"optimizer.clip", "clip", TD_OPT_NUMBER, AT(clip), "0", "NORM",
     "largest norm of a gradient; 0: any", 0, 1e9, NULL, ALL},
    {"optimizer.shard", "shard-optimizer", TD_OPT_BOOL, AT(shard_optimizer), "false", NULL,
     "each worker keeps its and a neighbour's part of the optimizer's state; changes no result", 0,
     0, NULL, ALL | TD_JOB_PLACE},
    {"optimizer.net", "net-optimizer", TD_OPT_TEXT, AT(net_rule), NULL, "RULE",
     "dlrm: the network's, beside the embeddings' --optimizer; empty: the same", 0, 0, rules, ALL},
    {"optimizer.net_lr", "net-lr", TD_OPT_NUMBER, AT(net_lr), "0", "RATE",
     "dlrm: the network's learning rate; 0: --lr", 0, 1e5, NULL, ALL},
    {"schedule.name", "schedule", TD_OPT_CHOICE, AT(schedule), "constant", "NAME",
     "the learning rate over time", 0, 0, td_optim_schedule_names, ALL},
    {"schedule.warmup", "warmup", TD_OPT_NUMBER, AT(warmup), "0", "EPOCHS",
     "the rate rises over so many epochs first", 0, 1e6, NULL, ALL},
    {"schedule.every", "step-every", TD_OPT_NUMBER, AT(step_epochs), "1", "EPOCHS",
     "step: epochs between drops", 1e-6, 1e6, NULL, ALL},
    {"schedule.gamma", "gamma", TD_OPT_NUMBER, AT(gamma), "0.1", "FACTOR", "step: size of a drop",
     1e-9, 1, NULL, ALL},
    {"schedule.final", "final-lr", TD_OPT_NUMBER, AT(final_lr), "0", "RATE",
     "cosine, linear: rate at the end", 0, 1e6, NULL, ALL},
    {"train.epochs", "epochs", TD_OPT_INT, AT(epochs), "5", "N", "passes over the data", 1, 1000000,
     NULL, ALL | TD_JOB_LENGTH},
    {"train.steps", "steps", TD_OPT_SIZE, AT(steps), "0", "N",
     "stop after so many steps; 0: epochs decide", 0, 0, NULL, ALL | TD_JOB_LENGTH | TD_JOB_BENCH},
    {"train.batch", "batch", TD_OPT_INT, AT(batch), "128", "N",
     "samples of a step, over all workers", 1, 16777216, NULL, ALL | TD_JOB_BENCH},
    {"train.leaves", "leaves", TD_OPT_INT, AT(leaves), "16", "N",
     "parts that a batch is cut into, whatever the number of workers", 1, 4096, NULL,
     ALL | TD_JOB_BENCH},
    {"train.accumulate", "accumulate", TD_OPT_INT, AT(accumulate), "1", "N",
     "parts of a step computed one after the other", 1, 4096, NULL, ALL},
    {"train.seed", "seed", TD_OPT_SIZE, AT(seed), "1", "N", "of everything random", 0, 0, NULL,
     ALL | TD_JOB_SYNTH},
    {"train.patience", "patience", TD_OPT_INT, AT(patience), "0", "EPOCHS",
     "stop when the held-out loss has not fallen for so long; 0: never", 0, 1000000, NULL, ALL},
    {"train.keep", "keep", TD_OPT_CHOICE, AT(keep), "auto", "WHICH",
     "model to keep; auto: the best with holdout or patience, else the last", 0, 0, keeps, ALL,
     "--keep-checkpoints says how many checkpoints stay"},
    {"train.eval_every", "eval-every", TD_OPT_INT, AT(eval_every), "1", "EPOCHS",
     "epochs between evaluations; 0: only at the end", 0, 1000000, NULL, ALL},
    {"strategy.name", "strategy", TD_OPT_CHOICE, AT(strategy), "allreduce", "NAME",
     "how gradients become updates: together; through parameter servers; by workers that move a "
     "copy "
     "of their own and push and fetch now and then (downpour), or are drawn to a common centre "
     "(easgd); "
     "in memory that the workers of one machine share (hogwild)",
     0, 0, strategies, ALL},
    {"strategy.servers", "servers", TD_OPT_INT, AT(servers), "0", "N",
     "ps: ranks beyond the workers (under mpiexec: the last of its ranks) that hold the "
     "parameters; "
     "0: the workers do",
     0, 1023, NULL, ALL | TD_JOB_PLACE},
    {"strategy.data_servers", "data-servers", TD_OPT_INT, AT(data_servers), "0", "N",
     "tables: ranks beyond workers and servers that read and batch the samples, at their own "
     "pace for whoever is free; 0: each worker reads its own",
     0, 64, NULL, ALL | TD_JOB_PLACE},
    {"strategy.clock", "clock", TD_OPT_TEXT, AT(clock), "bsp", "CLOCK",
     "ps: how far workers may drift apart: bsp, ssp:BOUND, asp, backup:WORKERS[:apply] or "
     "groups:GROUPS:INSIDE:BETWEEN",
     0, 0, NULL, ALL},
    {"strategy.net_clock", "net-clock", TD_OPT_TEXT, AT(net_clock), NULL, "CLOCK",
     "dlrm: the network's table's, where both are asp, ssp or groups; empty: the same", 0, 0, NULL,
     ALL},
    {"strategy.replicas", "replicas", TD_OPT_INT, AT(replicas), "0", "N",
     "tables: 1: each part is kept by a second server, too", 0, 1, NULL, ALL | TD_JOB_PLACE},
    {"strategy.staleness_rate", "staleness-rate", TD_OPT_BOOL, AT(staleness_rate), "false", NULL,
     "ps, downpour: the rate of a push is divided by its staleness", 0, 0, NULL, ALL},
    {"strategy.compensation", "compensation", TD_OPT_NUMBER, AT(compensation), "0", "LAMBDA",
     "ps: delays are compensated for (DC-ASGD); 0: not", 0, 1e6, NULL, ALL},
    {"strategy.push_every", "push-every", TD_OPT_INT, AT(push_every), "1", "STEPS",
     "downpour: steps between pushes; easgd: between moves to the centre", 1, 1000000, NULL, ALL},
    {"strategy.fetch_every", "fetch-every", TD_OPT_INT, AT(fetch_every), "1", "STEPS",
     "downpour: steps between fetches", 1, 1000000, NULL, ALL},
    {"strategy.elastic", "elastic", TD_OPT_NUMBER, AT(elastic), "0", "ALPHA",
     "easgd: how far a worker and the centre move towards each other; 0: 0.9 / workers", 0, 1, NULL,
     ALL},
    {"tables.memory", "table-memory", TD_OPT_SIZE, AT(table_memory), "0", "BYTES",
     "of each server's rows (512m, 4g), or of a model's; what is more lies on disk; 0: all in "
     "memory",
     0, 0, NULL, ALL | TD_JOB_PLACE | TD_JOB_EVAL | TD_JOB_PREDICT},
    {"tables.admit", "admit", TD_OPT_INT, AT(admit), "1", "N",
     "a key gets a row when it has been seen so often", 1, 1000000000, NULL, ALL},
    {"tables.evict_after", "evict-after", TD_OPT_INT, AT(evict_after), "0", "STEPS",
     "rows that no push has moved for so long are forgotten; 0: never", 0, 2000000000, NULL, ALL},
    {"tables.rows_from", "rows-from", TD_OPT_TEXT, AT(rows_from), NULL, "FILE",
     "what rows begin with, from a file as \"tandem export\" writes it, where it has their keys", 0,
     0, NULL, ALL},
    {"workers", NULL, TD_OPT_INT, AT(workers), "1", "N",
     "workers, as threads of this process (under mpiexec: its ranks)", 1, 1024, NULL,
     ALL | TD_JOB_PLACE | TD_JOB_EVAL | TD_JOB_PREDICT | TD_JOB_BENCH | TD_JOB_RUN},
    {"threads", NULL, TD_OPT_INT, AT(threads), "1", "N", "threads of each worker", 1, 1024, NULL,
     ALL | TD_JOB_PLACE | TD_JOB_BENCH | TD_JOB_SYNTH},
    {"balance", NULL, TD_OPT_BOOL, AT(balance), "false", NULL,
     "deal leaves of slow workers to fast ones; changes no result", 0, 0, NULL, ALL | TD_JOB_PLACE},
    {"run", NULL, TD_OPT_TEXT, AT(run), NULL, "FOLDER", "where the run lives", 0, 0, NULL,
     TD_JOB_TRAIN | TD_JOB_PLACE | TD_JOB_EVAL | TD_JOB_PREDICT | TD_JOB_INSPECT | TD_JOB_EXPORT},
    {"resume", NULL, TD_OPT_BOOL, AT(resume), "false", NULL,
     "go on from the run's newest checkpoint; a finished run with more --epochs", 0, 0, NULL,
     TD_JOB_TRAIN | TD_JOB_PLACE},
    {"overwrite", NULL, TD_OPT_BOOL, AT(overwrite), "false", NULL,
     "replace what the folder holds of an older run; export, synth: the older file", 0, 0, NULL,
     TD_JOB_TRAIN | TD_JOB_PLACE | TD_JOB_EXPORT | TD_JOB_SYNTH},
    {"checkpoint.every", "checkpoint-every", TD_OPT_PERIOD, AT(checkpoint_every), "0", "PERIOD",
     "between checkpoints: steps, or a time such as 30s, 5m, 1h; 0: at each epoch's end", 0, 0,
     NULL, ALL | TD_JOB_PLACE},
    {"checkpoint.keep", "keep-checkpoints", TD_OPT_INT, AT(keep_checkpoints), "2", "N",
     "newest checkpoints to keep", 1, 1000000, NULL, ALL | TD_JOB_PLACE},
    {"monitor.every", "metrics-every", TD_OPT_SIZE, AT(metrics_every), "50", "STEPS",
     "steps between lines of metrics.jsonl", 1, 1e15, NULL, ALL | TD_JOB_PLACE},
    {"comm.deadline", "deadline", TD_OPT_INT, AT(deadline_s), "300", "SECONDS",
     "longest wait for another worker", 1, 1000000, NULL, ALL | TD_JOB_PLACE},
    {"comm.on_hang", "on-hang", TD_OPT_CHOICE, AT(on_hang), "abort", "HOW",
     "with a worker that lives but stays silent when the others recover: end the run, wait, or "
     "kill "
     "it and go on",
     0, 0, on_hangs, ALL | TD_JOB_PLACE},
    {"comm.bucket", "bucket-kb", TD_OPT_INT, AT(bucket_kb), "1024", "KIB",
     "gradient reduced in pieces of this size", 1, 1048576, NULL, ALL | TD_JOB_PLACE},
    {"quiet", NULL, TD_OPT_BOOL, AT(quiet), "false", NULL, "say only what goes wrong", 0, 0, NULL,
     TD_JOB_TRAIN | TD_JOB_PLACE | TD_JOB_SYNTH | TD_JOB_EXPORT},
    {"json", NULL, TD_OPT_BOOL, AT(json), "false", NULL, "print results as JSON lines", 0, 0, NULL,
     TD_JOB_TRAIN | TD_JOB_PLACE | TD_JOB_EVAL | TD_JOB_PREDICT | TD_JOB_INSPECT | TD_JOB_BENCH},
    {"hosts", NULL, TD_OPT_TEXT, AT(hosts), NULL, "LIST",
     "machines and their places, a:4,b:4; without it: --workers here", 0, 0, NULL, TD_JOB_RUN},
    {"spares", NULL, TD_OPT_INT, AT(spares), "0", "N",
     "workers beyond these that wait to take the place of one that dies (of the places in --hosts, "
     "of mpiexec's processes the last)",
     0, 1024, NULL, ALL | TD_JOB_PLACE | TD_JOB_RUN},
    {"max-restarts", NULL, TD_OPT_INT, AT(max_restarts), "5", "N",
     "give up after so many restarts without a newer checkpoint", 0, 1000000, NULL, TD_JOB_RUN},
    {"min-workers", NULL, TD_OPT_INT, AT(min_workers), "1", "N",
     "stop, with a checkpoint, when fewer are left; give up when fewer can be started", 1, 1024,
     NULL, ALL | TD_JOB_PLACE | TD_JOB_RUN},
    {"mpiexec", NULL, TD_OPT_TEXT, AT(mpiexec), "mpiexec", "COMMAND",
     "MPI's launcher, with options of its own where it needs some", 0, 0, NULL, TD_JOB_RUN},
    {"agent", NULL, TD_OPT_TEXT, AT(agent), "ssh", "COMMAND",
     "reaches another host: COMMAND HOST PROGRAM ...", 0, 0, NULL, TD_JOB_RUN},
    {"probe", NULL, TD_OPT_TEXT, AT(probe), NULL, "COMMAND",
     "asks whether a host answers: COMMAND HOST; empty: through the agent", 0, 0, NULL, TD_JOB_RUN},
    {"watch", NULL, TD_OPT_INT, AT(watch_s), "15", "SECONDS",
     "between looks whether the hosts still answer; 0: only when the job has died", 0, 86400, NULL,
     TD_JOB_RUN},
    {"dry-run", NULL, TD_OPT_BOOL, AT(dry_run), "false", NULL, "print the command line only", 0, 0,
     NULL, TD_JOB_RUN},
    {"proba", NULL, TD_OPT_BOOL, AT(proba), "false", NULL,
     "print the probability of every class; with --loss binary, the second's alone", 0, 0, NULL,
     TD_JOB_PREDICT},
    {"comm", NULL, TD_OPT_TEXT, AT(bench_comm), NULL, "PATTERN",
     "time what ranks do together instead", 0, 0, td_job_patterns, TD_JOB_BENCH},
    {"algorithm", NULL, TD_OPT_TEXT, AT(algorithm), NULL, "NAME",
     "--comm: time this one, or all that serve, instead of the one that is chosen", 0, 0, NULL,
     TD_JOB_BENCH},
    {"type", NULL, TD_OPT_CHOICE, AT(bench_type), "f32", "TYPE", "--comm: of the elements", 0, 0,
     td_type_names, TD_JOB_BENCH},
    {"op", NULL, TD_OPT_CHOICE, AT(bench_op), "sum", "OP", "--comm: of the reductions", 0, 0,
     td_op_names, TD_JOB_BENCH},
    {"factor", NULL, TD_OPT_INT, AT(factor), "4", "N", "--comm: from one size to the next", 2,
     1000000, NULL, TD_JOB_BENCH},
    {"tune", NULL, TD_OPT_TEXT, AT(tune), NULL, "FILE",
     "--comm: measure every algorithm and write which serves which size best", 0, 0, NULL,
     TD_JOB_BENCH},
    {"comm.tuning", "tuning", TD_OPT_TEXT, AT(tuning), NULL, "FILE",
     "what \"tandem bench --comm all --tune FILE\" measured here", 0, 0, NULL,
     ALL | TD_JOB_PLACE | TD_JOB_BENCH},
    {"registered", NULL, TD_OPT_BOOL, AT(registered), "false", NULL,
     "--comm: vectors in memory of td_comm_alloc, which processes read where it lies", 0, 0, NULL,
     TD_JOB_BENCH},
    {"min-bytes", NULL, TD_OPT_SIZE, AT(min_bytes), "4", "N", "--comm: the smallest vector", 4,
     1e12, NULL, TD_JOB_BENCH},
    {"max-bytes", NULL, TD_OPT_SIZE, AT(max_bytes), "67108864", "N", "--comm: the largest vector",
     4, 1e12, NULL, TD_JOB_BENCH},
    {"split", NULL, TD_OPT_CHOICE, AT(split), "test", "PART", "part of a folder to read", 0, 0,
     td_split_names, TD_JOB_EVAL | TD_JOB_PREDICT},
    {"out", NULL, TD_OPT_TEXT, AT(out), NULL, "FILE",
     "the file to write; of export its ending says how: .tsv or .safetensors", 0, 0, NULL,
     TD_JOB_SYNTH | TD_JOB_EXPORT},
    {"states", NULL, TD_OPT_BOOL, AT(states), "false", NULL,
     "the update rule's states of the rows, too, from the run's newest checkpoint", 0, 0, NULL,
     TD_JOB_EXPORT},
    {"from", NULL, TD_OPT_SIZE, AT(from_key), "0", "KEY", "the lowest key to write", 0, 0, NULL,
     TD_JOB_EXPORT},
    {"to", NULL, TD_OPT_SIZE, AT(to_key), "18446744073709551615", "KEY", "the highest key to write",
     0, 0, NULL, TD_JOB_EXPORT},
    {"rows", NULL, TD_OPT_SIZE, AT(synth_rows), "1000000", "N", "samples", 1, 1e12, NULL,
     TD_JOB_SYNTH},
    {"categories", NULL, TD_OPT_INT, AT(synth_categories), "100000", "N", "of each of 26 fields", 1,
     100000000, NULL, TD_JOB_SYNTH},
    {"zipf", NULL, TD_OPT_NUMBER, AT(synth_zipf), "1.1", "S",
     "the k-th category is k^-S as frequent as the first", 0, 10, NULL, TD_JOB_SYNTH},
    {"format", NULL, TD_OPT_CHOICE, AT(synth_format), "auto", "FORMAT",
     "of the file; auto: as it would be read by its name, else tsv", 0, 0, td_click_formats,
     TD_JOB_SYNTH},
    {NULL, NULL, TD_OPT_BOOL, 0, NULL, NULL, NULL, 0, 0, NULL, 0},
};

td_status td_job_init(td_job *job)
{
    memset(job, 0, sizeof *job);
    return td_options_init(td_job_rows, job);
}

td_status td_job_read_file(const char *path, td_job *job)
{
    char *text;
    size_t size;
    if (!td_path_exists(path)) return td_fail(TD_ERR_ARG, "there is no job file %s", path);
    TD_TRY(td_read_file(path, &text, &size));
    td_status status = td_options_read_yaml(td_job_rows, job, TD_JOB_FILE, path, text, size);
    td_free(text);
    return status;
}

td_status td_job_check_tuning(const td_job *job)
{
    if (!job->tuning || !*job->tuning || job->resume || td_path_exists(job->tuning)) return TD_OK;
    return td_fail(TD_ERR_ARG,
                   "--tuning: there is no file %s; \"tandem bench --comm all --tune FILE\" "
                   "writes one",
                   job->tuning);
}

int td_job_servers(const td_job *job)
{
    bool serves = job->strategy == TD_STRATEGY_PS || job->strategy == TD_STRATEGY_DOWNPOUR ||
                  job->strategy == TD_STRATEGY_EASGD;
    return (serves ? job->servers : 0) + td_job_readers(job);
}

int td_job_readers(const td_job *job)
{
    return job->strategy == TD_STRATEGY_ALLREDUCE ? 0 : job->data_servers;
}

/* "--servers 2 and --data-servers 1". */
static void name_servers(const td_job *job, char *text, size_t room)
{
    int readers = td_job_readers(job), servers = td_job_servers(job) - readers, n = 0;
    if (servers) n = snprintf(text, room, "--servers %d%s", servers, readers ? " and " : "");
    if (readers) snprintf(text + n, room - (size_t)n, "--data-servers %d", readers);
}

td_status td_job_check_ranks(const td_job *job, int ranks)
{
    int leaves = job->leaves, servers = td_job_servers(job), workers = ranks - servers;
    char who[80] = "", spares[40] = "";
    name_servers(job, who, sizeof who);
    if (job->spares)
        snprintf(spares, sizeof spares, " beside %d spare%s", job->spares,
                 job->spares == 1 ? "" : "s");
    if (servers >= leaves && leaves > 1)
        return td_fail(TD_ERR_ARG,
                       "%s and a worker are more than the %d leaves of a batch; ask for at most "
                       "%d, or give more --leaves",
                       who, leaves, leaves - 1);
    if (servers && workers < 1)
        return td_fail(TD_ERR_ARG, "%s leave%s no worker of the job's %d rank%s%s", who,
                       strstr(who, "and") ? "" : "s", ranks, ranks == 1 ? "" : "s", spares);
    if (ranks > leaves)
        return td_fail(TD_ERR_ARG,
                       "%d ranks are more than the %d leaves of a batch; start at most %d, or give "
                       "more --leaves",
                       ranks, leaves, leaves);
    if (workers < job->min_workers)
        return td_fail(TD_ERR_ARG, "--min-workers %d is more than the %d worker%s of the job",
                       job->min_workers, workers, workers == 1 ? "" : "s");
    return TD_OK;
}

td_status td_job_check(const td_job *job)
{
    if (!job->data || !*job->data)
        return td_fail(TD_ERR_ARG, "--data is missing: name a file or folder");
    if (!job->run || !*job->run)
        return td_fail(TD_ERR_ARG, "--run is missing: name a folder for the run");
    if (job->resume && job->overwrite)
        return td_fail(TD_ERR_ARG, "--resume goes on with the run that --overwrite would replace; "
                                   "give one of them");
    TD_TRY(td_job_check_tuning(job));
    if (job->workers > job->leaves)
        return td_fail(TD_ERR_ARG,
                       "--workers %d is more than the %d leaves of a batch; use at most "
                       "%d workers or give more --leaves",
                       job->workers, job->leaves, job->leaves);
    if (job->accumulate > job->batch)
        return td_fail(TD_ERR_ARG, "--accumulate %d is more than the %d samples of a batch",
                       job->accumulate, job->batch);
    if (job->patience && job->eval_every == 0)
        return td_fail(TD_ERR_ARG, "--patience needs evaluations: give --eval-every 1");
    return TD_OK;
}
