#!/usr/bin/env python3
"""The local transport (ranks are threads) beside the mpi transport (ranks are processes), in one
run, alternating: every pattern and size of "tandem bench --comm".

    transports.py TANDEM MPIEXEC [ROUNDS [MOST [RANKS ...]]]      default 5 rounds, to 4 MiB, 2 4

Prints TSV with the medians over the rounds, the median ratio mpi / local of each pattern and size, and
the ratio of the fastest rounds (where two cores are sometimes near each other and sometimes far, each run
has one or the other, and the medians of few rounds compare both); then, for each pattern, the least and
the median of both ratios over the sizes."""
import json
import statistics
import subprocess
import sys

TANDEM, MPIEXEC = sys.argv[1:3]
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 5
MOST = sys.argv[4] if len(sys.argv) > 4 else str(4 << 20)
RANKS = [int(n) for n in sys.argv[5:]] or [2, 4]
PATTERNS = ("barrier", "broadcast", "scatter", "gather", "all-gather", "all-to-all", "reduce",
            "all-reduce", "reduce-scatter", "scan")


def measure(command):
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert rows and all(row["right"] for row in rows), text
    return {row["bytes"]: row["us"] for row in rows}


def main():
    print("ranks\tpattern\tbytes\tlocal us\tmpi us\tmpi/local\tfastest mpi/local")
    for ranks in RANKS:
        for pattern in PATTERNS:
            words = [TANDEM, "bench", "--comm", pattern, "--max-bytes", MOST, "--json"]
            turns = []
            for _ in range(ROUNDS):
                turns.append((measure(words + ["--workers", str(ranks)]),
                              measure([MPIEXEC, "--map-by", ":OVERSUBSCRIBE", "--mca", "osc", "^ucx",
                                       "-n", str(ranks)] + words)))
            ratios, fastest = [], []
            for size in turns[0][0]:
                local, mpi = ([turn[k][size] for turn in turns] for k in (0, 1))
                ratios.append(statistics.median(m / t for t, m in zip(local, mpi)))
                fastest.append(min(mpi) / min(local))
                print(f"{ranks}\t{pattern}\t{size}\t{statistics.median(local):.2f}\t"
                      f"{statistics.median(mpi):.2f}\t{ratios[-1]:.2f}\t{fastest[-1]:.2f}", flush=True)
            print(f"# {pattern} on {ranks} ranks: mpi / local: least {min(ratios):.2f}, median "
                  f"{statistics.median(ratios):.2f}; of the fastest rounds {min(fastest):.2f}, "
                  f"{statistics.median(fastest):.2f}", flush=True)


if __name__ == "__main__":
    main()
