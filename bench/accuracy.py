#!/usr/bin/env python3
"""Test accuracy of the models on Fashion-MNIST, and on MNIST where its files are given, beside what is
expected of them. One worker; the bits do not depend on how many.

    accuracy.py TANDEM FASHION_MNIST [MNIST [NAME ...]]       names of rows; default all

Prints TSV; ends with status 1 when a row misses. Takes minutes (resnet20: tens of them)."""
import os
import re
import subprocess
import sys
import tempfile

TANDEM, FASHION = sys.argv[1:3]
MNIST = sys.argv[3] if len(sys.argv) > 3 else None
NAMES = sys.argv[4:]
EXAMPLES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "examples")
PLAIN = ["--batch", "128", "--optimizer", "sgd", "--lr", "0.05", "--momentum", "0.9", "--seed", "1"]
COSINE = PLAIN + ["--schedule", "cosine"]
# name: (data, least accuracy, words)
ROWS = {
    "softmax": (FASHION, 84.0, ["--model", "softmax", "--epochs", "5", *COSINE]),
    "mlp": (FASHION, 88.5, ["--model", "mlp", "--epochs", "10", *COSINE]),
    "lenet": (FASHION, 91.0, ["--model", "lenet", "--epochs", "5", *PLAIN]),
    "resnet20": (FASHION, 89.0, ["--model", "resnet20", "--epochs", "2", *COSINE]),  # and mlp's
    "mnist-lenet": (MNIST, 99.1, [os.path.join(EXAMPLES, "mnist-lenet.yaml")]),
    "mnist-mirrored": (MNIST, 97.5, [os.path.join(EXAMPLES, "mnist-mirrored.yaml")]),
}


def main():
    missed, shares = 0, {}
    print("model\taccuracy %\tat least")
    with tempfile.TemporaryDirectory() as top:
        for name, (data, least, words) in ROWS.items():
            if not data or (NAMES and name not in NAMES):
                continue
            run = os.path.join(top, name)
            subprocess.run([TANDEM, "train", *words, "--data", data, "--run", run, "--quiet"], check=True)
            text = subprocess.run([TANDEM, "eval", "--run", run, "--data", data], check=True,
                                  capture_output=True, text=True).stdout
            share = 100 * float(re.search(r"accuracy ([\d.]+)", text.splitlines()[-1])[1])
            shares[name] = share
            if name == "resnet20":
                least = max(least, shares.get("mlp", 0))
            missed += share < least
            print(f"{name}\t{share:.2f}\t{least:.2f}", flush=True)
    return missed > 0


if __name__ == "__main__":
    sys.exit(main())
