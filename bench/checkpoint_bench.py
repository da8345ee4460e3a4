#!/usr/bin/env python3
"""How long a step is held up by a checkpoint, as TSV.

    checkpoint_bench.py TANDEM FASHION_MNIST [MPIEXEC | - [HIDDEN]]

A network whose state (parameters and momentum) is about 100 MB is trained with a checkpoint every
6 steps and a line of metrics per step, on threads, and under mpiexec where it is given. `held up` is
the metrics' checkpoint_s of rank 0. `other steps` are those behind which nothing is written. Checks
that every checkpoint was whole and that the model is that of a run without any."""
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile

TANDEM, DATA = sys.argv[1:3]
MPIEXEC = sys.argv[3] if len(sys.argv) > 3 and sys.argv[3] != "-" else None
HIDDEN = sys.argv[4] if len(sys.argv) > 4 else "8192"
MODEL, STEPS, EVERY = f"dense:{HIDDEN} relu dense:740 relu dense:0", 37, 6


def digest(run):
    with open(os.path.join(run, "model", "model.safetensors"), "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def train(run, words, prefix=()):
    subprocess.run([*prefix, TANDEM, "train", "--data", DATA, "--model", MODEL, "--steps", str(STEPS),
                    "--momentum", "0.9", "--metrics-every", "1", "--eval-every", "0", "--run", run,
                    "--quiet", *words], check=True)
    with open(os.path.join(run, "metrics.jsonl")) as f:
        return [row for row in map(json.loads, f) if "seconds" in row]


def state_bytes(run):
    newest = max(os.scandir(os.path.join(run, "checkpoints")), key=lambda e: e.name).path
    return sum(e.stat().st_size for e in os.scandir(newest))


def row(name, rows, size):
    behind = [r["step"] % EVERY == 1 and r["step"] > 1 for r in rows]  # the line after a checkpoint
    held = [r["checkpoint_s"] * 1e3 for r, b in zip(rows, behind) if b]
    steps = [r["seconds"] * 1e3 for r, b in zip(rows, behind) if not b and r["step"] % EVERY != 2]
    print(f"{name}\t{size / 1e6:.0f}\t{statistics.median(held):.1f}\t{max(held):.1f}\t"
          f"{statistics.median(steps):.0f}", flush=True)


def main():
    print("ranks\tstate MB\theld up, median ms\tmost ms\tother steps, median ms")
    with tempfile.TemporaryDirectory() as top:
        train(os.path.join(top, "plain"), ["--checkpoint-every", "100000", "--workers", "2"])
        want = digest(os.path.join(top, "plain"))
        kinds = [(f"{n} threads", ["--workers", str(n)], ()) for n in (1, 2, 4)]
        if MPIEXEC:
            kinds += [(f"{n} processes", [], (MPIEXEC, "--map-by", ":OVERSUBSCRIBE", "-n", str(n)))
                      for n in (2, 4)]
        for name, words, prefix in kinds:
            run = os.path.join(top, name.replace(" ", "-"))
            rows = train(run, ["--checkpoint-every", str(EVERY), *words], prefix)
            if digest(run) != want:
                sys.exit(f"{name}: another model than without checkpoints")
            subprocess.run([TANDEM, "train", "--run", run, "--resume", "--quiet"], check=True)
            row(name, rows, state_bytes(run))
            subprocess.run(["rm", "-r", run], check=True)


if __name__ == "__main__":
    main()
