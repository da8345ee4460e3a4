#!/usr/bin/env python3
"""Our collectives beside MPI's own on one host, several runs of coll_bench: where the system puts two
processes of a run, on cores near each other or far, changes all its figures.

    collectives.py BUILD MPIEXEC [RUNS [RANKS [PATTERN [LEAST [MOST]]]]]     default 5 runs, 2 and 4 ranks

Each run is made twice: with vectors of malloc, and ("registered") with ours in memory of td_comm_alloc and
MPI's of MPI_Alloc_mem.

Prints TSV: for each pattern and size the medians over the runs, and the ratio MPI / ours with its least
and most; then a line for each pattern: the median and the least of the sizes' ratios, for all-reduce also
of those from 16 KiB on."""
import os
import statistics
import subprocess
import sys

BUILD, MPIEXEC = os.path.abspath(sys.argv[1]), sys.argv[2]
RUNS = int(sys.argv[3]) if len(sys.argv) > 3 else 5
RANKS = [int(n) for n in sys.argv[4].split(",")] if len(sys.argv) > 4 else [2, 4]
ENV = dict(os.environ, TANDEM_MPI_MODULE=os.path.join(BUILD, "src", "comm", "tandem-mpi.so"))
if os.getuid() == 0:
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "PRTE_ALLOW_RUN_AS_ROOT"):
        ENV[name] = ENV[name + "_CONFIRM"] = "1"


def run(ranks, seen, kind):
    what = (sys.argv[5:] + ["all", "4", str(64 << 20)][len(sys.argv[5:]):] + [kind])[:4 if kind else 3]
    text = subprocess.run([MPIEXEC, "--map-by", ":OVERSUBSCRIBE", "--mca", "osc", "^ucx", "-n", str(ranks),
                           os.path.join(BUILD, "bench", "coll_bench"), *what], env=ENV, check=True,
                          stdout=subprocess.PIPE, text=True).stdout
    for line in text.splitlines()[1:]:
        if not line.startswith("#"):
            pattern, size, *figures = line.split("\t")
            seen.setdefault(f"{pattern} {kind}".strip(), {}).setdefault(int(size), []).append([float(f) for f in figures])


def summary(what, ranks, ratios):
    print(f"# {what} on {ranks} ranks: MPI / ours: median {statistics.median(ratios):.2f}, "
          f"least {min(ratios):.2f}")


def main():
    print("ranks\tpattern\tbytes\tours us\tMPI us\tMPI/ours\tleast\tmost\tours GB/s\tcopy %")
    for ranks in RANKS:
        seen = {}
        for _ in range(RUNS):
            run(ranks, seen, "")
            run(ranks, seen, "registered")
        for pattern, sizes in seen.items():
            ratios = {}
            for size, rows in sizes.items():
                ours, mpis, ratio, speed, share = map(statistics.median, zip(*rows))
                ratios[size] = ratio
                each = [row[2] for row in rows]
                print(f"{ranks}\t{pattern}\t{size}\t{ours:.2f}\t{mpis:.2f}\t{ratio:.2f}\t{min(each):.2f}\t"
                      f"{max(each):.2f}\t{speed:.2f}\t{share:.0f}")
            summary(pattern, ranks, list(ratios.values()))
            large = [ratio for size, ratio in ratios.items() if size >= 16384]
            if pattern.startswith("all-reduce") and large:
                summary(pattern + " from 16 KiB", ranks, large)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
