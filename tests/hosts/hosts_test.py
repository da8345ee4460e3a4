#!/usr/bin/env python3
"""Ranks on three hosts, with TCP between them; and that nothing is left of the hosts afterwards.

    hosts_test.py BUILD MPIEXEC

Exit status 77 (skipped) where hosts cannot be pretended: see hosts.py."""
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from hosts import HERE, SKIP, Hosts, Unavailable  # noqa: E402
from idx import make_data  # noqa: E402
from report import run_and_count  # noqa: E402

BUILD, MPIEXEC = os.path.abspath(sys.argv[1]), sys.argv[2]
PATIENCE_S = 120
hosts = None  # three of them


def comm_test(name, *words):
    """A test program of src/comm on the hosts; it says on rank 0 what failed."""
    done = hosts.mpiexec([os.path.join(BUILD, f"comm_{name}_test"), "mpi", *words], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE_S)
    if done.returncode != 0 or not re.search(r"PASSED  \] [1-9]", done.stdout):
        raise AssertionError(f"comm_{name}_test: exit {done.returncode}\n{done.stdout[-4000:]}")


class Ranks(unittest.TestCase):
    def test_hosts_are_told_apart(self):
        done = hosts.mpiexec(["sh", "-c", "echo $(hostname) $(ls /dev/shm/hosts)"], ranks=[1, 2, 3],
                             text=True, stdout=subprocess.PIPE, check=True, timeout=PATIENCE_S)
        want = ["host1", "host2", "host2", "host3", "host3", "host3"]
        self.assertEqual(sorted(line.split()[0] for line in done.stdout.splitlines()), want)

    def test_comm(self):
        comm_test("comm")

    def test_collective(self):
        comm_test("collective")

    def test_treesum(self):
        comm_test("treesum")

    def test_algorithms(self):
        comm_test("algorithms")

    def test_work(self):
        comm_test("work")

    def test_keyed(self):
        comm_test("keyed")

    def test_a_link_carries_no_more_than_its_rate(self):
        words = [os.path.join(BUILD, "tandem"), "bench", "--comm", "send-recv", "--min-bytes", "1m", "--max-bytes", "1m"]
        with Hosts(2, rate="100mbit", mpiexec=MPIEXEC) as slow:
            done = slow.mpiexec(words, ranks=1, text=True, stdout=subprocess.PIPE, check=True, timeout=PATIENCE_S)
        (least,) = re.findall(r"(?m)^send-recv\t2\t1048576\t\w+\t\S+\t(\S+)\t.*\tok$", done.stdout)
        self.assertGreater(float(least), (2**20 - 2**18) / 12.5, done.stdout)  # us, behind a burst of 256 KiB

    def test_wrong_use_is_told(self):
        comm_test("misuse", "another")  # roots, types, algorithms, ...

    def test_a_killed_rank_is_named(self):
        done = hosts.mpiexec([os.path.join(BUILD, "comm_misuse_test"), "alone", "killed"],
                             options=["--with-ft", "ulfm"], text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, timeout=PATIENCE_S)
        told = dict(re.findall(r"rank (\d): (TD_.*)", done.stdout))
        self.assertEqual(sorted(told), ["0", "2", "3", "4", "5"])
        for text in told.values():
            self.assertRegex(text, "TD_ERR_PEER: .*rank 1 has died, seen by rank . in barrier")


    def test_ranks_recover_over_hosts(self):
        for spares, seed in ((0, 0), (2, 1)):
            done = hosts.mpiexec([os.path.join(BUILD, "comm_recover_test"), "mpi-chain", str(spares), str(seed)],
                                 options=["--with-ft", "ulfm"], text=True, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, timeout=PATIENCE_S)
            self.assertEqual(done.returncode, 0, done.stdout[-4000:])


class Training(unittest.TestCase):
    def test_the_model_does_not_know_the_hosts(self):
        with tempfile.TemporaryDirectory() as top:
            make_data(top)
            models = []
            for name in ("here", "there"):
                run = os.path.join(top, name)
                words = [os.path.join(BUILD, "tandem"), "train", "--data", top, "--model", "mlp",
                         "--steps", "20", "--batch", "32", "--momentum", "0.9", "--run", run,
                         "--quiet"]
                if name == "here":
                    subprocess.run(words, check=True, timeout=PATIENCE_S)
                else:
                    hosts.mpiexec(words, check=True, timeout=PATIENCE_S)
                with open(os.path.join(run, "model", "model.safetensors"), "rb") as f:
                    models.append(f.read())
            self.assertEqual(models[0], models[1])


class Watched(unittest.TestCase):
    """tandem run, on host 1."""

    def train(self, run, top):
        return ["train", "--data", top, "--model", "dense:64 relu dense:0", "--epochs", "100000", "--steps",
                "6000", "--batch", "32", "--momentum", "0.9", "--checkpoint-every", "20", "--eval-every",
                "0", "--run", run, "--quiet"]

    def test_a_lost_host_costs_no_bit(self):
        tandem = os.path.join(BUILD, "tandem")
        with tempfile.TemporaryDirectory() as top, Hosts(3, mpiexec=MPIEXEC) as three:
            make_data(top)
            want, run = os.path.join(top, "want"), os.path.join(top, "run")
            subprocess.run([tandem, *self.train(want, top)], check=True, timeout=PATIENCE_S)
            mpiexec = (f"{MPIEXEC} --prtemca prte_if_include eth0 --mca btl_tcp_if_include eth0 "
                       "--mca pml ob1 --mca osc ^ucx")
            words = three.on(1, [tandem, "run", "--mpiexec", mpiexec, "--agent",
                                 f"{sys.executable} {HERE} --agent", "--hosts",
                                 "host1:1,host2:1,host3:2", "--", *self.train(run, top)])
            job = subprocess.Popen(words, env=three.environment(4), stdin=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
            first = os.path.join(run, "checkpoints", "step-000000040")
            end = time.monotonic() + PATIENCE_S
            while not os.path.exists(first) and job.poll() is None and time.monotonic() < end:
                time.sleep(0.005)
            three.lose(2)
            err = job.communicate(timeout=PATIENCE_S)[1]
            self.assertEqual(job.returncode, 0, err)
            self.assertRegex(err, "; restart 1 of 5 in 1 s on host1:1,host3:2 left "
                                  r"\(host2 does not answer\), from step \d+\n")
            models = []
            for folder in (want, run):
                with open(os.path.join(folder, "model", "model.safetensors"), "rb") as f:
                    models.append(f.read())
            self.assertEqual(models[0], models[1])


def those_with(mark):
    """Processes that have `mark` among their words."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if mark.encode() in f.read():
                    found.append(int(pid))
        except OSError:
            pass
    return found


class Nothing(unittest.TestCase):
    """A program that would run for 1000 s, recognised by its number."""

    def setUp(self):
        self.mark = f"1000.{os.getpid()}{random.randrange(10**9)}"

    def wait(self, good, what):
        end = time.monotonic() + 30
        while not good():
            self.assertLess(time.monotonic(), end, what)
            time.sleep(0.05)

    def ends_after(self, number, code):
        job = subprocess.Popen([sys.executable, HERE, "--hosts", "2", "--ranks", "2", "--mpiexec",
                                MPIEXEC, "--", "sleep", self.mark], stderr=subprocess.DEVNULL)
        # The owner, nsenter, mpiexec and 4 ranks.
        self.wait(lambda: len(those_with(self.mark)) >= 7, "the ranks did not start")
        job.send_signal(number)
        self.assertEqual(job.wait(30), code)
        self.wait(lambda: not those_with(self.mark), "processes are left")

    def test_is_left_after_sigint(self):
        self.ends_after(signal.SIGINT, 128 + signal.SIGINT)

    def test_is_left_after_sigterm(self):
        self.ends_after(signal.SIGTERM, 128 + signal.SIGTERM)

    def test_is_left_when_the_owner_is_killed(self):
        self.ends_after(signal.SIGKILL, -signal.SIGKILL)

    def test_is_left_after_an_exception(self):
        with self.assertRaises(subprocess.TimeoutExpired):
            with Hosts(2, mpiexec=MPIEXEC) as two:
                two.mpiexec(["sleep", self.mark], timeout=3)
        self.assertEqual(those_with(self.mark), [])

    def test_is_said_but_why_there_are_no_hosts(self):
        done = subprocess.run([sys.executable, HERE, "--mpiexec", MPIEXEC, "--", "true"], text=True,
                              capture_output=True, env=dict(os.environ, PATH="/nowhere"))
        self.assertEqual(done.returncode, SKIP)
        self.assertEqual(done.stderr, "hosts: pretended hosts need the program unshare\n")


def main():
    global hosts
    try:
        with Hosts(3, mpiexec=MPIEXEC) as hosts:
            return run_and_count()
    except Unavailable as e:
        print(e)
        return SKIP


if __name__ == "__main__":
    sys.exit(main())
