#!/usr/bin/env python3
"""Models over hashed features: area under the ROC curve on a test part, beside what is known to be possible.

    quality.py TANDEM SKLEARN_PYTHON ADULT|- KDD99|- [WHICH,...]        -: without it

kdd99    linear, normal or attack, a seeded 30 % of the lines as the test part: 0.999 or more
adult    linear, categories hashed (ADULT has adult-train.csv, adult-test.csv, without names of columns):
         within 0.002 of scikit-learn's logistic regression over one-hot columns
fm       a log of `tandem synth clicks`, whose clicks a factorization machine of 4 factors makes: within 0.005
         of that machine's own AUC on the same test rows
dlrm     the same, of four times as many rows, as columns, counts as log(1 + count) as is usual; within 0.005

Settings of kdd99 and adult were chosen on the training part, by progressive logloss. Those of fm and dlrm were
chosen with the test AUC in sight, on logs of seed 1; so they are scored on logs of another seed, from another
planted model, that nothing was chosen on. Two workers. Prints TSV; ends with status 1 where a model falls
short."""
import gzip
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time

TANDEM, PYTHON, ADULT, KDD99 = sys.argv[1:5]
HAVE = [name for name, data in (("kdd99", KDD99), ("adult", ADULT), ("fm", None), ("dlrm", None)) if data != "-"]
WHICH = sys.argv[5].split(",") if len(sys.argv) > 5 else HAVE
TEST_ROWS, CATEGORIES = 200000, 30
SEED = 20261  # of the logs that are scored; settings were chosen on 1

PEER = """
import csv, sys, numpy
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder, StandardScaler
def read(name):
    with open(sys.argv[1] + "/" + name) as f:
        rows = list(csv.reader(f, skipinitialspace=True))
    return numpy.array([r[:-1] for r in rows], dtype=object), numpy.array([r[-1] == ">50K" for r in rows])
(x, y), (tx, ty) = read("train.csv"), read("test.csv")
text = [k for k in range(x.shape[1]) if not x[0, k].replace(".", "").isdigit()]
numbers = [k for k in range(x.shape[1]) if k not in text]
scale = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), text), (StandardScaler(), numbers))
model = LogisticRegression(max_iter=1000).fit(scale.fit_transform(x), y)
print(roc_auc_score(ty, model.decision_function(scale.transform(tx))))
"""


def kdd99(folder):
    draw = random.Random(1)
    with gzip.open(KDD99, "rt") as f, open(folder + "/train.csv", "w") as train, open(folder + "/test.csv", "w") as test:
        for line in f:
            fields = line.rstrip("\n").rstrip(".").split(",")
            fields[41] = "normal" if fields[41] == "normal" else "attack"
            (test if draw.random() < 0.3 else train).write(",".join(fields) + "\n")
    return 0.999, 0, ["--label", "-1", "--header", "-1", "--model", "linear", "--optimizer", "adagrad", "--lr", "0.2",
                      "--batch", "128", "--epochs", "2"]


def adult(folder):
    for name in ("train", "test"):
        with open(f"{ADULT}/adult-{name}.csv") as f, open(f"{folder}/{name}.csv", "w") as to:
            to.writelines(line.strip().rstrip(".") + "\n" for line in f if line.strip())
    peer = subprocess.run([PYTHON, "-c", PEER, folder], check=True, capture_output=True, text=True)
    return float(peer.stdout), 0.002, ["--label", "-1", "--header", "-1", "--missing", "NA", "--model", "linear",
                                       "--optimizer", "adagrad", "--lr", "0.1", "--batch", "128", "--epochs", "10",
                                       "--schedule", "cosine"]


def logarithms(line):
    fields = line.split("\t", 14)
    return "\t".join([fields[0], *(f"{math.log1p(int(count)):.3f}" for count in fields[1:14]), fields[14]])


def clicks(folder, form, ending, rows, change=lambda line: line):
    """The test rows are the first ones, of which `tandem synth` says how well the planted model knows them."""
    def make(name, rows):
        return subprocess.run([TANDEM, "synth", "clicks", "--out", f"{folder}/{name}.{ending}", "--rows", str(rows),
                               "--categories", str(CATEGORIES), "--format", form, "--seed", str(SEED),
                               "--overwrite"], check=True,
                              capture_output=True, text=True).stdout
    planted = float(re.search(r"AUC ([\d.]+)", make("test", TEST_ROWS)).group(1))
    make("all", TEST_ROWS + rows)
    with open(f"{folder}/all.{ending}") as f, open(f"{folder}/train.{ending}", "w") as train, \
            open(f"{folder}/test.{ending}", "w") as test:
        if form == "tsv":
            head = f.readline()
            train.write(head), test.write(head)
        for row, line in enumerate(f):
            (train if row >= TEST_ROWS else test).write(change(line))
    os.remove(f"{folder}/all.{ending}")
    return planted


def fm(folder):
    return clicks(folder, "libsvm", "svm", 1000000), 0.005, [
        "--model", "fm", "--factors", "4", "--optimizer", "adam", "--lr", "0.01", "--batch", "512", "--epochs", "4",
        "--schedule", "cosine"]


def dlrm(folder):
    return clicks(folder, "tsv", "tsv", 4000000, logarithms), 0.005, [
        "--model", "dlrm", "--optimizer", "adam", "--lr", "0.01", "--batch", "512", "--epochs", "2", "--schedule",
        "cosine", "--strategy", "ps", "--clock", "bsp"]


def main():
    bad = False
    print("data and model\tAUC\tto reach\tless at most\tseconds")
    for name in WHICH:
        with tempfile.TemporaryDirectory() as folder:
            want, less, words = globals()[name](folder)
            began = time.monotonic()
            subprocess.run([TANDEM, "train", "--data", folder, "--loss", "binary", "--workers", "2", "--leaves", "2",
                            "--eval-every", "0", "--quiet", "--run", folder + "/run", *words], check=True)
            seconds = time.monotonic() - began
            text = subprocess.run([TANDEM, "eval", "--run", folder + "/run", "--data", folder, "--json"], check=True,
                                  capture_output=True, text=True).stdout
            auc = json.loads(text)["auc"]
        short = auc < want - less
        bad = bad or short
        print(f"{name}\t{auc:.4f}\t{want:.4f}\t{less}\t{seconds:.1f}{'	short' if short else ''}", flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())
