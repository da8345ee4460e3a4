#!/usr/bin/env python3
"""What "tandem diagnose" says of runs that hang, fail, or are in order, and what it must not say: no
healthy rank is accused, and no sentence speaks of all ranks that is not true of all groups.

    diagnose_test.py BUILD [MPIEXEC]

Scenes of comm_recorder_test are looked at while a rank stays away, and again after the deadline;
kinds of misuse of comm_misuse_test after their end. On threads, scenes on processes as well."""
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from processes import processes_of
from report import run_and_count

BUILD = os.path.abspath(sys.argv[1])
MPIEXEC = sys.argv[2] if len(sys.argv) > 2 else None
PATIENCE_S, LONG_MS, SOON_MS, SHORT_MS = 60, "50000", "8000", "400"
RANKS = [MPIEXEC, "--with-ft", "ulfm", "--map-by", ":OVERSUBSCRIBE", "--mca", "osc", "^ucx", "-n", "4"]
ALIKE, ENDED = "all ranks are at the same operation", "all ranks have ended\n"
ABSENT, DIFFERS = "has not come to operation", r"rank \d runs .* where rank"


def environment(hosts):
    env = dict(os.environ, TANDEM_FAKE_HOSTS=hosts)
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "PRTE_ALLOW_RUN_AS_ROOT"):
        env[name] = env[name + "_CONFIRM"] = "1"
    return env


def diagnose(run):
    done = subprocess.run([os.path.join(BUILD, "tandem"), "diagnose", run], text=True,
                          capture_output=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Scenes(unittest.TestCase):
    prefix, hosts = [], "0"

    def look(self, name, says, never=(), deadline_ms=LONG_MS):
        """While a rank stays away; returns the exit code and what is said after the end. never:
        sentences that are untrue from the beginning on."""
        with tempfile.TemporaryDirectory() as run:
            os.mkdir(os.path.join(run, "recorder"))
            job = subprocess.Popen(
                [*self.prefix, os.path.join(BUILD, "comm_recorder_test"), "scene", name, run, deadline_ms],
                env=environment(self.hosts), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL)
            try:
                self.assertEqual(job.stdout.readline(), "up\n")
                end = time.monotonic() + PATIENCE_S
                while True:
                    text = diagnose(run)
                    for sentence in never:
                        self.assertNotRegex(text, sentence)
                    if all(re.search(s, text) for s in says) or time.monotonic() > end:
                        break
                for sentence in says:
                    self.assertRegex(text, sentence)
                open(os.path.join(run, "go"), "w").close()
                job.communicate(timeout=PATIENCE_S)
            finally:
                open(os.path.join(run, "go"), "w").close()
                job.kill()
                job.wait()
            return job.returncode, diagnose(run)

    def test_works_are_a_group_of_their_own(self):
        code, after = self.look(
            "works", [r"rank 0 has not come to operation 4 \(barrier\), which rank 1 has been in for \d",
                      r"rank 1 has not come to operation 4 of the works \(all-reduce 400 B f32 sum\)",
                      r"beside it: all-reduce 400 B f32 sum \(operation 4 of the works\)"],
            [DIFFERS, ALIKE, ENDED])
        self.assertEqual(code, 0)
        self.assertTrue(after.endswith("\n" + ENDED), after)
        self.assertNotRegex(after, f"{DIFFERS}|{ABSENT}")

    def test_a_work_that_one_rank_does_not_start(self):
        self.look("a work alone",
                  [r"rank 1 has not come to operation 1 of the works .*: it has run none there; it has been in "
                   r"no operation for", r"0  waiting ", r"1  computing "],
                  [DIFFERS, ALIKE, "rank [023] has not come"])

    def test_a_half_that_waits(self):
        code, _ = self.look(
            "half", [r"rank 1 has not come to operation 1 of group 1 \(all-reduce 400 B f32 sum\), which rank 0 "
                     r"has been in for \d.*: it has run none there; it has been in no operation for .*, after split "
                     r"\(operation 2\)", r"0  inside .*waiting for rank 1 for \d"],
            [DIFFERS, ALIKE, ENDED, "rank [023] has not come"])

    def test_a_message_that_does_not_come(self):
        self.look("recv", [r"rank 0 waits in recv 40 B from rank 1 under tag 3 for \d.*; rank 1 has been in "
                           "no operation",
                           "0  inside "], [DIFFERS, ALIKE, ENDED, ABSENT])

    def test_who_wait_for_each_other(self):
        self.look("crossed", ["ranks wait for each other: rank 0 in recv 40 B from rank 1 under tag 3 for rank 1, "
                              "rank 1 in recv 40 B from rank 0 under tag 3 for rank 0"],
                  [DIFFERS, ALIKE, ENDED, ABSENT, "rank [23] waits"], SOON_MS)  # nobody ends that

    def test_requests_are_no_collectives(self):
        code, after = self.look(
            "keyed", [r"0  computing .*after pull 32 B", r"1  inside .*serving keyed parts",
                      r"\n +1  keyed parts +keyed parts +keyed parts +keyed parts *\n"],
            [DIFFERS, ALIKE, ENDED, ABSENT, r"pull +keyed|keyed parts {2,}pull"])
        self.assertEqual(code, 0)
        self.assertTrue(after.endswith("\n" + ENDED), after)

    def test_who_comes_last(self):
        self.look("slow", ["rank 2 came last to [34] of 4 timed operations: .* ms after the first"],
                  [DIFFERS, "rank [013] came last"])

    def test_ranks_that_compute(self):
        code, after = self.look("alike", [r"\n" + ALIKE + "\n$", *(rf"{r}  computing " for r in range(4))],
                                [DIFFERS, "has failed"])
        self.assertEqual(code, 0)
        self.assertTrue(after.endswith("\n" + ENDED), after)


    def test_what_failed(self):
        for name, says in (
                ("half", r"rank 1 has not come to operation 1 of group 1 .* rank 0 has failed in after \d"),
                ("recv", r"rank 0 failed in recv 40 B from rank 1 under tag 3 after \d"),
                ("crossed", "ranks waited for each other: rank 0 in recv"),
                ("a work alone", r"rank 0 waited for rank 1 when operation 1 of the works \(all-reduce\) failed")):
            with self.subTest(name=name):
                _, text = self.look(name, [says], [DIFFERS, ALIKE, ENDED], SHORT_MS)
                self.assertRegex(text, says)
                self.assertNotRegex(text, f"{DIFFERS}|{ALIKE}|{ENDED}")
                self.assertRegex(text, "have ended, [1-4] of them after an operation that failed")


@unittest.skipUnless(MPIEXEC, "no mpiexec")
class ScenesOfProcesses(Scenes):
    prefix, hosts = RANKS, "0,0,1,1"


class Misuse(unittest.TestCase):
    """Four ranks on threads, of which rank 1 does wrong."""
    # Of these another rank has not come, or runs something else, as well.
    BOTH = {"groups in opposite order", "one more", "sending too much", "sending too little",
            "both receive first", "both send first"}
    SAYS = {
        "maximum for sum": r"rank 1 runs all-reduce 400 B f32 max where rank 0 runs all-reduce 400 B f32 sum "
                           r"\(operation 1\)",
        "skipping one": r"rank 1 runs all-reduce 40 B f32 sum where rank 0 runs broadcast 40 B root 0",
        "other parts of a gather": "rank 1 runs gather .*: the sizes of their parts differ",
        "items of another width": "rank 1 runs all-reduce 400 B own items of 16 where rank 0 .* own items of 8",
        "groups in opposite order": r"ranks waited for each other: .*rank 1 in barrier \(operation 1 of group 2\) for",
        "leaving early": r"rank 1 has not come to operation 1 \(barrier\).*: it has run none",
        "sleeping": r"rank 0 waited for rank 1 when operation 2 \(barrier\) failed, after",
        "both receive first": "ranks waited for each other: rank 0 in recv 40 B from rank 1 under tag 3",
        "both send first": "ranks waited for each other: rank 0 in send 240000 B to rank 1 under tag 3",
        "receiving what nobody sent": "rank 1 failed in recv 40 B from rank 0 under tag 3 after",
        "works in another order": r"rank 1 runs all-reduce 40 B f32 max where .* \(operation 1 of the works\)",
    }

    def test_every_kind(self):
        program = os.path.join(BUILD, "comm_misuse_test")
        kinds = subprocess.run([program, "kinds"], text=True, capture_output=True).stdout.splitlines()
        self.assertGreater(len(kinds), 50)
        self.assertEqual(set(self.SAYS) - set(kinds), set())
        for kind in kinds:
            with self.subTest(kind=kind), tempfile.TemporaryDirectory() as run:
                os.mkdir(os.path.join(run, "recorder"))
                subprocess.run([program, "alone", kind, run], env=environment("0,0,1,1"),
                               capture_output=True, timeout=PATIENCE_S)
                text = diagnose(run)
                self.assertRegex(text, self.SAYS.get(kind, "rank"))
                self.assertNotRegex(text, f"{ALIKE}|{ENDED}")
                self.assertRegex(text, "all ranks have ended, [1-4] of them after an operation that failed")
                self.assertNotRegex(text, r"\nrank [023] runs ")
                if kind not in self.BOTH:
                    self.assertNotRegex(text, r"\nrank [023] has not come to")


@unittest.skipUnless(MPIEXEC, "no mpiexec")
class Stopped(unittest.TestCase):
    """A server of a run in step, in the midst of its wait for a slow worker, who then goes on without it."""

    def test_a_stopped_rank_waits_for_nobody(self):
        program = os.path.join(BUILD, "tandem")
        with tempfile.TemporaryDirectory() as top:
            data, run = os.path.join(top, "clicks.tsv"), os.path.join(top, "run")
            subprocess.run([program, "synth", "clicks", "--out", data, "--rows", "4000", "--categories", "100", "--quiet"],
                           check=True)
            job = subprocess.Popen([*RANKS, program, "train", "--data", data, "--model", "fm", "--strategy", "ps",
                                    "--servers", "1", "--epochs", "10000", "--batch", "64", "--run", run, "--quiet"],
                                   env=dict(environment("0"), TANDEM_FAKE_SLOW="0:30"), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
            server = None
            try:
                end = time.monotonic() + PATIENCE_S
                while not os.path.exists(os.path.join(run, "metrics.jsonl")) and time.monotonic() < end:
                    time.sleep(0.05)
                server = processes_of(run, program)[3]
                for _ in range(4):
                    time.sleep(0.3)
                    os.kill(server, signal.SIGSTOP)
                    time.sleep(0.3)
                    text = diagnose(run)
                    os.kill(server, signal.SIGCONT)
                    self.assertRegex(text, r"rank 3 \(process \d+ on .*\) is stopped")
                    self.assertRegex(text, r"rank 3 has not come|rank [012] waits for rank 3")
                    self.assertNotRegex(text, "for each other|rank 3 waits|rank [012] has not come")
            finally:
                if server:
                    os.kill(server, signal.SIGCONT)
                job.terminate()  # mpiexec ends its ranks
                job.wait(timeout=PATIENCE_S)


if __name__ == "__main__":
    sys.exit(run_and_count())
