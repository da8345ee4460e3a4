"""What the tests of models over tables share: small click logs, jobs on them, what a run has come to,
and its rows."""
import hashlib
import json
import os
import re
import struct

from harness import MPIEXEC, TOP, listing, metrics, new_run, ranks, tandem

SOME = ["fm", "dlrm"]  # without dense parameters, and with
ROWS = 400
ULFM = MPIEXEC and "--with-ft" in tandem("run", "--dry-run", "--", "train", "--data", "x", "--run", "y").stdout


def recovering(n):
    """Before the program: ranks that can go on without one that dies, where this MPI has such."""
    prefix = ranks(n)
    at = prefix.index(MPIEXEC) + 1
    return (*prefix[:at], *(["--with-ft", "ulfm"] if ULFM else []), *prefix[at:])


def clicks(form="tsv", rows=ROWS, seed=3, categories=40):
    """A small click log."""
    path = os.path.join(TOP, f"clicks-{rows}-{seed}-{categories}.{form}")
    if not os.path.exists(path):
        tandem("synth", "clicks", "--out", path, "--rows", str(rows), "--categories", str(categories), "--seed",
               str(seed), "--format", form, "--quiet")
    return path


def job(*words, model="fm", data=None, run=None, epochs=2):
    return ["train", "--data", data or clicks(), "--model", model, "--epochs", str(epochs), "--batch", "64", "--lr",
            "0.1", "--run", run or new_run(), "--quiet", *words]


def train(*words, prefix=(), run=None, **how):
    run = run or new_run()
    tandem(*job(*words, run=run, **how), prefix=prefix)
    return run


def place(workers=1, *words, servers=0):
    return ["--workers", str(workers), "--servers", str(servers), *words]


def ps(workers=1, *words, servers=0, clock="bsp"):
    return ["--strategy", "ps", "--clock", clock, *place(workers, *words, servers=servers)]


def weights(run):
    """A digest of all files of the model but its manifest, which tells of the run."""
    files = listing(os.path.join(run, "model"))
    text = b"".join(name.encode() + files[name] for name in sorted(files) if name != "manifest.json")
    assert text
    return hashlib.sha256(text).hexdigest()


def rows_of(folder):
    """{(table, key): row} of a folder's safetensors files, however many there are."""
    found = {}
    for name, content in listing(folder).items():
        if not name.endswith(".safetensors"):
            continue
        n, = struct.unpack("<Q", content[:8])
        tensors, base = json.loads(content[8:8 + n]), 8 + n
        tensors.pop("__metadata__", None)
        for tensor, about in tensors.items():
            begin, end = about["data_offsets"]
            part = content[base + begin:base + end]
            if "keys" in tensors and len(about["shape"]) == 2:
                keys = content[base + tensors["keys"]["data_offsets"][0]:base + tensors["keys"]["data_offsets"][1]]
                width = 4 * about["shape"][1]
                for i, (key,) in enumerate(struct.iter_unpack("<Q", keys)):
                    found[tensor, key] = part[i * width:(i + 1) * width]
            elif tensor != "keys":
                found[tensor, 0] = part
    return found


def floats(row):
    return list(struct.unpack(f"<{len(row) // 4}f", row))


def event(run, name):
    return [line for line in metrics(run) if line.get("event") == name]


def told(run):
    """What metrics say, but for times and for what depends on how many ranks there are."""
    keep = ("step", "epoch", "loss", "accuracy", "lr", "samples", "eval", "auc", "progressive_loss")
    return [{k: line.get(k) for k in keep} for line in metrics(run)
            if line.get("event") not in ("recovered", "tables", "hot", "balanced")]


def write(name, text):
    path = os.path.join(TOP, name)
    with open(path, "w") as f:
        f.write(text)
    return path


def export(run, *words, form="tsv"):
    path = os.path.join(TOP, f"rows-{os.path.basename(run)}{''.join(words)}.{form}")
    tandem("export", "--run", run, "--out", path, "--overwrite", "--quiet", *words)
    return path


def text_rows(path):
    """{key: numbers} of a .tsv file, and its columns."""
    with open(path) as f:
        head, *lines, last = f.read().splitlines()
    assert re.match(rf"# {len(lines)} rows of \w+ .*bits=\d+ hash-seed=\d+$", last), last
    rows = [line.split("\t") for line in lines]
    keys = [int(row[0]) for row in rows]
    assert keys == sorted(set(keys))
    return {key: list(map(float, row[1:])) for key, row in zip(keys, rows)}, head.split("\t")
