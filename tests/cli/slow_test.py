#!/usr/bin/env python3
"""Slow workers: named with what they are slow in, and relieved without another answer."""
import json
import os
import unittest

from harness import MPIEXEC, digest, main, ranks, train


class fake_slow:
    """For the program: which rank sleeps, and how long."""

    def __init__(self, text):
        self.text = text

    def __enter__(self):
        os.environ["TANDEM_FAKE_SLOW"] = self.text

    def __exit__(self, *_):
        del os.environ["TANDEM_FAKE_SLOW"]


def lines(run):
    with open(os.path.join(run, "metrics.jsonl")) as f:
        return [json.loads(line) for line in f]


def events(run, name):
    return [line for line in lines(run) if line.get("event") == name]


class Slow(unittest.TestCase):
    def named(self, *words, rank, prefix=()):
        with fake_slow(f"{rank}:100"):
            run = train("--steps", "20", "--metrics-every", "10", *words, prefix=prefix, epochs=9)
        found = events(run, "slow")
        self.assertEqual([(e["rank"], e["phase"]) for e in found], [(rank, "compute")])
        self.assertLessEqual(found[0]["step"], 20)
        self.assertGreater(found[0]["behind_s"], 0.05)
        last = [line for line in lines(run) if "pace" in line][-1]["pace"]
        self.assertEqual(min(range(len(last)), key=last.__getitem__), rank)
        self.assertLess(last[rank], 0.5)
        return run

    def test_a_slow_worker_is_named(self):
        run = self.named("--workers", "4", rank=2)
        self.assertEqual(digest(run), digest(train("--steps", "20", epochs=9)))

    def test_two_slow_workers_are_both_named(self):
        with fake_slow("1:100,3:100"):
            run = train("--steps", "30", "--workers", "5", epochs=9)
        self.assertEqual(sorted(e["rank"] for e in events(run, "slow")), [1, 3])

    @unittest.skipUnless(MPIEXEC, "no mpiexec")
    def test_a_slow_process_is_named(self):
        self.named(rank=0, prefix=ranks(3))

    def test_its_leaves_go_to_others(self):
        words = ("--workers", "4", "--threads", "2", "--steps", "40")
        with fake_slow("1:3l"):
            run = train(*words, "--balance", epochs=9)
        dealt = events(run, "balanced")
        self.assertTrue(dealt)
        self.assertEqual(sum(dealt[0]["leaves"]), 16)
        self.assertEqual(min(dealt[0]["leaves"]), dealt[0]["leaves"][1])
        self.assertEqual(digest(run), digest(train("--steps", "40", epochs=9)))


main()
