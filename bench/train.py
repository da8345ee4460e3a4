#!/usr/bin/env python3
"""Training speed of Tandem beside PyTorch, in one run, alternating; medians and ratios as TSV.

    train.py TANDEM PYTHON_WITH_TORCH [ROUNDS]

Same network, batch of 128 and random images in memory. Each round runs every row once; the ratio
is the median over rounds of ours / theirs. Both sides check their loss."""
import json
import math
import statistics
import subprocess
import sys
import os

TANDEM, PYTHON = sys.argv[1:3]
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 5
HERE = os.path.dirname(os.path.abspath(__file__))
STEPS = {"mlp": 400, "lenet": 40}


def ours(model, workers):
    text = subprocess.run([TANDEM, "bench", "--model", model, "--workers", str(workers), "--steps",
                           str(STEPS[model]), "--json"], check=True, capture_output=True, text=True)
    row = json.loads(text.stdout)
    assert math.isfinite(row["loss"]) and abs(row["loss"] - 2.3) < 0.5, row
    return row["samples_per_s"]


def torch(model, threads, ddp=0):
    steps = STEPS[model] // 2 if ddp else STEPS[model]
    command = [PYTHON, os.path.join(HERE, "torch_train.py"), model, str(threads), str(steps)]
    text = subprocess.run(command + (["--ddp", str(ddp)] if ddp else []), check=True,
                          capture_output=True, text=True)
    return json.loads(text.stdout)["samples_per_s"]


def main():
    print("model\trow\tsamples/s\tours/theirs")
    for model in ("mlp", "lenet"):
        rows = {
            "tandem 1 worker": lambda: ours(model, 1),
            "tandem 2 workers": lambda: ours(model, 2),
            "tandem 4 workers": lambda: ours(model, 4),
            "torch 1 thread": lambda: torch(model, 1),
            "torch 2 threads": lambda: torch(model, 2),
            "torch ddp 2": lambda: torch(model, 1, 2),
            "torch ddp 4": lambda: torch(model, 1, 4),
        }
        seen = {name: [] for name in rows}
        for _ in range(ROUNDS):
            for name, run in rows.items():
                seen[name].append(run())
        for name, values in seen.items():
            print(f"{model}\t{name}\t{statistics.median(values):.0f}\t")
        for mine, theirs in (("tandem 2 workers", "torch 2 threads"),
                             ("tandem 1 worker", "torch 1 thread"),
                             ("tandem 2 workers", "torch ddp 2"),
                             ("tandem 4 workers", "torch ddp 4")):
            ratio = statistics.median(a / b for a, b in zip(seen[mine], seen[theirs]))
            print(f"{model}\t{mine} / {theirs}\t\t{ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
