"""The kinds of trials, as chaos.py tells them: each does to a job what the seeded `chance` says, and returns
(what was done, how it ended, a figure or None)."""
import os
import re
import signal
import struct
import subprocess
import tempfile
import time

from jobs import CHECKPOINT_EVERY, EPOCHS, PATIENCE_S, STEPS_PER_EPOCH, Job, Wrong, end, finish, metrics
from processes import processes_of

POINTS = ["backward", "reduce", "update", "evaluate", "checkpoint", "rename"]
LAYOUTS = [[4, 0, 0, 0], [2, 2, 0, 0], [1, 1, 1, 1], [3, 1, 0, 0], [1, 1, 2, 0]]


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


def fed(bed, chance):
    clock, feeders, spares = ["asp", "ssp:2", "backup:2:apply", "bsp"][bed.number % 4], chance.choice([1, 2]), chance.choice([0, 2])
    words = ["--strategy", "ps", "--replicas", "1", "--servers", "2", "--clock", clock, "--data-servers", str(feeders)]
    n = 4 + feeders  # two workers, two servers, and those
    each = [n, 0, 0, 0] if chance.random() < 0.4 else [(n + 3 - k) // 4 for k in range(4)]
    victims = chance.sample(range(n), chance.choice([1, 1, 2]))
    moments = sorted(chance.uniform(0, 0.9) for _ in victims)
    job = Job(bed, each, words, spares, model="fm")
    begin = time.monotonic()
    for victim, moment in zip(victims, moments):
        time.sleep(max(0, begin + moment - time.monotonic()))
        job.send(victim, signal.SIGKILL)
    promised = ROWS_LOST if len(victims) > 1 or victims[0] == n - 1 and feeders == 1 and not spares else None
    how = finish(bed, job, promised) if clock == "bsp" else end(bed, job, promised)[0]
    epochs = list({e["epoch"]: e for e in metrics(job.run) if e.get("event") == "epoch"}.values())  # resumed: the later
    known = {True} if len(victims) == 1 else {True, None}  # who knew may have died
    if [e["epoch"] for e in epochs] != list(range(1, EPOCHS + 1)) or not {e["each_once"] for e in epochs} <= known:
        raise Wrong(f"wrong: {[(e['epoch'], e['samples'], e['each_once']) for e in epochs]}\n{job.text()}")
    seconds = [e["seconds"] for e in metrics(job.run) if e.get("event") == "recovered"]
    what = f"{'+'.join(str(n) for n in each if n)}+{spares} {clock} " + " ".join(f"{v}@{m:.2f}s" for v, m in zip(victims, moments))
    return what, how, max(seconds) if seconds else None


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
    clock = ["asp", "ssp:2", "bsp", f"backup:{workers}"][bed.number % 4]  # of the last nothing is ever late
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


KINDS = {"kill": kill, "shard": shard, "lose": lose, "stop": stop, "cut": cut, "fill": fill, "rows": rows,
         "fed": fed, "tables": tables}
