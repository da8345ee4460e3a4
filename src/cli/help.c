/* Help, the manual page and shell completion, all from the option rows. */
#include "cli/cli.h"

#include "base/error.h"

#include <stdio.h>
#include <string.h>

static void overview(void)
{
    puts("tandem " TD_VERSION
         ": trains models over many workers; the same job gives the same model,\n"
         "bit for bit, on 1 worker or 64.\n");
    for (const td_command *c = td_commands; c->name; c++)
        printf("  tandem %-42s %s\n", c->usage, c->help);
    puts("\nOptions come as flags, from a job file, or as --set NAME=VALUE with the job file's "
         "names.\n"
         "\"tandem help train\" lists the flags, \"tandem help job\" the names. Exit status: 0 "
         "done,\n"
         "1 the machine or another worker failed, 2 a mistake in options or data, 130 or 143 "
         "stopped\n"
         "by a signal after a checkpoint.");
}

static void job_names(void)
{
    puts("A job file is YAML: \"tandem train job.yaml\". Its names, nested or with dots:\n");
    for (const td_option *row = td_job_rows; row->name; row++)
        if (row->where & TD_JOB_FILE)
            printf("  %-24s %s%s%s%s\n", row->name, row->help, row->initial ? " [" : "",
                   row->initial ? row->initial : "", row->initial ? "]" : "");
}

static void roff_text(const char *text)
{
    for (; *text; text++) {
        if (*text == '-' || *text == '\\') putchar('\\');
        putchar(*text);
    }
}

static void man_page(void)
{
    puts(".TH TANDEM 1\n.SH NAME\ntandem \\- train machine\\-learning models over many workers\n"
         ".SH SYNOPSIS");
    for (const td_command *c = td_commands; c->name; c++) printf(".B tandem %s\n.br\n", c->usage);
    puts(".SH DESCRIPTION\nThe same job gives the same model, bit for bit, whatever the number of "
         "workers, threads or machines.\n.SH OPTIONS");
    for (const td_option *row = td_job_rows; row->name; row++) {
        fputs(".TP\n.B \\-\\-", stdout);
        roff_text(row->flag ? row->flag : row->name);
        if (row->value) printf(" \\fI%s\\fR", row->value);
        putchar('\n');
        roff_text(row->help);
        for (int i = 0; row->choices && row->choices[i]; i++)
            printf("%s%s", i ? ", " : ": ", row->choices[i]);
        putchar('.');
        if (row->where & TD_JOB_FILE) {
            fputs("\nIn a job file: ", stdout);
            roff_text(row->name);
            putchar('.');
        }
        printf("%s%s\n", row->initial ? " Default: " : "", row->initial ? row->initial : "");
    }
    puts(".TP\n.B \\-\\-set \\fINAME=VALUE\\fR\nAny option by its name in a job file.\n"
         ".SH EXIT STATUS\n0 done; 1 the machine or another worker failed; 2 a mistake in options "
         "or "
         "data; 130 or 143 stopped by a signal, after a checkpoint.\n"
         ".SH FILES\n.TP\n.I RUN/job.yaml\nthe job as resolved\n.TP\n.I RUN/metrics.jsonl\na line "
         "per interval and evaluation\n.TP\n.I RUN/model/\nmanifest.json, model.safetensors\n.TP\n"
         ".I RUN/checkpoints/\nthe newest checkpoints\n.TP\n.I RUN/recorder/\nthe ranks' newest "
         "operations, for tandem diagnose");
}

static void complete_flag(const td_option *row)
{
    const char *flag = row->flag ? row->flag : row->name;
    printf("--%s ", flag);
    if (row->type == TD_OPT_BOOL) printf("--no-%s ", flag);
}

/* Of the flag before the cursor: its choices; files where it takes a value and has none. */
static void complete_values(void)
{
    puts("    case ${COMP_WORDS[COMP_CWORD-1]} in");
    for (const td_option *row = td_job_rows; row->name; row++) {
        if (row->type == TD_OPT_BOOL) continue;
        printf("    --%s) words='", row->flag ? row->flag : row->name);
        for (int i = 0; row->choices && row->choices[i]; i++) printf("%s ", row->choices[i]);
        puts("' ;;");
    }
    puts("    esac");
}

static void completion(void)
{
    puts(
        "# bash completion for tandem\n_tandem() {\n    local cur=${COMP_WORDS[COMP_CWORD]} words\n"
        "    case ${COMP_WORDS[1]} in");
    for (const td_command *c = td_commands; c->name; c++) {
        if (!c->where) continue;
        printf("    %s) words='", c->name);
        for (const td_option *row = td_job_rows; row->name; row++)
            if (row->where & c->where) complete_flag(row);
        puts("--set' ;;");
    }
    fputs("    *) words='", stdout);
    for (const td_command *c = td_commands; c->name; c++) printf("%s ", c->name);
    puts("' ;;\n    esac");
    complete_values();
    puts("    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
         "    [ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- \"$cur\"))\n}\n"
         "complete -F _tandem tandem");
}

td_status td_cmd_help(int argc, char **argv)
{
    if (argc == 0) {
        overview();
        return TD_OK;
    }
    if (!strcmp(argv[0], "job")) return job_names(), TD_OK;
    if (!strcmp(argv[0], "man")) return man_page(), TD_OK;
    if (!strcmp(argv[0], "completion")) return completion(), TD_OK;
    for (const td_command *c = td_commands; c->name; c++) {
        if (strcmp(c->name, argv[0]) != 0) continue;
        printf("tandem %s: %s\n", c->usage, c->help);
        if (c->where) {
            puts("\nOptions [default]:");
            td_options_print(td_job_rows, c->where, stdout);
            puts("  --set NAME=VALUE           an option by its name in a job file (\"tandem help "
                 "job\")\n"
                 "  --no-FLAG                  the opposite of a flag that takes no value");
        }
        return TD_OK;
    }
    return td_fail(TD_ERR_ARG, "no command is called \"%s\"; \"tandem help\" lists them", argv[0]);
}
