#!/usr/bin/env python3
"""What one worker at half speed costs, with --balance and without; medians and ratios as TSV.

    balance.py TANDEM FASHION_MNIST [ROUNDS]

Four workers, as threads. All sleep SLOW milliseconds for each leaf of a batch beside what they compute,
so that four have room on two cores and the machine's own load hardly counts; one sleeps twice as long. Throughput is that
of the last half of a run, when leaves have been dealt. The models must be the same."""
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile

TANDEM, DATA = sys.argv[1:3]
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 5
WORKERS, SLOW, STEPS = 4, 3, 240


def rate(run, plan, words):
    subprocess.run([TANDEM, "train", "--data", DATA, "--model", "mlp", "--batch", "1024", "--leaves", "64",
                    "--workers", str(WORKERS), "--steps", str(STEPS), "--epochs", "9", "--eval-every", "0",
                    "--metrics-every", "10", "--quiet", "--run", run, "--overwrite", *words], check=True,
                   env=dict(os.environ, TANDEM_FAKE_SLOW=plan), stderr=subprocess.DEVNULL)
    with open(os.path.join(run, "metrics.jsonl")) as f:
        rows = [row for row in map(json.loads, f) if "seconds" in row and row["step"] > STEPS // 2]
    with open(os.path.join(run, "model", "model.safetensors"), "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    return sum(row["samples"] for row in rows) / sum(row["seconds"] for row in rows), digest


def main():
    even = ",".join(f"{r}:{SLOW}l" for r in range(WORKERS))
    uneven = ",".join(f"{r}:{SLOW * 2 if r == 1 else SLOW}l" for r in range(WORKERS))
    ways = {"all alike": (even, []), "one at half speed": (uneven, []),
            "one at half speed, --balance": (uneven, ["--balance"])}
    seen, digests = {way: [] for way in ways}, set()
    with tempfile.TemporaryDirectory() as top:
        for _ in range(ROUNDS):
            for way, (plan, words) in ways.items():
                samples, digest = rate(os.path.join(top, "run"), plan, words)
                seen[way].append(samples)
                digests.add(digest)
    if len(digests) > 1:
        raise SystemExit("balance.py: the models differ")
    print("workers\tsamples/s\tof all alike")
    for way, rates in seen.items():
        ratio = statistics.median(a / b for a, b in zip(rates, seen["all alike"]))
        print(f"{way}\t{statistics.median(rates):.0f}\t{ratio:.2f}")


if __name__ == "__main__":
    main()
