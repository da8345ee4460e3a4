#!/usr/bin/env python3
"""Wrong use that ends a job under mpiexec: a rank that stops, dies, fails, leaves or runs something
else. The other ranks end with a sentence that names it and the operation, and nothing hangs; and
"tandem diagnose" finds it in what they have recorded.

    misuse_test.py BUILD MPIEXEC"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from report import run_and_count

BUILD, MPIEXEC = os.path.abspath(sys.argv[1]), sys.argv[2]
PATIENCE_S = 60
FLAGS = ["--with-ft", "ulfm", "--map-by", ":OVERSUBSCRIBE", "--mca", "osc", "^ucx", "-n", "4"]
HERE, HOSTS = "0", "0,0,1,1"  # where ranks are pretended to be


def job_says(flags, hosts, program, *words, before=()):
    """All that a job prints."""
    env = dict(os.environ, TANDEM_FAKE_HOSTS=hosts)
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "PRTE_ALLOW_RUN_AS_ROOT"):
        env[name] = env[name + "_CONFIRM"] = "1"
    done = subprocess.run([*before, MPIEXEC, *flags, os.path.join(BUILD, program), *words], env=env, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=PATIENCE_S)
    return done.stdout


def told(kind, hosts, *run):
    """What each rank was told: {rank: "STATUS: sentence"}."""
    said = job_says(FLAGS, hosts, "comm_misuse_test", "alone", kind, *run)
    return {int(rank): text for rank, text in re.findall(r"rank (\d): (TD_.*)", said)}


class Job(unittest.TestCase):
    def all_say(self, kind, ranks, sentence, layouts=(HERE, HOSTS)):
        for hosts in layouts:
            with self.subTest(kind=kind, hosts=hosts):
                texts = told(kind, hosts)
                for rank in ranks:
                    self.assertRegex(texts.get(rank, "nothing"), sentence)
        return texts

    def test_a_killed_rank(self):
        self.all_say("killed", [0, 2, 3], "TD_ERR_PEER: .*rank 1 has died, seen by rank . in barrier")

    def test_a_stopped_rank(self):
        self.all_say("stopped", [0, 2, 3],
                     r"waited more than 1000 ms for rank . in barrier \(operation 2\).*; "
                     r"rank 1 (was last (heard of|seen) in barrier \(operation 1\)|has not answered)")

    def test_a_rank_that_fails(self):
        texts = self.all_say("failing", [0, 2, 3],
                             "TD_ERR_PEER: rank 1 failed: rank 1 read: line 7 is torn", [HOSTS])
        self.assertRegex(texts[1], "TD_ERR_DATA")

    def test_a_rank_that_leaves(self):
        texts = self.all_say("leaving early", [0, 2, 3],
                             "TD_ERR_PEER: .*rank 1 left while rank . waited for it in barrier")
        self.assertEqual(texts[1], "TD_OK: ")

    def test_a_rank_that_waits_for_one_that_left(self):
        texts = self.all_say("receiving from one that left", [1],
                             "TD_ERR_PEER: rank 0 left while rank 1 waited for it in recv", [HOSTS])
        self.assertEqual([texts[r] for r in (0, 2, 3)], ["TD_OK: "] * 3)

    def test_a_rank_that_runs_something_else(self):
        self.all_say("maximum for sum", [0, 1, 2, 3],
                     r"all-reduce \((max|sum) of 400 bytes of f32\) where rank . runs all-reduce",
                     [HOSTS])

    @unittest.skipUnless(os.getuid() == 0 and shutil.which("unshare"), "needs root and unshare")
    def test_shared_memory_that_cannot_be_had(self):
        little = ["unshare", "--mount", "sh", "-ec", 'mount -t tmpfs -o size=1m tmpfs /dev/shm; exec "$@"', "sh"]
        said = job_says(FLAGS, HERE, "tandem", "bench", "--comm", "barrier", before=little)
        if re.search("(unshare|mount): .*permi(tted|ssion)", said):
            self.skipTest(said)
        self.assertRegex(said, r"tandem: \d+ bytes of shared memory cannot be had in /dev/shm\n")
        self.assertEqual(said.count("tandem: "), 1, said)

    def test_ranks_that_end_long_before_another(self):
        for flags in (FLAGS, FLAGS[2:]):  # with recovery, and without
            said = job_says(flags, HERE, "comm_comm_test", "mpi-long")
            self.assertEqual(said.count("has waited more than"), 1, said)
            self.assertIn("rank 0 has ended, and has waited more than 200 ms for rank 1 to end", said)
            self.assertIn("rank 0 of 4, step 0: has ended, waiting for the other ranks to\n", said)


class Diagnose(unittest.TestCase):
    """Over hosts, after the job."""

    def finds(self, kind, sentence, never=()):
        with tempfile.TemporaryDirectory() as run:
            os.mkdir(os.path.join(run, "recorder"))
            told(kind, HOSTS, run)
            done = subprocess.run([os.path.join(BUILD, "tandem"), "diagnose", run], text=True,
                                  capture_output=True, timeout=PATIENCE_S)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertRegex(done.stdout, sentence)
            for untrue in ("all ranks are at the same operation", r"\nrank [023] runs", *never):
                self.assertNotRegex(done.stdout, untrue)

    def test_who_stopped(self):
        self.finds("stopped", r"rank 3 waited for rank 1 when operation 2 \(barrier\) failed",
                   ["rank [023] has not come", "all ranks have ended\n"])

    def test_who_left(self):
        self.finds("leaving early", "rank 1 has not come to operation 1 .*: it has run none",
                   ["rank [023] has not come"])

    def test_who_ran_something_else(self):
        self.finds("maximum for sum", "rank 1 runs all-reduce 400 B f32 max where rank 0 runs "
                                      r"all-reduce 400 B f32 sum \(operation 1\)")


if __name__ == "__main__":
    sys.exit(run_and_count())
