#!/usr/bin/env python3
"""What one worker at half speed costs, with --balance and without; medians and ratios as TSV.

    balance.py TANDEM FASHION_MNIST [ROUNDS]

Four workers, as threads, of which one is made twice as slow as the others, in two ways: `sleeping`, all
sleep 3 ms for each leaf of a batch beside what they compute, one 6 ms, so that four have room on two
cores and the machine's own load hardly counts; `stretched`, all wait 7 times as long as they compute, one
15 times, as if their processors were that much slower. Throughput is that
of the last half of a run, when leaves have been dealt. The models must be the same. Last: after how many steps
a worker that is 200 ms slower in each is named."""
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile

TANDEM, DATA = sys.argv[1:3]
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 5
WORKERS, STEPS = 4, 240
WAYS = {"sleeping": ("3l", "6l"), "stretched": ("x8", "x16")}  # words of TANDEM_FAKE_SLOW


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


def steps_until_named(run):
    """Of a worker that is made 200 ms slower in every step."""
    subprocess.run([TANDEM, "train", "--data", DATA, "--model", "mlp", "--workers", str(WORKERS), "--steps", "30",
                    "--quiet", "--run", run, "--overwrite"], check=True, env=dict(os.environ, TANDEM_FAKE_SLOW="1:200"),
                   stderr=subprocess.DEVNULL)
    with open(os.path.join(run, "metrics.jsonl")) as f:
        named = [row for row in map(json.loads, f) if row.get("event") == "slow"]
    if [row["rank"] for row in named] != [1]:
        raise SystemExit(f"balance.py: named were {named}")
    return named[0]["step"]


def main():
    seen, digests = {}, set()
    with tempfile.TemporaryDirectory() as top:
        for _ in range(ROUNDS):
            for way, (usual, slow) in WAYS.items():
                even = ",".join(f"{r}:{usual}" for r in range(WORKERS))
                uneven = ",".join(f"{r}:{slow if r == 1 else usual}" for r in range(WORKERS))
                for case, plan, words in (("all alike", even, []), ("one at half speed", uneven, []),
                                          ("one at half speed, --balance", uneven, ["--balance"])):
                    samples, digest = rate(os.path.join(top, "run"), plan, words)
                    seen.setdefault((way, case), []).append(samples)
                    digests.add(digest)
        named = steps_until_named(os.path.join(top, "run"))
    if len(digests) > 1:
        raise SystemExit("balance.py: the models differ")
    print("made slow by\tworkers\tsamples/s\tof all alike\tleast\tmost")
    for (way, case), rates in seen.items():
        ratios = [a / b for a, b in zip(rates, seen[way, "all alike"])]
        print(f"{way}\t{case}\t{statistics.median(rates):.0f}\t{statistics.median(ratios):.2f}\t"
              f"{min(ratios):.2f}\t{max(ratios):.2f}")
    print(f"a worker 200 ms slower in every step, named after steps\t{named}")


if __name__ == "__main__":
    main()
