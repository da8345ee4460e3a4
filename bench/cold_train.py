#!/usr/bin/env python3
"""Training over more rows than memory holds: an fm of rows of 16 on a click log whose categories are 1e9 keys,
with a limit on a server's rows; TSV.

    cold_train.py TANDEM MPIEXEC FOLDER [ROWS [LIMIT_MIB]]      default 1600000, 1024

The log (ROWS lines, 26 categories of 38.5 million each by Zipf's law with 0.8) and the run are made in FOLDER
and removed. One worker, one server, and one rank that reads the data, so that the server's resident memory
(VmHWM, looked at while it lives) is that of its rows alone. Prints the rows that were touched, samples/s,
pulls whose row was in memory, disk, and that memory as a share of the limit; fails where it is above 1.3, or
where a sample was not learnt from once."""
import json
import os
import shutil
import subprocess
import sys
import time

TANDEM, MPIEXEC, FOLDER = os.path.abspath(sys.argv[1]), sys.argv[2], sys.argv[3]
ROWS = int(sys.argv[4]) if len(sys.argv) > 4 else 1600000
LIMIT = int(sys.argv[5]) if len(sys.argv) > 5 else 1024
CATEGORIES = 38500000


def ranks_of(run):
    """Process ids of the ranks that train there, by rank."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().split(b"\0")
            if os.path.basename(words[0]) != b"tandem" or run.encode() not in words:
                continue
            with open(f"/proc/{pid}/environ", "rb") as f:
                env = dict(pair.split(b"=", 1) for pair in f.read().split(b"\0") if b"=" in pair)
            found[int(env[b"OMPI_COMM_WORLD_RANK"])] = pid
        except (OSError, KeyError, IndexError):
            pass
    return found


def peak(pid):
    try:
        with open(f"/proc/{pid}/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0


def main():
    log, run = os.path.join(FOLDER, "clicks.tsv"), os.path.join(FOLDER, "run")
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.makedirs(FOLDER)
    subprocess.run([TANDEM, "synth", "clicks", "--out", log, "--rows", str(ROWS), "--categories", str(CATEGORIES),
                    "--zipf", "0.8", "--quiet"], check=True)
    words = ["--data", log, "--model", "fm", "--factors", "15", "--optimizer", "adagrad", "--lr", "0.05", "--epochs", "1",
             "--batch", "2048", "--strategy", "ps", "--clock", "asp", "--servers", "1", "--data-servers", "1",
             "--table-memory", f"{LIMIT}m", "--eval-every", "0", "--run", run, "--quiet"]
    job = subprocess.Popen([MPIEXEC, "--map-by", ":OVERSUBSCRIBE", "--mca", "osc", "^ucx", "-n", "3", TANDEM, "train",
                            *words])
    pids, most = {}, {}
    while job.poll() is None:
        pids = pids if len(pids) == 3 else ranks_of(run)
        for rank, pid in pids.items():
            most[rank] = max(most.get(rank, 0), peak(pid))
        time.sleep(0.1)
    if job.returncode != 0:
        sys.exit(f"cold_train: exit {job.returncode}")
    with open(os.path.join(run, "metrics.jsonl")) as f:
        lines = [json.loads(line) for line in f]
    epoch = next(line for line in lines if line.get("event") == "epoch")
    tables = next(line for line in lines if line.get("event") == "tables")
    seconds = sum(line["seconds"] for line in lines if "seconds" in line and "event" not in line)
    share = most[1] / (LIMIT << 20)  # workers, servers, data servers are numbered in this order
    print("rows\tsamples/s\tfrom memory %\tdisk MB\tserver's memory / limit\tprogressive logloss")
    print(f"{tables['rows']}\t{ROWS / seconds:.0f}\t{100 * tables['hits'] / (tables['hits'] + tables['misses']):.1f}\t"
          f"{tables['disk_bytes'] / 1e6:.0f}\t{share:.2f}\t{epoch['progressive_loss']:.4f}", flush=True)
    shutil.rmtree(FOLDER)
    if not epoch["each_once"] or not 0 < share <= 1.3:
        sys.exit(f"cold_train: a sample was not learnt from once, or memory is {share:.2f} of the limit")


if __name__ == "__main__":
    main()
