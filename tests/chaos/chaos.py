#!/usr/bin/env python3
"""Real jobs on pretended hosts, to which a seeded schedule does what happens to jobs.

    chaos.py BUILD [--kill N] [--shard N] [--lose N] [--stop N] [--cut N] [--fill N] [--rows N]
             [--fed N] [--tables N] [--seed S] [--only K]

    kill   1 to 3 of 4 ranks are killed: at chosen points of a step, of a checkpoint or of the
           recovery from another kill, or at any moment; the figure is the longest recovery
    shard  the same with the optimizer in shards, which cannot lose neighbours at once
    lose   every process of a host is, under "tandem run"
    stop   a rank is stopped: for a moment, or for good with --on-hang kill or abort; the figure is
           the time beyond the deadline until the others name it
    cut    a host's cable is pulled: for a moment, or for good under "tandem run"
    fill   the disk of the run's folder is full for a while, or until the job has ended
    rows   as kill, of a model whose parameters live in tables, with dedicated servers and replicas
    fed    1 or 2 ranks of such a job are killed that has data servers, too, at one of four clocks: each sample must
           have been learnt from once an epoch (if two have died, where that is known), and at bsp it ends as rows
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
What a bad trial leaves is kept and its folder named.

Of rows, fed and tables it is promised that service is back in less than a second, by the median: a kind
whose figures say otherwise is named and fails."""
import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "hosts"), os.path.join(HERE, "..")]
from hosts import SKIP, Unavailable  # noqa: E402
from jobs import Bed, Wrong  # noqa: E402
from trials import KINDS  # noqa: E402

DISK_MB = 24
PROMISED_S = {"rows": 1, "fed": 1, "tables": 1}  # medians are below,
JUDGED = 10  # of so many or more


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
        what, how, figure = KINDS[kind](bed, chance)
    except Wrong as e:
        kept = keep(bed, str(e))
        what, how, figure = f"kept in {kept}", str(e).split("\n")[0].split(":")[0], None
        print(e, file=sys.stderr)
    tidy(bed, number)
    print(f"{kind}\t{number}\t{what}\t{how}\t{time.monotonic() - begin:.1f}\t"
          f"{'' if figure is None else format(figure, '.3f')}", flush=True)
    return how, figure


def run_all(bed, args):
    ends, late, good, bad = {}, [], 0, 0
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
            median = statistics.median(figures)
            ends[kind] += f"; median {median:.3f} s, most {max(figures):.3f} s"
            if len(figures) >= JUDGED and median >= PROMISED_S.get(kind, float("inf")):
                late.append(f"{kind}: the median outage is {median:.3f} s, not below the promised {PROMISED_S[kind]} s")
    for kind, text in ends.items():
        print(f"{kind}: {text}")
    for text in late:
        print(text)
    print(f"[  PASSED  ] {good} test(s).")
    if bad + len(late):
        print(f"[  FAILED  ] {bad + len(late)} test(s).")
    return 1 if bad or late else 0


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
