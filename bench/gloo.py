#!/usr/bin/env python3
"""Our collectives beside Gloo's (torch.distributed), on one host, taking turns; TSV and ratios.

    gloo.py TANDEM PYTHON_WITH_TORCH MPIEXEC [ROUNDS]

Both run as processes: ours under mpiexec. Medians over the rounds of each size's time."""
import json
import os
import statistics
import subprocess
import sys

TANDEM, PYTHON, MPIEXEC = sys.argv[1:4]
ROUNDS = int(sys.argv[4]) if len(sys.argv) > 4 else 3
HERE = os.path.dirname(os.path.abspath(__file__))
PATTERNS = ("all-reduce", "broadcast", "all-gather", "all-to-all", "reduce-scatter")
SIZES = [64, 1024, 16384, 262144, 4194304, 67108864]


def rows(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def ours(ranks):
    seen = {}
    for pattern in PATTERNS:
        for size in SIZES:
            done = subprocess.run(
                [MPIEXEC, "--map-by", ":OVERSUBSCRIBE", "--mca", "osc", "^ucx", "-n", str(ranks),
                 TANDEM, "bench", "--comm", pattern, "--min-bytes", str(size), "--max-bytes",
                 str(size), "--json"], check=True, capture_output=True, text=True)
            row = rows(done.stdout)[0]
            assert row["right"], row
            seen[pattern, size] = row["us"]
    return seen


def gloos(ranks):
    done = subprocess.run([PYTHON, os.path.join(HERE, "gloo_ranks.py"), str(ranks),
                           ",".join(map(str, SIZES))], check=True, capture_output=True, text=True)
    return {(row["pattern"], row["bytes"]): row["us"] for row in rows(done.stdout)}


def main():
    print("ranks\tpattern\tbytes\tours us\tGloo us\tGloo/ours")
    for ranks in (2, 4):
        mine, theirs = [], []
        for _ in range(ROUNDS):
            mine.append(ours(ranks))
            theirs.append(gloos(ranks))
        for pattern in PATTERNS:
            ratios = []
            for size in SIZES:
                a = statistics.median(m[pattern, size] for m in mine)
                b = statistics.median(t[pattern, size] for t in theirs)
                ratios.append(b / a)
                print(f"{ranks}\t{pattern}\t{size}\t{a:.2f}\t{b:.2f}\t{b / a:.2f}", flush=True)
            print(f"# {pattern} on {ranks} ranks: Gloo / ours: median "
                  f"{statistics.median(ratios):.2f}, least {min(ratios):.2f}", flush=True)


if __name__ == "__main__":
    main()
