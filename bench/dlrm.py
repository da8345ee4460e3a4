#!/usr/bin/env python3
"""DLRM beside PyTorch, alternating in one run; medians and ratios as TSV.

    dlrm.py TANDEM PYTHON_WITH_TORCH [ROUNDS [ROWS [HOW:LEAVES,...]]]

A click log that `tandem synth clicks` makes up: 13 numbers, 26 fields of 385,000 categories, whose ids are
log-uniform. Rows of 16 floats, 10M for PyTorch; bottom network 64-16, top 128-64-1, Adagrad, batches of
2048. Ours: two workers of one thread each, samples as `tandem train` keeps them in memory (codes of
categories, from which every step makes its keys), a row made when its key is first seen. PyTorch: samples
prepared as tensors of ids, all rows there from the beginning, with 1 and 2 threads, EmbeddingBag(sparse=True)
for each field; and all fields' rows as one EmbeddingBag, where `together`. Its threads spin while they wait,
which is fastest where the cores are free; `passive`: they sleep, which is where others want them. The first epoch, in which our rows
are made, is not counted. HOW is a clock, or allreduce.

`core-second`: of processor time, of the process, which other programs on the machine do not change much: the
difference between runs of 1 and of 3 epochs for ours, so that reading and saving are not in it.

All must come to the same progressive loss in the first epoch: within 1 % where workers are in step, 3 % else."""
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile

TANDEM, PYTHON = sys.argv[1:3]
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 3
ROWS = int(sys.argv[4]) if len(sys.argv) > 4 else 300000
OURS = (sys.argv[5] if len(sys.argv) > 5 else "asp:2,asp:4,bsp:2,allreduce:2").split(",")
HERE = os.path.dirname(os.path.abspath(__file__))
CATEGORIES, LR, EPOCHS = 385000, "0.02", 3

PREPARE = """
import sys, numpy
svm, out, categories = sys.argv[1], sys.argv[2], int(sys.argv[3])
rows = numpy.array(open(svm).read().replace(":", " ").split(), dtype=numpy.float64).reshape(-1, 1 + 2 * 39)
ids = rows[:, 27::2].astype(numpy.int64) - 13 - categories * numpy.arange(26)
numbers = rows[:, 2:27:2].astype(numpy.float32)
assert ids.min() >= 0 and ids.max() < categories
numpy.savez(out, clicks=rows[:, 0].astype(numpy.float32), numbers=(numbers - numbers.mean(0)) / numbers.std(0),
            ids=ids, rows=categories)
"""


def processor():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def train(folder, kind, epochs):
    """Seconds of all epochs but the first, processor time of all, and the first epoch's loss."""
    clock, leaves = kind.rsplit(":", 1)
    how = ["--strategy", "allreduce"] if clock == "allreduce" else ["--strategy", "ps", "--clock", clock]
    before = processor()
    subprocess.run([TANDEM, "train", "--data", folder + "/clicks.tsv", "--model", "dlrm", "--loss", "binary",
                    "--optimizer", "adagrad", "--lr", LR, "--batch", "2048", "--epochs", str(epochs),
                    "--workers", "2", "--threads", "1", "--leaves", leaves, "--eval-every", "0",
                    "--checkpoint-every", "1000000", "--bottom", "64-16", "--top", "128-64-1",
                    "--run", folder + "/run", "--overwrite", "--quiet", *how], check=True)
    used, seconds, losses = processor() - before, 0, []
    with open(folder + "/run/metrics.jsonl") as f:
        for row in map(json.loads, f):
            if row.get("event") == "epoch":
                losses.append(row["progressive_loss"])
            elif "seconds" in row and row["epoch"] > 1:
                seconds += row["seconds"]
    return seconds, used, losses[0]


def ours(folder, kind):
    _, first, _ = train(folder, kind, 1)
    seconds, used, loss = train(folder, kind, EPOCHS)
    rows = ROWS * (EPOCHS - 1)
    return rows / seconds, rows / max(used - first, 1e-3), loss


def theirs(folder, threads, *how, passive=False):
    environment = dict(os.environ, **({"OMP_WAIT_POLICY": "PASSIVE"} if passive else {}))
    text = subprocess.run([PYTHON, "-W", "ignore", os.path.join(HERE, "dlrm_torch.py"), folder + "/clicks.npz",
                           str(threads), str(EPOCHS), LR, *how], check=True, capture_output=True, text=True,
                          env=environment)
    row = json.loads(text.stdout)
    return row["samples_per_s"], row["samples_per_core_s"], row["losses"][0]


def main():
    rows = {f"tandem {kind}": (lambda folder, k=kind: ours(folder, k)) for kind in OURS}
    peers = ["torch 1 thread", "torch 2 threads", "torch 2 threads, passive"]
    rows |= {"torch 1 thread": lambda folder: theirs(folder, 1), "torch 2 threads": lambda folder: theirs(folder, 2),
             "torch 2 threads, passive": lambda folder: theirs(folder, 2, passive=True),
             "torch 1 thread, together": lambda folder: theirs(folder, 1, "together"),
             "torch 2 threads, together": lambda folder: theirs(folder, 2, "together")}
    seen = {name: [] for name in rows}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("tsv", "libsvm"):
            subprocess.run([TANDEM, "synth", "clicks", "--out", f"{folder}/clicks.{kind}", "--format", kind, "--rows",
                            str(ROWS), "--categories", str(CATEGORIES), "--zipf", "1", "--quiet"], check=True)
        subprocess.run([PYTHON, "-c", PREPARE, folder + "/clicks.libsvm", folder + "/clicks.npz", str(CATEGORIES)],
                       check=True)
        for _ in range(ROUNDS):
            for name, run in rows.items():
                seen[name].append(run(folder))
    print("row\tsamples/s\tsamples/core-second\tloss of the first epoch")
    for name, runs in seen.items():
        print(name, *(f"{statistics.median(r[k] for r in runs):.{d}f}" for k, d in ((0, 0), (1, 0), (2, 4))), sep="\t")
    want = statistics.median(r[2] for r in seen["torch 1 thread"])
    for name, runs in seen.items():
        exact = "torch" in name or name.split()[1].split(":")[0] in ("bsp", "allreduce")
        for run in runs:
            if abs(run[2] - want) > want * (0.01 if exact else 0.03):
                sys.exit(f"dlrm: {name} has a loss of {run[2]}, torch of {want}")
    for group, names in (("EmbeddingBag a field", peers), ("with `together`", [n for n in seen if "torch" in n])):
        for what, k in (("samples/s", 0), ("samples/core-second", 1)):
            ratio = statistics.median(
                max(seen[n][r][k] for n in seen if "tandem" in n) / max(seen[n][r][k] for n in names)
                for r in range(ROUNDS))
            print(f"our best / torch's best, {group}: {what}\t{ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
