#!/usr/bin/env python3
"""A run that loses workers to SIGKILL at any moment goes on, with a spare or without, and its model is
that of a run that lost none, byte for byte; so it is when it grows and shrinks."""
import os
import random
import re
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from harness import DATA, MPIEXEC, SHORT, TANDEM, digest, main, metrics, new_run, ranks, tandem, train  # noqa: E402
from processes import processes_of  # noqa: E402

SEED = int(os.environ.get("TANDEM_TEST_SEED", "1"))
EPOCHS, STEP_MS = (20, 9) if SHORT else (60, 3)
WORDS = ["--data", DATA, "--model", "mlp", "--epochs", str(EPOCHS), "--batch", "32", "--lr", "0.05", "--momentum",
         "0.9", "--holdout", "0.1", "--checkpoint-every", "7", "--metrics-every", "5"]
SLOW = {"TANDEM_FAKE_SLOW": f"1:{STEP_MS}"}  # so a run lasts more than a second
ULFM = "--with-ft" in tandem("run", "--dry-run", "--", "train", "--data", "x", "--run", "y").stdout
WANT = []


def want():
    """What a run gives that nothing happens to: its model, and the lines of its metrics."""
    if not WANT:
        run = train(*WORDS[6:], epochs=EPOCHS)
        WANT.extend([digest(run), lines(run)])
    return WANT


def lines(run):
    """Metrics without what differs from run to run: times, and events."""
    keep = ("step", "epoch", "loss", "accuracy", "lr", "samples", "eval")
    return [{k: line.get(k) for k in keep} for line in metrics(run) if "event" not in line]


def events(run):
    return [line for line in metrics(run) if line.get("event") in ("recovered", "resized")]


class Job:
    def __init__(self, *words, workers, spares=0, mpi=True, env=None):
        self.run = new_run()
        self.words = ["train", *WORDS, "--run", self.run, "--spares", str(spares), *words]
        before = ranks(workers + spares) if mpi else ()
        if mpi:
            before = [*before[:before.index(MPIEXEC) + 1], "--with-ft", "ulfm",
                      *before[before.index(MPIEXEC) + 1:]]
        else:
            self.words += ["--workers", str(workers)]
        self.process = subprocess.Popen([*before, TANDEM, *self.words], text=True, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, env=dict(os.environ, **SLOW, **(env or {})))
        self.wait_for("metrics.jsonl")

    def wait_for(self, name):
        path, end = os.path.join(self.run, name), time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            if os.path.exists(path):
                return
            time.sleep(0.005)

    def send(self, rank, number):
        """To that rank's process, if it still lives."""
        pid = processes_of(self.run, TANDEM).get(rank)
        if pid:
            os.kill(pid, number)

    def end(self, code=0):
        out, err = self.process.communicate(timeout=100)
        if self.process.returncode != code:
            raise AssertionError(f"exit {self.process.returncode}\n{out}\n{err}")
        return out, err


class Runs(unittest.TestCase):
    def check(self, job):
        model, told = want()
        out, job.err = job.end()
        self.assertEqual(digest(job.run), model, out + job.err)
        self.assertEqual(lines(job.run), told)
        self.assertFalse(os.path.exists(os.path.join(job.run, "lock")))
        self.assertEqual([n for n in os.listdir(os.path.join(job.run, "checkpoints")) if "." in n], [])
        return out


@unittest.skipUnless(MPIEXEC and ULFM, "no MPI that recovers")
class Deaths(Runs):
    def test_workers_may_be_killed_at_any_moment(self):
        chance = random.Random(SEED)
        survived = 0
        for trial in (0, 4) if SHORT else range(5):
            spares = trial % 2
            victims = chance.sample(range(4), 1 + trial // 3)
            job = Job(workers=4, spares=spares)
            time.sleep(chance.uniform(0, 1.2))
            for victim in victims:
                job.send(victim, signal.SIGKILL)
            with self.subTest(seed=SEED, trial=trial, victims=victims, spares=spares):
                out = self.check(job)
                told = events(job.run)
                survived += len(told) > 0
                for event in told:
                    self.assertEqual(event["event"], "recovered")
                    self.assertIn(f"at step {event['step']}", out)
                died = sorted(r for event in told for r in event["died"])
                self.assertIn(died, (sorted(victims), []))
        self.assertGreater(survived, 0)  # a signal may come too late

    def test_a_spare_takes_the_place_of_rank_0(self):
        job = Job(workers=2, spares=1)
        time.sleep(0.3)
        job.send(0, signal.SIGKILL)
        out = self.check(job)
        self.assertRegex(out, r"rank 0 \(host [^)]*\) died at step \d+; rank 2, a spare, took its place; went "
                              r"on at step \d+ after \d\.\d\d s")
        event = events(job.run)[0]
        self.assertEqual((event["died"], event["came"], event["workers"]), ([0], [2], 2))

    def test_points_that_chance_seldom_meets(self):
        for plan, spares in (("0:21:rename", 0), ("2:24:evaluate,1:24:recover", 1), ("1:9:update", 0)):
            with self.subTest(plan=plan):
                self.check(Job(workers=3, spares=spares, env={"TANDEM_FAKE_DEATH": plan}))

    def test_one_without_memory_leaves(self):
        for words, spares in (((), 0), (("--shard-optimizer",), 1)):
            job = Job(*words, workers=3, spares=spares, env={"TANDEM_FAKE_DEATH": "1:24:reduce:memory"})
            self.check(job)
            self.assertIn('rank 1 leaves the run: no memory in "reduce"', job.err)
            self.assertEqual(events(job.run)[0]["died"], [1])

    def test_the_others_may_have_left(self):
        last = want()[1][-1]["step"]
        for words in (), ("--shard-optimizer",):
            for rank in 0, 2:
                self.check(Job(*words, workers=3, env={"TANDEM_FAKE_DEATH": f"{rank}:{last}:end:alarm"}))

    def test_shards_are_mirrored(self):
        for plan, spares in (("2:24:update", 0), ("0:30:reduce,2:40:backward", 1)):
            with self.subTest(plan=plan):
                self.check(Job("--shard-optimizer", workers=4, spares=spares, env={"TANDEM_FAKE_DEATH": plan}))
        job = Job("--shard-optimizer", workers=4, env={"TANDEM_FAKE_DEATH": "1:24:reduce,2:24:reduce"})
        _, err = job.end(1)
        self.assertRegex(err, 'both ranks that held elements [0-9]+ to [0-9]+ have died; "tandem train --run '
                              '[^"]* --resume" goes on from the newest checkpoint')
        tandem("train", "--run", job.run, "--resume", "--quiet")
        self.assertEqual(digest(job.run), want()[0])

    def test_too_few_stop_with_a_checkpoint(self):
        job = Job("--min-workers", "2", workers=2)
        time.sleep(0.3)
        job.send(1, signal.SIGKILL)
        _, err = job.end(1)
        step = re.search(r"1 worker is left, fewer than --min-workers 2: stopped after step (\d+); ", err)
        self.assertTrue(step, err)
        self.assertTrue(os.path.isdir(os.path.join(job.run, "checkpoints", f"step-{int(step[1]):09}")))
        tandem("train", "--run", job.run, "--resume", "--quiet", "--min-workers", "1")
        self.assertEqual(digest(job.run), want()[0])

    def test_one_that_hangs_is_killed_where_that_is_wished(self):
        job = Job("--on-hang", "kill", "--deadline", "1", workers=3)
        time.sleep(0.3)
        job.send(2, signal.SIGSTOP)
        self.check(job)
        self.assertEqual(events(job.run)[0]["died"], [2])

    def test_another_number_of_processes(self):
        job = Job(workers=2, spares=1)
        for n in (3, 1, 2):
            done = tandem("resize", job.run, str(n))
            self.assertRegex(done.stdout, rf"^the run goes on with {n} workers? from step \d+\n$")
        job.send(0, signal.SIGKILL)
        self.check(job)
        self.assertEqual([e["workers"] for e in events(job.run)][:3], [3, 1, 2])


class Sizes(Runs):
    def test_another_number_of_threads(self):
        job = Job(workers=2, spares=1, mpi=False)
        self.assertIn("3 workers from step", tandem("resize", job.run, "3").stdout)
        for n, text in (("4", "4 workers are more than the 3 that the job was started with"),
                        ("17", "17 workers are more than the 16 leaves of a batch; ask for at most 16")):
            self.assertIn(text, tandem("resize", job.run, n, expect=2).stderr)
        out = self.check(job)
        self.assertIn("the run goes on with 3 workers from step ", out)
        self.assertEqual([(e["event"], e["workers"], e["came"]) for e in events(job.run)],
                         [("resized", 3, [2])])
        self.assertIn("no job is at work in", tandem("resize", job.run, "2", expect=2).stderr)

    def asker(self, job, n):
        """One whose job does not answer, once it has said that it waits."""
        asker = subprocess.Popen([TANDEM, "resize", job.run, str(n)], text=True, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
        self.addCleanup(asker.kill)
        self.assertIn("at an epoch's end): waiting for it (Ctrl-C takes", asker.stderr.readline())
        return asker

    @unittest.skipIf(SHORT, "waits")
    def test_who_asks_waits_as_long_as_the_job_lives(self):
        long, short = (Job(workers=2, spares=1, mpi=False) for _ in range(2))
        for job in long, short:
            job.process.send_signal(signal.SIGSTOP)  # a long step
        began = time.monotonic()
        waits, ends = self.asker(long, 3), self.asker(short, 3)
        short.process.kill()
        short.process.communicate()
        out, err = ends.communicate(timeout=60)
        self.assertEqual((ends.returncode, out), (1, ""))
        self.assertIn("has ended before it could answer; \"tandem train --run", err)
        self.assertFalse(os.path.exists(os.path.join(short.run, "resize")))
        time.sleep(max(0, began + 11 - time.monotonic()))
        self.assertIsNone(waits.poll())
        long.process.send_signal(signal.SIGCONT)
        out, err = waits.communicate(timeout=60)
        self.assertEqual((waits.returncode, err), (0, ""))
        self.assertIn("the run goes on with 3 workers from step ", out)
        self.check(long)

    def test_who_asks_may_take_it_back(self):
        job = Job(workers=2, spares=1, mpi=False)
        job.process.send_signal(signal.SIGSTOP)
        asker = self.asker(job, 3)
        self.assertTrue(os.path.exists(os.path.join(job.run, "resize")))
        asker.send_signal(signal.SIGINT)
        out, err = asker.communicate(timeout=60)
        self.assertEqual((asker.returncode, out), (130, ""))
        self.assertIn(f"the request to the job in {job.run} is taken back", err)
        self.assertFalse(os.path.exists(os.path.join(job.run, "resize")))
        job.process.send_signal(signal.SIGCONT)
        self.check(job)
        self.assertEqual(events(job.run), [])

    def test_mistakes_have_a_sentence(self):
        for words, text in ((["x"], "say which run and how many ranks: tandem resize RUN N"),
                            (["x", "many"], '"many" is no number of ranks'),
                            (["x", "0"], '"0" is no number of ranks; write 1 to 1024'),
                            (["/nowhere", "2"], "/nowhere holds no run (no job.yaml)")):
            done = tandem("resize", *words, expect=2)
            self.assertIn(text, done.stderr)
        done = tandem("train", "--data", DATA, "--run", new_run(), "--workers", "2", "--min-workers", "3",
                      expect=2)
        self.assertIn("--min-workers 3 is more than the 2 workers of the job", done.stderr)


if __name__ == "__main__":
    main()
