#!/usr/bin/env python3
"""What a second copy of every row costs a whole training: seconds of its steps with --replicas 1 and 0,
alternating; TSV.

    replicas.py TANDEM [ROUNDS [ROWS]]

FM (libsvm) and DLRM (TSV) on a click log of `tandem synth clicks`, two ranks that work and serve, Adagrad, at
each worker's pace and in step. In step both must come to the same logloss, to the last digit."""
import json
import statistics
import subprocess
import sys
import tempfile

TANDEM = sys.argv[1]
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 3
ROWS = int(sys.argv[3]) if len(sys.argv) > 3 else 100000
KINDS = {"fm": "libsvm", "dlrm": "tsv"}


def train(folder, model, clock, replicas):
    subprocess.run([TANDEM, "train", "--data", f"{folder}/clicks.{KINDS[model]}", "--model", model, "--loss", "binary",
                    "--optimizer", "adagrad", "--lr", "0.02", "--batch", "2048", "--leaves", "2", "--workers", "2",
                    "--epochs", "2", "--eval-every", "0", "--checkpoint-every", "1000000", "--strategy", "ps",
                    "--clock", clock, "--replicas", str(replicas), "--run", folder + "/run", "--overwrite",
                    "--quiet"], check=True)
    seconds, losses = 0, []
    with open(folder + "/run/metrics.jsonl") as f:
        for row in map(json.loads, f):
            seconds += row.get("seconds", 0)
            if row.get("event") == "epoch":
                losses.append(row["progressive_loss"])
    return seconds, losses


def main():
    print("model\tclock\tseconds without\tseconds with a replica\tspeed with / without")
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS.values():
            subprocess.run([TANDEM, "synth", "clicks", "--out", f"{folder}/clicks.{kind}", "--format", kind, "--rows",
                            str(ROWS), "--quiet"], check=True)
        for model in KINDS:
            for clock in ("asp", "bsp"):
                seen = {0: [], 1: []}
                for _ in range(ROUNDS):
                    for replicas in seen:
                        seconds, losses = train(folder, model, clock, replicas)
                        seen[replicas].append(seconds)
                        first = losses if replicas == 0 else first
                    if clock == "bsp" and losses != first:
                        sys.exit(f"replicas: {model} comes to {losses} with a replica, {first} without")
                ratio = statistics.median(a / b for a, b in zip(seen[0], seen[1]))
                print(f"{model}\t{clock}\t{statistics.median(seen[0]):.2f}\t{statistics.median(seen[1]):.2f}\t"
                      f"{ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
