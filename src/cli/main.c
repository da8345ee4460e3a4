/* tandem: the program. Finds the subcommand, runs it, says what went wrong in one sentence. */
#include "cli/cli.h"

#include "base/error.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

const td_command td_commands[] = {
    {"train", TD_JOB_TRAIN, "train [JOB.yaml] [OPTIONS]", "train a model", td_cmd_train, true},
    {"run", TD_JOB_RUN, "run [OPTIONS] -- train ...", "start a job under mpiexec and watch over it",
     td_cmd_run, false},
    {"eval", TD_JOB_EVAL, "eval --run RUN --data PATH", "loss and accuracy of a trained model",
     td_cmd_eval, true},
    {"predict", TD_JOB_PREDICT, "predict --run RUN --data PATH [--proba]",
     "a line per sample: the class or value", td_cmd_predict, true},
    {"export", TD_JOB_EXPORT, "export --run RUN --out FILE",
     "rows of a model over features, as .tsv or .safetensors", td_cmd_export, false},
    {"inspect", TD_JOB_INSPECT, "inspect RUN", "a model's tensors and a run's curve",
     td_cmd_inspect, false},
    {"diagnose", 0, "diagnose RUN", "what each rank of a run is doing, or did last; who is missing",
     td_cmd_diagnose, false},
    {"resize", 0, "resize RUN [N] [--servers S] [--data-servers D]",
     "let a run that is under way go on with N ranks: S only serve, D read, the rest work; what is "
     "not named stays",
     td_cmd_resize, false},
    {"bench", TD_JOB_BENCH, "bench [OPTIONS]", "training speed on data in memory", td_cmd_bench,
     true},
    {"synth", TD_JOB_SYNTH, "synth clicks --out FILE [OPTIONS]",
     "a click log of any length with a planted model", td_cmd_synth, false},
    {"doctor", 0, "doctor", "what this machine has: MPI, cores, memory", td_cmd_doctor, false},
    {"help", 0, "help [COMMAND]", "this text, or a command's options", td_cmd_help, false},
    {NULL, 0, NULL, NULL, NULL, false},
};

/* Under mpiexec: whether another process does what this one was started for. The doctor's argument
 * is a test of its own, between ranks. */
static bool leaves_it(const td_command *command, int argc, char **argv)
{
    if (td_cli_rank() == 0) return false;
    for (int i = 2; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return true;
    return !command->name || (!command->ranks && !(command->run == td_cmd_doctor && argc > 2));
}

/* Where a standard stream is closed, the next file opened would take its number, and be written to
 * by whoever writes to the stream. What stands in for it fails as a closed one does. */
static void fill_standard_streams(void)
{
    static const int modes[] = {O_WRONLY, O_RDONLY, O_RDONLY};
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", modes[fd]) != fd) return;
}

/* Text that did not arrive is a failure where text is what was asked for. A run is worth more than
 * what it says. */
static td_status check_output(void)
{
    if (fflush(stdout) != 0) return td_fail_errno("cannot write to the standard output");
    if (ferror(stdout))
        return td_fail(TD_ERR_IO, "not all could be written to the standard output");
    return TD_OK;
}

static int end(td_status status, bool trains)
{
    if (status == TD_OK && !trains) status = check_output();
    if (status == TD_OK) return 0;
    if (*td_last_error()) fprintf(stderr, "tandem: %s\n", td_last_error());
    return td_exit_code(status);
}

int main(int argc, char **argv)
{
    const char *names[16];
    size_t n = 0;
    td_status status;
    fill_standard_streams();
    const char *word = argc > 1 ? argv[1] : "help";
    if (!strcmp(word, "--help") || !strcmp(word, "-h")) word = "help";
    const td_command *command = td_commands;
    for (; command->name && strcmp(command->name, word) != 0; command++) names[n++] = command->name;
    names[n] = NULL;
    if (leaves_it(command, argc, argv)) return 0;
    if (!strcmp(word, "--version") || !strcmp(word, "version")) {
        puts("tandem " TD_VERSION);
        return end(TD_OK, false);
    }
    if (command->name) {
        for (int i = 2; i < argc; i++)
            if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
                return end(td_cmd_help(1, argv + 1), false);
        status = command->run(argc > 2 ? argc - 2 : 0, argv + 2);
    } else {
        const char *near = td_nearest(word, names);
        status = td_fail(TD_ERR_ARG, "unknown command \"%s\"; %s%s%s", word,
                         near ? "did you mean \"" : "\"tandem help\" lists them", near ? near : "",
                         near ? "\"?" : "");
    }
    return end(status, command->run == td_cmd_train);
}
