/* How fast files become data sets, everything in td_dataset_open included.
 *
 *     read_bench [megabytes [threads]]     default 64 MB, 1 thread
 *
 * Writes a made-up file of each text format to the temporary folder, reads it once to have it in
 * the page cache, then takes the best of three. The values are summed and held against a plain
 * loop of strtof over the same file. Prints TSV; a wrong sum ends with status 1. */
#include "tandem/data.h"

#include "base/clock.h"
#include "base/rng.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COLUMNS = 28, FILES = 4 };

typedef struct sample_file {
    const char *name;
    td_format format;
    const char *separator;
    int decimals;
} sample_file;

static const sample_file files[FILES] = {
    {"csv", TD_FORMAT_CSV, ",", 4},
    {"csv-17-digits", TD_FORMAT_CSV, ",", 16},
    {"tsv", TD_FORMAT_TSV, "\t", 3},
    {"libsvm", TD_FORMAT_LIBSVM, " ", 2},
};

static double write_file(const sample_file *kind, const char *path, double megabytes)
{
    FILE *file = fopen(path, "w");
    if (!file) exit(1);
    td_rng rng;
    td_rng_init(&rng, 1, TD_RNG_TEST, 0, 0);
    while ((double)ftell(file) < megabytes * 1e6) {
        fprintf(file, "%u", td_rng_below(&rng, 2));
        for (int k = 0; k < COLUMNS; k++) {
            double x = (td_rng_normal(&rng) + td_rng_unit(&rng) * 1e-7) * 2.0;
            fputs(kind->separator, file);
            if (kind->format == TD_FORMAT_LIBSVM)
                fprintf(file, "%d:", k * 20 + 1 + (int)td_rng_below(&rng, 19));
            fprintf(file, "%.*f", kind->decimals, x);
        }
        fputc('\n', file);
    }
    double size = (double)ftell(file);
    fclose(file);
    return size * 1e-6;
}

/* Every number that is no index, in file order. */
static double sum_plainly(const sample_file *kind, const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file) exit(1);
    char line[4096];
    double sum = 0;
    while (fgets(line, sizeof line, file)) {
        char *at = line;
        sum += strtof(at, &at);
        while (*at && *at != '\n') {
            at++;
            if (kind->format == TD_FORMAT_LIBSVM) at = strchr(at, ':') + 1;
            sum += strtof(at, &at);
        }
    }
    fclose(file);
    return sum;
}

static double sum_of(const td_dataset *data)
{
    const td_data_info *info = td_dataset_info(data);
    float *x = malloc(info->features * sizeof *x);
    if (!x) exit(1);
    double sum = 0;
    for (uint64_t i = 0; i < info->samples; i++) {
        td_dataset_row(data, i, x);
        sum += td_dataset_target(data, i);
        for (size_t k = 0; k < info->features; k++) sum += x[k];
    }
    free(x);
    return sum;
}

int main(int argc, char **argv)
{
    double megabytes = argc > 1 ? atof(argv[1]) : 64;
    int threads = argc > 2 ? atoi(argv[2]) : 1;
    const char *folder = getenv("TMPDIR");
    bool right = true;
    printf("format\tMB\tthreads\tseconds\tMB/s\tcheck\n");
    for (int f = 0; f < FILES; f++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/tandem-read-bench-%d.%s", folder ? folder : "/tmp",
                 (int)getpid(), files[f].name);
        double size = write_file(&files[f], path, megabytes), best = 1e9;
        td_data_config config = {.path = path, .format = files[f].format, .threads = threads};
        bool good = true;
        for (int round = 0; round < 4 && good; round++) {
            td_dataset *data = NULL;
            int64_t begin = td_clock_ns();
            if (td_dataset_open(&config, &data) != TD_OK) {
                fprintf(stderr, "%s\n", td_last_error());
                good = false;
                break;
            }
            double seconds = td_seconds(td_clock_ns() - begin);
            if (round > 0 && seconds < best) best = seconds;
            if (round == 0) good = sum_of(data) == sum_plainly(&files[f], path);
            td_dataset_close(data);
        }
        printf("%s\t%.1f\t%d\t%.4f\t%.0f\t%s\n", files[f].name, size, threads, best, size / best,
               good ? "ok" : "WRONG");
        right = right && good;
        unlink(path);
    }
    return right ? 0 : 1;
}
