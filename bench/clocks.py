#!/usr/bin/env python3
"""Seconds to a fixed logloss under each clock, with one of four workers slow; a table and a plot.

    clocks.py TANDEM [ROUNDS [FOLDER]]      writes FOLDER/clocks.md, FOLDER/clocks.svg; default docs

A linear model on a click log (`tandem synth clicks`), batches of 400, Adagrad. TANDEM_FAKE_SLOW lets three
workers sleep 5 ms in each step and the fourth 20 ms, so that cores are not what is scarce. The logloss is the
progressive one of worker 0 over its last 40 steps; every run must come to it. Medians over rounds, each with
its own seed, in which the clocks alternate. Prints TSV as well."""
import json
import os
import statistics
import subprocess
import sys
import tempfile

TANDEM = sys.argv[1]
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 3
FOLDER = sys.argv[3] if len(sys.argv) > 3 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "docs")
BOUNDS = [0, 1, 2, 4, 8, 16, 32, 64]
CLOCKS = [f"ssp:{b}" for b in BOUNDS] + ["asp", "backup:3", "groups:2:1:8"]
TARGET, OVER, STEPS = 0.435, 40, 160
SLEEP_MS = (5, 5, 5, 20)


def train(folder, clock, seed):
    """Seconds to the target, steps to it, seconds to the end, mean staleness of rows that were read."""
    slow = ",".join(f"{rank}:{ms}" for rank, ms in enumerate(SLEEP_MS))
    subprocess.run([TANDEM, "train", "--data", folder + "/clicks.tsv", "--model", "linear", "--loss", "binary",
                    "--optimizer", "adagrad", "--lr", "0.1", "--batch", "400", "--leaves", "4", "--workers", "4",
                    "--epochs", "1", "--steps", str(STEPS), "--eval-every", "0", "--strategy", "ps", "--clock", clock,
                    "--checkpoint-every", "1000000", "--metrics-every", "1", "--seed", str(seed), "--quiet",
                    "--run", folder + "/run", "--overwrite"],
                   check=True, timeout=120, env=dict(os.environ, TANDEM_FAKE_SLOW=slow))
    rows = []
    staleness = []
    with open(folder + "/run/metrics.jsonl") as f:
        for row in map(json.loads, f):
            if "seconds" in row:
                rows.append(row)
            elif row.get("event") == "tables":
                staleness = row["staleness"]
    seconds, reached = 0, None
    for k, row in enumerate(rows):
        seconds += row["seconds"]
        mean = statistics.fmean(r["loss"] for r in rows[max(0, k + 1 - OVER):k + 1])
        if reached is None and k + 1 >= OVER and mean <= TARGET:
            reached = seconds, row["step"]
    if reached is None:
        sys.exit(f"clocks: {clock} has not come to a logloss of {TARGET} in {STEPS} steps")
    reads = sum(staleness)
    return (*reached, seconds, sum(k * n for k, n in enumerate(staleness)) / reads if reads else 0)


TEXT = """# Clocks, with one of four workers slow

`bench/clocks.py build/tandem` makes this page: seconds until a linear model's progressive logloss on a
synthetic click log is {target}, medians of {rounds} runs with {seeds} seeds. Three workers need {fast} ms a step,
the fourth {slow} ms (they sleep, so that cores are not what is scarce).

| clock | seconds to logloss {target} | steps to it | mean staleness of rows read |
|---|---|---|---|
{rows}

![seconds to logloss {target} by clock](clocks.svg)

A worker that is always slow is not waited for until the others are as many steps ahead as the bound; from then
on all go at its pace. Bounds below the number of steps that are needed therefore only lend that many fast
steps: the curve falls by about {gain} ms for each step of the bound, and its knee is where the bound is how far
the fast workers are ahead when they reach the logloss, here {knee} steps. Beyond it a larger bound gains nothing:
that is asp. Stale rows cost steps, too (the third column), but fewer than waiting costs seconds. `ssp:0` is
in step, each step as long as the slowest worker's. `backup:3` leaves the slow worker's samples out.
`groups:2:1:8` lets the three be one step apart and the slow one, a group of its own, eight.
"""


def table(seen):
    lines = []
    for clock in CLOCKS:
        seconds, steps, _, stale = (statistics.median(r[k] for r in seen[clock]) for k in range(4))
        lines.append(f"| {clock} | {seconds:.2f} | {steps:.0f} | {stale:.1f} |")
    return "\n".join(lines)


def plot(seen):
    """An SVG: bars of the other clocks right of the curve over ssp's bound."""
    wide, high, left, low = 720, 360, 60, 50
    median = {clock: statistics.median(r[0] for r in seen[clock]) for clock in CLOCKS}
    most = max(max(r[0] for r in runs) for runs in seen.values()) * 1.05
    def x(k):
        return left + (k + 0.5) * (wide - left - 10) / len(CLOCKS)
    def y(seconds):
        return high - low - seconds / most * (high - low - 15)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" '
           f'font-size="12"><rect width="{wide}" height="{high}" fill="white"/>',
           f'<text x="14" y="{high / 2}" transform="rotate(-90 14 {high / 2})" text-anchor="middle">'
           f"seconds to logloss {TARGET}</text>"]
    for k in range(5):
        value = most * k / 4
        out.append(f'<line x1="{left}" x2="{wide - 10}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>'
                   f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.1f}</text>')
    points = " ".join(f"{x(k):.1f},{y(median[c]):.1f}" for k, c in enumerate(CLOCKS[:len(BOUNDS)]))
    out.append(f'<polyline points="{points}" fill="none" stroke="#27c" stroke-width="2"/>')
    for k, clock in enumerate(CLOCKS):
        lowest, highest = min(r[0] for r in seen[clock]), max(r[0] for r in seen[clock])
        out.append(f'<line x1="{x(k):.1f}" x2="{x(k):.1f}" y1="{y(lowest):.1f}" y2="{y(highest):.1f}" stroke="#888"/>'
                   f'<circle cx="{x(k):.1f}" cy="{y(median[clock]):.1f}" r="4" fill="#27c"/>'
                   f'<text x="{x(k):.1f}" y="{high - low + 18}" text-anchor="middle">{clock}</text>')
    return "\n".join([*out, f'<text x="{wide / 2}" y="{high - 8}" text-anchor="middle">clock; one of four workers is '
                      f"slowed {SLEEP_MS[3] // SLEEP_MS[0]} times</text></svg>", ""])


def main():
    seen = {clock: [] for clock in CLOCKS}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([TANDEM, "synth", "clicks", "--out", folder + "/clicks.tsv", "--rows", "100000",
                        "--categories", "1000", "--quiet"], check=True)
        for seed in range(1, ROUNDS + 1):
            for clock in CLOCKS:
                seen[clock].append(train(folder, clock, seed))
    print("clock\tseconds to the logloss\tsteps to it\tseconds of all steps\tmean staleness")
    for clock in CLOCKS:
        print(clock, *(f"{statistics.median(r[k] for r in seen[clock]):.2f}" for k in range(4)), sep="\t")
    steps = statistics.median(r[1] for r in seen["asp"])
    knee = round(steps * (1 - SLEEP_MS[0] / SLEEP_MS[3]))
    with open(os.path.join(FOLDER, "clocks.md"), "w") as f:
        f.write(TEXT.format(target=TARGET, rounds=ROUNDS, seeds=ROUNDS, fast=SLEEP_MS[0], slow=SLEEP_MS[3],
                            rows=table(seen), gain=SLEEP_MS[3] - SLEEP_MS[0], knee=knee))
    with open(os.path.join(FOLDER, "clocks.svg"), "w") as f:
        f.write(plot(seen))


if __name__ == "__main__":
    main()
