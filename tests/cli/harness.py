"""What the tests of the program share: small images to train on, with a bright patch per class, in
IDX files; the program itself; and a count at the end. Usage of a test: NAME_test.py TANDEM [MPIEXEC]"""
import gzip
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from report import run_and_count  # noqa: E402

TANDEM = os.path.abspath(sys.argv[1])
MPIEXEC = sys.argv[2] if len(sys.argv) > 2 and sys.argv[2] != "--part" else None
SIDE, CLASSES, TRAIN, TEST = 12, 4, 203, 50
TEMPORARY = tempfile.TemporaryDirectory()
TOP = TEMPORARY.name
os.environ["TMPDIR"] = TOP  # see launch.sh
if os.path.isdir("/dev/shm"):
    SHARED = tempfile.TemporaryDirectory(prefix="tandem-test.", dir="/dev/shm")
    os.environ["OMPI_MCA_btl_sm_backing_directory"] = SHARED.name
DATA = os.path.join(TOP, "data")
# Under sanitizers, which look at the code and not at the answer, loops are shorter.
SHORT = "TANDEM_TEST_SHORT" in os.environ
PRESETS = ["softmax", "lenet"] if SHORT else ["softmax", "mlp", "lenet", "resnet20"]
RUNS = 0


def make_split(prefix, n, seed):
    state = seed
    pixels, labels = bytearray(), bytearray()
    for i in range(n):
        label = i % CLASSES
        labels.append(label)
        for y in range(SIDE):
            for x in range(SIDE):
                state = (state * 1103515245 + 12345) % 2**31
                inside = (y >= SIDE // 2) == (label >= 2) and (x >= SIDE // 2) == (label % 2 == 1)
                pixels.append((state >> 16) % 128 + (100 if inside else 0))
    with gzip.open(os.path.join(DATA, prefix + "-images-idx3-ubyte.gz"), "wb") as f:
        f.write(struct.pack(">IIII", 2051, n, SIDE, SIDE) + bytes(pixels))
    with gzip.open(os.path.join(DATA, prefix + "-labels-idx1-ubyte.gz"), "wb") as f:
        f.write(struct.pack(">II", 2049, n) + bytes(labels))


def tandem(*words, expect=0, prefix=(), env=None):
    done = subprocess.run([*prefix, TANDEM, *words], text=True, capture_output=True, timeout=120,
                          env={**os.environ, **(env or {})})
    if done.returncode != expect:
        raise AssertionError(f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def new_run():
    global RUNS
    RUNS += 1
    return os.path.join(TOP, f"run{RUNS}")


def train(*words, run=None, prefix=(), model="mlp", epochs=2):
    run = run or new_run()
    momentum = [] if "--optimizer" in words else ["--momentum", "0.9"]
    tandem("train", "--data", DATA, "--model", model, "--epochs", str(epochs), "--batch", "32",
           "--lr", "0.05", *momentum, "--run", run, "--quiet", *words, prefix=prefix)
    return run


def digest(run):
    with open(os.path.join(run, "model", "model.safetensors"), "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def ranks(n):
    """Before the program: MPI's own leaks are not looked for where there is a sanitizer."""
    return ("env", "ASAN_OPTIONS=detect_leaks=0", MPIEXEC, "--map-by", ":OVERSUBSCRIBE", "-n", str(n))


def newest_checkpoint(run):
    folder = os.path.join(run, "checkpoints")
    return os.path.join(folder, max(n for n in os.listdir(folder) if "." not in n))


def state_file(checkpoint):
    """The last of a checkpoint's files of tensors."""
    return os.path.join(checkpoint, max(n for n in os.listdir(checkpoint) if n.startswith("state")))


def listing(folder):
    """Every file below the folder with its content."""
    found = {}
    for at, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(at, name), "rb") as f:
                found[os.path.relpath(os.path.join(at, name), folder)] = f.read()
    return found


def metrics(run):
    with open(os.path.join(run, "metrics.jsonl")) as f:
        return [json.loads(line) for line in f]


def area(scores, positive):
    """Under the ROC curve: the share of pairs in the right order, ties half."""
    pairs = [(a > b) + (a == b) / 2 for a, p in zip(scores, positive) if p
             for b, q in zip(scores, positive) if not q]
    return sum(pairs) / len(pairs)


def main():
    """Runs the tests of the script that was started."""
    os.makedirs(DATA)
    make_split("train", TRAIN, 1)
    make_split("t10k", TEST, 2)
    status = run_and_count()
    TEMPORARY.cleanup()
    sys.exit(status)
