#!/usr/bin/env python3
"""How long a killed worker holds a run up: ours beside PyTorch's elastic restart, in turn.

    bench/death.py TANDEM MPIEXEC TORCH_PYTHON [ROUNDS]

Both train a multilayer perceptron on four processes of this machine, and ours also on three pretended
hosts (tests/hosts; where they cannot be made, it says so); one, not always the same, gets
SIGKILL in the middle. The figure is the time from the signal to the end of the next step that is
newer than all before: ours in metrics.jsonl, theirs in a file that rank 0 writes. torchrun stops all
workers, starts them again, and they load a checkpoint, which they write every 10 steps. Our model is
compared with that of an undisturbed run. A torchrun that ends, or makes no step for PATIENCE_S seconds,
is said to and counts as that long."""
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "tests", "hosts"), os.path.join(HERE, "..", "tests")]
from hosts import Hosts, Unavailable  # noqa: E402
from processes import processes_of  # noqa: E402

DATA = "/usr/share/datasets/fashion-mnist"
RANKS, PATIENCE_S = 4, 60
ENV = dict(os.environ)
if os.getuid() == 0:
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "PRTE_ALLOW_RUN_AS_ROOT"):
        ENV[name] = ENV[name + "_CONFIRM"] = "1"


class Stands(Exception):
    """A job that makes no step any more: why."""


def wait_for(what, job):
    end = time.monotonic() + PATIENCE_S
    while not what():
        if job.poll() is not None:
            raise Stands(f"ended with status {job.returncode}")
        if time.monotonic() > end:
            raise Stands(f"no step in {PATIENCE_S} s")
        time.sleep(0.0005)


def newest_step(path):
    """Of the last whole line of metrics."""
    try:
        with open(path, "rb") as f:
            f.seek(max(0, os.path.getsize(path) - 2000))
            lines = f.read().split(b"\n")[:-1]
        return max((json.loads(line)["step"] for line in lines if line.startswith(b'{"step"')), default=0)
    except (OSError, ValueError):
        return 0


def held_up(job, step_of, victim):
    """Kills when some steps have been made; seconds to a newer one."""
    wait_for(lambda: step_of() >= 60, job)
    before = step_of()
    os.kill(victim(), signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: step_of() > before + 1, job)  # the one after that may have been under way
    return time.monotonic() - killed


def train_words(tandem, run):
    return [tandem, "train", "--data", DATA, "--model", "mlp", "--steps", "3000", "--epochs", "9",
            "--batch", "128", "--metrics-every", "1", "--seed", "3", "--quiet", "--run", run]


def digest(run):
    with open(os.path.join(run, "model", "model.safetensors"), "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def ours(tandem, mpiexec, run, rank, hosts=None):
    if hosts:
        command = hosts.command(train_words(tandem, run), [2, 1, 1], ["--with-ft", "ulfm"])
        job = subprocess.Popen(command, env=hosts.environment(RANKS), stdin=subprocess.DEVNULL)
    else:
        job = subprocess.Popen([mpiexec, "--with-ft", "ulfm", "--map-by", ":OVERSUBSCRIBE", "--mca", "osc",
                                "^ucx", "-n", str(RANKS), *train_words(tandem, run)], env=ENV)
    seconds = held_up(job, lambda: newest_step(os.path.join(run, "metrics.jsonl")),
                      lambda: processes_of(run, tandem)[rank])
    job.wait(PATIENCE_S)
    return seconds


def over_hosts(tandem, mpiexec, top, rounds, want):
    seconds = []
    with Hosts(3, mpiexec=mpiexec) as hosts:
        for k in range(rounds):
            run = os.path.join(top, f"hosts{k}")
            seconds.append(ours(tandem, mpiexec, run, k % RANKS, hosts))
            if digest(run) != want:
                raise SystemExit("death.py: the model is another one")
            print(f"rank {k % RANKS} killed, three hosts: ours {seconds[-1]:.3f} s", flush=True)
    print(f"median of {rounds} over three hosts: ours {statistics.median(seconds):.3f} s")


def theirs(python, folder, rank):
    def number(name):
        try:
            with open(os.path.join(folder, name)) as f:
                return int(f.read() or 0)
        except OSError:
            return 0

    # A group of processes of its own, so that none is left of those it starts.
    job = subprocess.Popen([python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
                            str(RANKS), "--max-restarts", "3", os.path.join(HERE, "death_torch.py"),
                            folder], stderr=subprocess.DEVNULL, start_new_session=True,
                           env=dict(ENV, OMP_NUM_THREADS="1"))
    try:
        return held_up(job, lambda: number("step"), lambda: number(f"pid-{rank}")), ""
    except Stands as why:
        return float(PATIENCE_S), f" ({why})"
    finally:
        try:
            os.killpg(job.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        job.wait()
        for k in range(RANKS):  # workers that torchrun gave sessions of their own
            end_one(number(f"pid-{k}"), folder)


def end_one(pid, mark):
    """If it still is the process that has `mark` among its words."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            if mark.encode() in f.read():
                os.kill(pid, signal.SIGKILL)
    except OSError:
        pass


def main():
    tandem, mpiexec, python = sys.argv[1:4]
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 5
    a, b = [], []
    with tempfile.TemporaryDirectory() as top:
        calm = os.path.join(top, "calm")
        subprocess.run([*train_words(tandem, calm), "--workers", "2"], check=True)
        for k in range(rounds):
            run, folder = os.path.join(top, f"run{k}"), os.path.join(top, f"torch{k}")
            os.mkdir(folder)
            a.append(ours(tandem, mpiexec, run, k % RANKS))
            if digest(run) != digest(calm):
                raise SystemExit("death.py: the model is another one")
            seconds, why = theirs(python, folder, k % RANKS)
            b.append(seconds)
            print(f"rank {k % RANKS} killed: ours {a[-1]:.3f} s, torchrun {b[-1]:.3f} s{why}", flush=True)
        try:
            over_hosts(tandem, mpiexec, top, rounds, digest(calm))
        except Unavailable as why:
            print(why)
    x, y = statistics.median(a), statistics.median(b)
    print(f"median of {rounds}: ours {x:.3f} s, torchrun {y:.3f} s, torchrun / ours {y / x:.0f}")


if __name__ == "__main__":
    main()
