#!/usr/bin/env python3
"""What it costs to be ready for a loss: the same job with Open MPI's failure mitigation and without, in
turn; medians and their ratio as TSV.

    ready.py TANDEM MPIEXEC FASHION_MNIST [ROUNDS]

The job's own part, a copy of some hundred bytes a step, is in both; --with-ft ulfm (Open MPI's
detector, its checks in every call, the launcher's) in one. Seconds a step are rank 0's, from the
metrics of one run, without its first fifth. The models must be the same."""
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile

TANDEM, MPIEXEC, DATA = sys.argv[1:4]
ROUNDS = int(sys.argv[4]) if len(sys.argv) > 4 else 9
ENV = dict(os.environ)
if os.getuid() == 0:
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "PRTE_ALLOW_RUN_AS_ROOT"):
        ENV[name] = ENV[name + "_CONFIRM"] = "1"
STEPS = {"mlp": 900, "lenet": 75}


def step_ms(model, ranks, options, run):
    subprocess.run([MPIEXEC, *options, "--map-by", ":OVERSUBSCRIBE", "--mca", "osc", "^ucx", "-n", str(ranks),
                    TANDEM, "train", "--data", DATA, "--model", model, "--steps", str(STEPS[model]), "--epochs",
                    "9", "--eval-every", "0", "--metrics-every", "5", "--checkpoint-every", "100000", "--quiet",
                    "--run", run, "--overwrite"], check=True, env=ENV)
    with open(os.path.join(run, "metrics.jsonl")) as f:
        rows = [row for row in map(json.loads, f) if "seconds" in row]
    with open(os.path.join(run, "model", "model.safetensors"), "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    return statistics.median(row["seconds"] for row in rows[len(rows) // 5:]) / 5 * 1e3, digest


def main():
    print("model\tranks\tplain, ms a step\tready, ms a step\tready / plain\tquartiles")
    with tempfile.TemporaryDirectory() as top:
        run = os.path.join(top, "run")
        for model in STEPS:
            for ranks in (2, 4):
                plain, ready = [], []
                for k in range(ROUNDS):
                    ways = [(plain, []), (ready, ["--with-ft", "ulfm"])]
                    digests = set()
                    for times, options in ways if k % 2 else reversed(ways):
                        ms, digest = step_ms(model, ranks, options, run)
                        times.append(ms)
                        digests.add(digest)
                    if len(digests) > 1:
                        raise SystemExit("ready.py: the models differ")
                ratios = sorted(b / a for a, b in zip(plain, ready))
                low, middle, high = statistics.quantiles(ratios, n=4) if ROUNDS > 1 else ratios * 3
                print(f"{model}\t{ranks}\t{statistics.median(plain):.3f}\t{statistics.median(ready):.3f}\t"
                      f"{middle:.3f}\t{low:.3f}-{high:.3f}", flush=True)


if __name__ == "__main__":
    main()
