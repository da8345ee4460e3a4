#!/usr/bin/env python3
"""Real jobs on pretended hosts, to which a seeded schedule does what happens to jobs.

    chaos.py BUILD [--kill N] [--shard N] [--lose N] [--stop N] [--cut N] [--fill N] [--rows N]
             [--tables N] [--seed S] [--only K]

    kill   1 to 3 of 4 ranks are killed: at chosen points of a step, of a checkpoint or of the
           recovery from another kill, or at any moment; the figure is the longest recovery
    shard  the same with the optimizer in shards, which cannot lose neighbours at once
    lose   every process of a host is, under "tandem run"
    stop   a rank is stopped: for a moment, or for good with --on-hang kill or abort; the figure is
           the time beyond the deadline until the others name it
    cut    a host's cable is pulled: for a moment, or for good under "tandem run"
    fill   the disk of the run's folder is full for a while, or until the job has ended
    rows   as kill, of a model whose parameters live in tables, with dedicated servers and replicas
    tables counters.c: 1 or 2 of its workers and servers are killed, at any moment; every counter must
           be what was acknowledged. The figure is the longest time from a kill until each worker that
           is left has had a push acknowledged in the group behind it
Half of these strike at any moment, half at a chosen point: there a rank stops itself, what is to be done
is done, and it is continued.

Each trial must end in the model, the metrics and the newest checkpoint of an undisturbed run, byte
for byte: by itself, or with the sentence that is promised for the case and a resumption (`resumed`).
Anything else is `wrong`; a trial that lasts a minute is `hung`. A trial's number and the seed decide
all but the moment at which a signal arrives: --only K repeats trial K of each kind. Prints a line per
trial and the counts; exit status 0 when none is wrong or hung, 77 where hosts cannot be pretended.
What a bad trial leaves is kept and its folder named."""
import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "hosts"), os.path.join(HERE, "..")]
from hosts import HERE as HOSTS_PY, SKIP, Hosts, Unavailable, find_mpiexec  # noqa: E402
from idx import make_data  # noqa: E402
from processes import processes_of  # noqa: E402

PATIENCE_S, DISK_MB, EPOCHS = 60, 24, 50
KINDS = ["kill", "shard", "lose", "stop", "cut", "fill", "rows", "tables"]
POINTS = ["backward", "reduce", "update", "evaluate", "checkpoint", "rename"]
STEPS_PER_EPOCH, CHECKPOINT_EVERY = 5, 7
LAYOUTS = [[4, 0, 0, 0], [2, 2, 0, 0], [1, 1, 1, 1], [3, 1, 0, 0], [1, 1, 2, 0]]


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


class Moment:
    """When a trial strikes: some time after the job's first metrics, or where rank `rank` is at a point."""

    def __init__(self, chance, rank, points=POINTS):
        self.rank, self.seconds, self.plan = rank, chance.uniform(0, 0.6), ""
        if chance.random() < 0.5:
            self.plan = one_point(chance, chance.choice(points), rank, chance.randrange(1, 120)) + ":stop"

    def come(self, job):
        if self.plan:
            job.wait(lambda: job.stopped(self.rank))
        else:
            time.sleep(self.seconds)

    def __str__(self):
        return self.plan or f"{self.rank}@{self.seconds:.2f}s"


class Wrong(Exception):
    pass


def finish(bed, job, promised):
    """Waits for the job's end; returns "went on" or "resumed". promised: what it may end with."""
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


# --- trials: each returns (what was done, how it ended, a figure or None) ---

SHARDS_LOST = r'both ranks that held elements .* have died; "tandem train'


def one_point(chance, point, victim, step):
    """As an item of TANDEM_FAKE_DEATH: near that step, where there is such a point."""
    if point == "evaluate":
        step = max(1, step // STEPS_PER_EPOCH) * STEPS_PER_EPOCH
    elif point in ("checkpoint", "rename"):
        step = max(1, step // CHECKPOINT_EVERY) * CHECKPOINT_EVERY
    elif point in ("recover", "handover"):
        step -= chance.randrange(2)
    return f"{victim}:{max(1, step)}:{point}"


def choose_points(chance, victims):
    """A TANDEM_FAKE_DEATH: losses at points, some of them in the recovery from the one before."""
    plan = []
    last = STEPS_PER_EPOCH * EPOCHS
    step = chance.randrange(1, last // 2)
    for k, victim in enumerate(victims):
        point = chance.choice(POINTS)
        if k and chance.random() < 0.5:
            point = chance.choice(["recover", "handover"])
        elif k:
            step += chance.randrange(0, 30)
        if point == "rename":
            victim = 0 if 0 in victims else victim
        lacks = point in ("backward", "reduce", "update", "evaluate") and step > 1 and chance.random() < 0.2
        plan.append(one_point(chance, point, victim, step) + (":memory" if lacks else ""))
    return ",".join(plan)


def shard(bed, chance):
    return kill(bed, chance, ["--shard-optimizer"], SHARDS_LOST)


def kill(bed, chance, words=(), promised=None, model="dense:48 relu dense:0"):
    each, spares = chance.choice(LAYOUTS), chance.choice([0, 0, 1, 2])
    victims = chance.sample(range(4), chance.randrange(1, 4))
    if chance.random() < 0.5:
        plan = choose_points(chance, victims)
        job = Job(bed, each, words, spares, plan, model=model)
    else:
        moments = sorted(chance.uniform(0, 0.9) for _ in victims)
        plan = " ".join(f"{v}@{m:.2f}s" for v, m in zip(victims, moments))
        job = Job(bed, each, words, spares, model=model)
        begin = time.monotonic()
        for victim, moment in zip(victims, moments):
            time.sleep(max(0, begin + moment - time.monotonic()))
            job.send(victim, signal.SIGKILL)
    how = finish(bed, job, promised)
    seconds = [e["seconds"] for e in metrics(job.run) if e.get("event") == "recovered"]
    what = f"{'+'.join(str(n) for n in each if n)}+{spares} {plan}"
    return what, how, max(seconds) if seconds else None


ROWS_LOST = r'; "tandem train --run'


def rows(bed, chance):
    servers = chance.choice([0, 2, 2])
    words = ["--strategy", "ps", "--replicas", "1", "--servers", str(servers)]
    return kill(bed, chance, words, ROWS_LOST, "fm")


TRIES, ACKNOWLEDGED, GOES_ON = 1, 2, 3
COUNTED_STEPS = 500


class Counters:
    """A job of counters.c."""

    def __init__(self, bed, each, workers, servers, clock):
        hosts, self.bed, self.folder = bed.fixture(), bed, bed.new_run()
        os.mkdir(self.folder)
        self.workers = workers
        words = [bed.counters, self.folder, str(workers), str(servers), clock, str(COUNTED_STEPS), "1000"]
        self.told = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(hosts.command(words, each, ["--with-ft", "ulfm"]),
                                        env=hosts.environment(sum(each)), stdin=subprocess.DEVNULL,
                                        stdout=self.told, stderr=self.told)

    def records(self):
        """{rank: [(what, worker, step, ns), ...]}"""
        found = {}
        for name in os.listdir(self.folder):
            with open(os.path.join(self.folder, name), "rb") as f:
                content = f.read()
            found[int(name.split("-")[1])] = list(struct.iter_unpack("=IIQQ", content[:len(content) // 24 * 24]))
        return found

    def wait(self, good):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and self.process.poll() is None and not good(self.records()):
            time.sleep(0.002)

    def kill(self, rank):
        """Returns when, 0: it was too late."""
        pid = processes_of(self.folder, self.bed.counters).get(rank)
        when = time.monotonic_ns()
        try:
            os.kill(pid, signal.SIGKILL) if pid else None
        except ProcessLookupError:
            pid = None
        return when if pid else 0


def outage(records, kills, victims):
    """Seconds from a kill until the last of the workers that are left goes on, at most."""
    longest = 0
    for when in filter(None, kills):
        for rank, lines in records.items():
            later = [r for r in lines if r[3] > when]
            groups = [k for k, r in enumerate(later) if r[0] == GOES_ON]
            worked = any(r[0] == ACKNOWLEDGED and r[3] <= when for r in lines)
            if rank in victims or not worked or not groups:
                continue
            after = [r[3] for r in later[groups[0]:] if r[0] == ACKNOWLEDGED]
            if after:
                longest = max(longest, (after[0] - when) / 1e9)
    return longest


def tables(bed, chance):
    workers, servers, spares = chance.choice([2, 3]), chance.choice([2, 3]), chance.choice([0, 0, 1, 2])
    clock = ["asp", "ssp:2", "bsp"][bed.number % 3]
    n = workers + servers + spares
    each = [n, 0, 0, 0] if chance.random() < 0.4 else [(n + 3 - k) // 4 for k in range(4)]
    victims = chance.sample(range(workers + servers), chance.choice([1, 1, 2]))
    while sum(v >= workers for v in victims) > servers - 1 or len(victims) == workers and max(victims) < workers:
        victims.pop()
    moments = sorted(chance.uniform(0.02, 0.7) for _ in victims)
    both = sum(v >= workers for v in victims) == 2  # the second when the first's rows have their copies
    job, kills = Counters(bed, each, workers, servers, clock), []
    for k, (victim, moment) in enumerate(zip(victims, moments)):
        done = moment * workers * COUNTED_STEPS
        job.wait(lambda all_: sum(r[0] == ACKNOWLEDGED for lines in all_.values() for r in lines) >= done)
        if k and both:
            job.wait(lambda all_: all(any(r[0] == GOES_ON for r in lines) for rank, lines in all_.items()
                                      if rank not in victims[:k]))
        time.sleep(chance.uniform(0, 0.01))
        kills.append(job.kill(victim))
    try:
        job.process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        job.process.kill()
        bed.close()
        raise Wrong(f"hung\n{os.pread(job.told.fileno(), 1 << 20, 0).decode(errors='replace')}")
    said = os.pread(job.told.fileno(), 1 << 20, 0).decode(errors="replace")
    if job.process.returncode != 0 or "exact" not in said:
        raise Wrong(f"wrong: exit {job.process.returncode}\n{said}")
    what = (f"{'+'.join(str(n) for n in each if n)} {workers} workers {servers} servers {spares} spares {clock} "
            + " ".join(f"{v}@{m:.2f}" for v, m in zip(victims, moments)))
    return what, "went on", outage(job.records(), kills, victims) or None


def lose(bed, chance):
    each = chance.choice([[1, 1, 2, 0], [2, 2, 0, 0], [1, 1, 1, 1]])
    used = [k + 1 for k, n in enumerate(each) if n]
    victim, moment = chance.choice(used[1:]), chance.uniform(0, 0.8)
    job = Job(bed, each, watched=True)
    time.sleep(moment)
    bed.fixture().lose(victim)
    try:
        how = finish(bed, job, None)
    finally:
        bed.close()
    return f"{'+'.join(str(n) for n in each if n)} host{victim}@{moment:.2f}s", how, None


def stop(bed, chance):
    each, victim = chance.choice(LAYOUTS), chance.randrange(4)
    moment = Moment(chance, victim, [point for point in POINTS if victim == 0 or point != "rename"])
    way = chance.choice(["moment", "kill", "kill", "abort"])
    words = {"moment": ["--on-hang", "wait", "--deadline", "20"], "kill": ["--on-hang", "kill", "--deadline", "1"],
             "abort": ["--on-hang", "abort", "--deadline", "1"]}[way]
    job = Job(bed, each, words, plan=moment.plan)
    moment.come(job)
    job.send(victim, signal.SIGSTOP)
    begin, named = time.monotonic(), None
    if way == "moment":
        time.sleep(chance.uniform(0.05, 1.5))
        job.send(victim, signal.SIGCONT)
    else:
        job.wait(lambda: re.search(rf"for rank {victim}\b", job.text()))
        if job.process.poll() is None:
            named = time.monotonic() - begin - 1
    alone = host_of(each, victim) == 1
    how = finish(bed, job, rf"rank {victim}\b" if way == "abort" else
                 rf"rank {victim} lives but .* no rank of its host" if way == "kill" and alone else None)
    return f"{'+'.join(str(n) for n in each if n)} {moment} {way}", how, named


def host_of(each, rank):
    """Ranks of that rank's host."""
    for n in each:
        if rank < n:
            return n
        rank -= n
    raise ValueError(rank)


def cut(bed, chance):
    each, moment = chance.choice([[2, 2, 0, 0], [1, 1, 2, 0]]), Moment(chance, 0)
    victim = chance.choice([k + 1 for k, n in enumerate(each) if n][1:])
    for_good = chance.random() < 0.5
    job = Job(bed, each, ["--deadline", "2" if for_good else "30"], plan=moment.plan, watched=for_good)
    moment.come(job)
    bed.fixture().link(victim, False)
    job.keep_going()
    try:
        if not for_good:
            time.sleep(chance.uniform(0.05, 1))
            bed.fixture().link(victim, True)
        how = finish(bed, job, None)
    finally:
        if for_good:
            bed.close()
    return (f"{'+'.join(str(n) for n in each if n)} host{victim} {moment} "
            f"{'for good' if for_good else 'for a moment'}"), how, None


def fill(bed, chance):
    each, moment = chance.choice(LAYOUTS), Moment(chance, 0, ["checkpoint", "rename", *POINTS])
    to_the_end = chance.random() < 0.4
    job = Job(bed, each, plan=moment.plan)
    moment.come(job)
    filler = os.path.join(bed.disk, "filler")
    try:
        with open(filler, "wb", buffering=0) as f:
            try:
                while True:
                    f.write(bytes(1 << 16))
            except OSError:
                pass
        job.keep_going()
        if to_the_end:
            job.wait(lambda: False)
        else:
            time.sleep(chance.uniform(0.05, 0.4))
    finally:
        os.unlink(filler)
    how = finish(bed, job, "No space left on device")
    return f"{'+'.join(str(n) for n in each if n)} {moment} {'to the end' if to_the_end else 'for a while'}", how, None


# --- the schedule ---

def tidy(bed, trial):
    """Ends what a trial has left, and makes room for the next."""
    shutil.rmtree(os.path.join(bed.disk, f"run{bed.runs}"), ignore_errors=True)


def keep(bed, text):
    folder = tempfile.mkdtemp(prefix="tandem-chaos-")
    with open(os.path.join(folder, "told"), "w") as f:
        f.write(text)
    try:
        shutil.copytree(os.path.join(bed.disk, f"run{bed.runs}"), os.path.join(folder, "run"))
    except (OSError, shutil.Error):
        pass
    return folder


def one_trial(bed, kind, number):
    chance = random.Random(f"{bed.seed} {kind} {number}")
    bed.number = number
    begin = time.monotonic()
    try:
        what, how, figure = globals()[kind](bed, chance)
    except Wrong as e:
        kept = keep(bed, str(e))
        what, how, figure = f"kept in {kept}", str(e).split("\n")[0].split(":")[0], None
        print(e, file=sys.stderr)
    tidy(bed, number)
    print(f"{kind}\t{number}\t{what}\t{how}\t{time.monotonic() - begin:.1f}\t"
          f"{'' if figure is None else format(figure, '.3f')}", flush=True)
    return how, figure


def run_all(bed, args):
    ends, good, bad = {}, 0, 0
    print("kind\ttrial\twhat\thow\tseconds\tfigure")
    for kind in KINDS:
        counts, figures = {}, []
        for number in [args.only] if args.only is not None else range(getattr(args, kind)):
            if not getattr(args, kind):
                break
            how, figure = one_trial(bed, kind, number)
            counts[how] = counts.get(how, 0) + 1
            if figure is not None:
                figures.append(figure)
            good, bad = good + (how in ("went on", "resumed")), bad + (how not in ("went on", "resumed"))
        if counts:
            ends[kind] = ", ".join(f"{n} {how}" for how, n in sorted(counts.items()))
        if figures:
            ends[kind] += f"; median {statistics.median(figures):.3f} s, most {max(figures):.3f} s"
    for kind, text in ends.items():
        print(f"{kind}: {text}")
    print(f"[  PASSED  ] {good} test(s).")
    if bad:
        print(f"[  FAILED  ] {bad} test(s).")
    return 1 if bad else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("build")
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, default=0, metavar="N", help="trials of this kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="K", help="trial K alone of each kind")
    parser.add_argument("--disk", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.disk:  # again, with a small disk that goes with this process
        if os.getuid() != 0 or not shutil.which("unshare"):
            print("chaos: pretended hosts need root and the program unshare", file=sys.stderr)
            return SKIP
        with tempfile.TemporaryDirectory() as disk:
            words = ["unshare", "--mount", "--", "sh", "-ec",
                     f'mount -t tmpfs -o size={DISK_MB}m tmpfs "$0"; exec "$@"', disk, sys.executable,
                     os.path.abspath(__file__), *sys.argv[1:], "--disk", disk]
            return subprocess.run(words).returncode
    try:
        bed = Bed(args.build, args.disk, args.seed)
        try:
            return run_all(bed, args)
        finally:
            bed.close()
    except Unavailable as e:
        print(f"chaos: {e}", file=sys.stderr)
        return SKIP


if __name__ == "__main__":
    sys.exit(main())
