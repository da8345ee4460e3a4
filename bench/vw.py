#!/usr/bin/env python3
"""A linear model beside Vowpal Wabbit: from the file to the model, one pass; TSV.

    vw.py TANDEM PYTHON_WITH_VW KDD99 [ROUNDS [OPTIONS,...]]

KDD99: the KDD Cup 1999's 10 % file (csv.gz), normal or attack. It is written once as VW's text and as libsvm
with the same features, in one seeded order: numbers as log(1 + x), 0 left out, and a feature for each
category. Each program reads its file, learns from each line once, and saves its model; examples/s counts all
of that. `progressive`: the mean logloss (natural logarithms) of each example before it is learnt from. VW runs in a
process of Python, whose start is not counted, and reads in a thread of its own, as it always does; ours is
counted with its start. Medians over rounds, which alternate. The last lines take of our rows the fastest that
learns as well as a row of VW."""
import gzip
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

TANDEM, PYTHON, KDD99 = sys.argv[1:4]
ROUNDS = int(sys.argv[4]) if len(sys.argv) > 4 else 5

PEER = """
import sys, time
began = time.monotonic()
from vowpalwabbit import Workspace
loaded = time.monotonic()
vw = Workspace("-d %s --loss_function logistic -b 18 --quiet -f %s " % (sys.argv[1], sys.argv[2]) + " ".join(sys.argv[3:]))
loss, n = vw.get_sum_loss(), vw.get_weighted_examples()
vw.finish()
print(loss / n, time.monotonic() - loaded, n)
"""
VW = {"vw": "", "vw -l 2": "-l 2", "vw -l 4": "-l 4", "vw -l 8": "-l 8"}
ONE = "--optimizer adagrad --leaves 1 --lr "
TWO = "--optimizer adagrad --leaves 2 --workers 2 --strategy ps --clock asp --lr "
OURS = {
    "tandem --batch 64": ONE + "1 --batch 64",
    "tandem --batch 32": ONE + "1 --batch 32",
    "tandem --batch 64, minmax": ONE + "2.5 --batch 64 --normalise minmax",
    "tandem --batch 32, minmax": ONE + "2.5 --batch 32 --normalise minmax",
    "tandem --batch 16, minmax": ONE + "2 --batch 16 --normalise minmax",
    "tandem --batch 32, minmax, cosine": ONE + "2.5 --batch 32 --normalise minmax --schedule cosine",
    "tandem --batch 16, minmax, cosine": ONE + "2.5 --batch 16 --normalise minmax --schedule cosine",
    "tandem --batch 64, 2 workers, asp": TWO + "1 --batch 64",
}
if len(sys.argv) > 5:
    OURS = {words: words for words in sys.argv[5].split(",")}


def convert(folder):
    """Returns how many lines there are."""
    with gzip.open(KDD99, "rt") as f:
        lines = [line.rstrip(".\n").split(",") for line in f]
    random.Random(1).shuffle(lines)
    number, index = {}, lambda name: number.setdefault(name, len(number))
    with open(folder + "/kdd.vw", "w") as vw, open(folder + "/kdd.libsvm", "w") as svm:
        for fields in lines:
            entries = []
            for c, text in enumerate(fields[:41]):
                if c in (1, 2, 3):
                    entries.append((index((c, text)), "1"))
                elif float(text):
                    entries.append((index(c), f"{math.log1p(float(text)):.4g}"))
            attack = fields[41] != "normal"
            entries.sort()
            vw.write(f"{1 if attack else -1} | " + " ".join(f"{i}:{x}" for i, x in entries) + "\n")
            svm.write(f"{int(attack)} " + " ".join(f"{i + 1}:{x}" for i, x in entries) + "\n")
    return len(lines)


def theirs(folder, words):
    text = subprocess.run([PYTHON, "-c", PEER, folder + "/kdd.vw", folder + "/vw.model", *words.split()], check=True,
                          capture_output=True, text=True).stdout.split()
    return float(text[0]), float(text[1]), float(text[2])


def ours(folder, words):
    began = time.monotonic()
    subprocess.run([TANDEM, "train", "--data", folder + "/kdd.libsvm", "--model", "linear", "--loss", "binary",
                    "--epochs", "1", "--shuffle", "none", "--eval-every", "0", "--checkpoint-every", "1000000",
                    "--run", folder + "/run", "--overwrite", "--quiet", *words.split()], check=True)
    seconds = time.monotonic() - began
    with open(folder + "/run/metrics.jsonl") as f:
        for row in map(json.loads, f):
            if row.get("event") == "epoch":
                return row["progressive_loss"], seconds, row["samples"]
    sys.exit("vw: no epoch in metrics.jsonl")


def main():
    with tempfile.TemporaryDirectory() as folder:
        lines = convert(folder)
        rows = {name: (theirs, words) for name, words in VW.items()}
        rows |= {name: (ours, words) for name, words in OURS.items()}
        seen = {name: [] for name in rows}
        for _ in range(ROUNDS):
            for name, (run, words) in rows.items():
                loss, seconds, n = run(folder, words)
                assert n == lines and math.isfinite(loss), (name, n, loss)
                seen[name].append((lines / seconds, loss))
        print("row\texamples/s\tprogressive logloss")
        speed = {name: statistics.median(r[0] for r in runs) for name, runs in seen.items()}
        loss = {name: statistics.median(r[1] for r in runs) for name, runs in seen.items()}
        for name in rows:
            print(f"{name}\t{speed[name]:.0f}\t{loss[name]:.5f}", flush=True)
        print("beside\tour fastest with no larger logloss\tof its examples/s")
        for v in VW:
            good = [name for name in OURS if loss[name] <= loss[v]]
            if not good:
                print(f"{v}\t(none)\t")
                continue
            best = max(good, key=speed.get)
            ratio = statistics.median(a[0] / b[0] for a, b in zip(seen[best], seen[v]))
            print(f"{v}\t{best}\t{ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
