"""Jobs on pretended hosts, the bed they lie on, and what they must come to."""
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

from hosts import HERE as HOSTS_PY, Hosts, find_mpiexec
from idx import make_data
from processes import processes_of

PATIENCE_S, EPOCHS = 60, 50
STEPS_PER_EPOCH, CHECKPOINT_EVERY = 5, 7


class Bed:
    """The data, the disk that runs lie on, and what they must come to."""

    def __init__(self, build, disk, seed):
        self.tandem = os.path.join(os.path.abspath(build), "tandem")
        self.counters = os.path.join(os.path.abspath(build), "tests", "counters")
        self.mpiexec, self.disk, self.seed, self.runs = find_mpiexec(), disk, seed, 0
        self.data = os.path.join(disk, "data")
        os.mkdir(self.data)
        make_data(self.data)
        self.wants, self.hosts = {}, None

    def new_run(self):
        self.runs += 1
        return os.path.join(self.disk, f"run{self.runs}")

    def job(self, run, *words, model="dense:48 relu dense:0"):
        return ["train", "--data", self.clicks() if model == "fm" else self.data, "--model", model, "--epochs",
                str(EPOCHS), "--batch", "32", "--momentum", "0.9", "--holdout", "0.1", "--checkpoint-every",
                str(CHECKPOINT_EVERY), "--metrics-every", "5", "--quiet", "--run", run,
                *words]

    def clicks(self):
        path = os.path.join(self.disk, "clicks.tsv")
        if not os.path.exists(path):
            subprocess.run([self.tandem, "synth", "clicks", "--rows", "160", "--categories", "30", "--out", path,
                            "--quiet"], check=True, timeout=PATIENCE_S)
        return path

    def want(self, model):
        """Of an undisturbed run."""
        if model not in self.wants:
            run = self.new_run()
            words = ["--strategy", "ps"] if model == "fm" else []
            subprocess.run([self.tandem, *self.job(run, *words, model=model)], check=True, timeout=PATIENCE_S)
            self.wants[model] = self.outcome(run)
        return self.wants[model]

    def outcome(self, run):
        """What must be equal: the model, metrics but for times and events, the newest checkpoint."""
        keep = ("step", "epoch", "loss", "accuracy", "lr", "samples", "eval")
        with open(os.path.join(run, "model", "model.safetensors"), "rb") as f:
            model = hashlib.sha256(f.read()).hexdigest()
        checkpoints = os.path.join(run, "checkpoints")
        newest = max(n for n in os.listdir(checkpoints) if "." not in n)
        with open(os.path.join(checkpoints, newest, "manifest.json"), "rb") as f:
            manifest = hashlib.sha256(f.read()).hexdigest()
        told = [{k: line.get(k) for k in keep} for line in metrics(run) if "event" not in line]
        return model, newest, manifest, told

    def fixture(self):
        """Four hosts, that trials share while they are whole."""
        if not self.hosts:
            self.hosts = Hosts(4, mpiexec=self.mpiexec).__enter__()
        return self.hosts

    def close(self):
        if self.hosts:
            self.hosts.close()
        self.hosts = None


def metrics(run):
    with open(os.path.join(run, "metrics.jsonl")) as f:
        return [json.loads(line) for line in f]


class Job:
    """mpiexec, or tandem run, with a job in the folder `run`."""

    def __init__(self, bed, each, words=(), spares=0, plan="", slow_ms=3, watched=False,
                 model="dense:48 relu dense:0"):
        self.want = bed.want(model)
        self.alone = ["--replicas", "0"] if model == "fm" else []  # in a resumption, by one worker
        hosts, self.bed, self.run = bed.fixture(), bed, bed.new_run()
        job = bed.job(self.run, "--spares", str(spares), *words, model=model)
        each = list(each)
        each[max(k for k, n in enumerate(each) if n)] += spares
        env = dict(os.environ, TANDEM_FAKE_SLOW=f"1:{slow_ms}")
        if plan:
            env["TANDEM_FAKE_DEATH"] = plan
        if watched:
            mpiexec = (f"{bed.mpiexec} --prtemca prte_if_include eth0 --mca btl_tcp_if_include eth0 "
                       "--mca pml ob1 --mca osc ^ucx")
            table = ",".join(f"host{k + 1}:{n}" for k, n in enumerate(each) if n)
            command = hosts.on(1, [bed.tandem, "run", "--mpiexec", mpiexec, "--agent",
                                   f"{sys.executable} {HOSTS_PY} --agent", "--hosts", table, "--probe",
                                   f"{sys.executable} {HOSTS_PY} --reach", "--watch", "5", "--", *job])
        else:
            command = hosts.command([bed.tandem, *job], each, ["--with-ft", "ulfm"])
        self.told = tempfile.TemporaryFile("w+")  # on another disk than the run
        self.process = subprocess.Popen(command, env=hosts.environment(sum(each), env), stdin=subprocess.DEVNULL,
                                        stdout=self.told, stderr=self.told)
        self.wait(lambda: self.lines() > 1)

    def wait(self, good):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and self.process.poll() is None and not good():
            time.sleep(0.002)

    def text(self):
        """All that it has said; where its processes write next stays as it is."""
        return os.pread(self.told.fileno(), 1 << 20, 0).decode(errors="replace")

    def lines(self):
        try:
            return len(metrics(self.run))
        except (OSError, ValueError):
            return 0

    def pids(self):
        return processes_of(self.run, self.bed.tandem)

    def send(self, rank, number):
        pid = self.pids().get(rank)
        if pid:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def stopped(self, rank):
        """The process of that rank, if it is."""
        pid = self.pids().get(rank)
        try:
            with open(f"/proc/{pid}/stat") as f:
                return pid if f.read().rsplit(")", 1)[1].split()[0] == "T" else None
        except OSError:
            return None

    def keep_going(self):
        """Continues from now on whoever stops itself: a job that is started again has the same plan."""
        def work():
            while self.process.poll() is None:
                for rank in range(4):
                    if self.stopped(rank):
                        self.send(rank, signal.SIGCONT)
                time.sleep(0.02)
        threading.Thread(target=work, daemon=True).start()

    def events(self, name):
        return sum(line.get("event") == name for line in metrics(self.run))


class Wrong(Exception):
    pass


def end(bed, job, promised):
    """Waits for the job's end, resumed if need be; returns "went on" or "resumed", and what it said. promised: what it
    may end with."""
    try:
        job.process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        told = subprocess.run([bed.tandem, "diagnose", job.run], text=True, capture_output=True)
        job.process.kill()
        bed.close()
        raise Wrong(f"hung\n{told.stdout}{told.stderr}{job.text()}")
    how, said = "went on", job.text()
    if job.process.returncode != 0:
        if not promised or not re.search(promised, said):
            raise Wrong(f"wrong: exit {job.process.returncode}\n{said}")
        how = "resumed"
        end = time.monotonic() + PATIENCE_S
        while True:
            done = subprocess.run([bed.tandem, "train", "--run", job.run, "--resume", "--quiet", *job.alone], text=True,
                                  capture_output=True, timeout=PATIENCE_S)
            if "is in use by another job" not in done.stderr or time.monotonic() > end:
                break
            time.sleep(0.2)  # mpiexec does not wait for a process that it had to kill
        if done.returncode != 0:
            raise Wrong(f"wrong: resumed with exit {done.returncode}\n{done.stderr}\n{said}")
    return how, said


def finish(bed, job, promised):
    """As end; what has come of it must be what comes of an undisturbed run."""
    how, said = end(bed, job, promised)
    try:
        got = bed.outcome(job.run)
    except (OSError, ValueError) as e:
        raise Wrong(f"wrong: {e}\n{said}") from e
    told_of = "the run's last step has no checkpoint" in said  # on a disk that has room for the model alone
    for what, a, b in zip(("model", "newest checkpoint", "its manifest"), got, job.want):
        if a != b and (what == "model" or not told_of):
            raise Wrong(f"wrong: another {what}: {a}, not {b}\n{said}")
    restarted = how == "resumed" or "; restart " in said
    mine, theirs = comparable(got[3], restarted), comparable(job.want[3], restarted)
    for a, b in zip(mine, theirs):
        if a != b:
            raise Wrong(f"wrong: metrics have {a}, not {b}\n{said}")
    if len(mine) != len(theirs):
        raise Wrong(f"wrong: {len(mine)} lines of metrics, not {len(theirs)}\n{said}")
    return how


def comparable(rows, restarted):
    """After a restart the interval under way counts from the checkpoint, and one may have ended where
    the job was stopped; evaluations must be the same all the same."""
    return [row for row in rows if row["eval"] or not restarted]
