#!/usr/bin/env python3
"""The same model from any number of workers, threads, processes and hosts."""
import os
import unittest

from harness import MPIEXEC, PRESETS, SHORT, digest, main, ranks, train


class OneAnswer(unittest.TestCase):
    def test_the_model_does_not_know_the_number_of_workers(self):
        for model in PRESETS:
            extra = ["--steps", "3"] if model == "resnet20" else ["--steps", "9"]
            want = digest(train(*extra, model=model))
            for workers, threads in ((2, 1), (3, 1), (4, 1), (8, 1), (1, 2), (3, 2))[-1 if SHORT else 0:]:
                run = train(*extra, "--workers", str(workers), "--threads", str(threads), model=model)
                self.assertEqual(digest(run), want, (model, workers, threads))

    @unittest.skipUnless(MPIEXEC, "no MPI")
    def test_nor_whether_they_are_processes(self):
        for model in PRESETS:
            extra = ["--steps", "3"] if model == "resnet20" else ["--steps", "9"]
            want = digest(train(*extra, model=model))
            for n in (3,) if SHORT else (1, 2, 3, 4):
                self.assertEqual(digest(train(*extra, model=model, prefix=ranks(n))), want, (model, n))

    @unittest.skipUnless(MPIEXEC, "no MPI")
    def test_nor_how_many_hosts_they_are_on(self):
        want = digest(train())
        for hosts in ("0,0,1,1", "0,1,1,2"):
            os.environ["TANDEM_FAKE_HOSTS"] = hosts
            try:
                self.assertEqual(digest(train(prefix=ranks(4))), want)
            finally:
                del os.environ["TANDEM_FAKE_HOSTS"]

    def test_nor_do_random_parts_of_the_job(self):
        words = ["--optimizer", "adamw", "--weight-decay", "0.01", "--clip", "1", "--schedule",
                 "cosine", "--warmup", "0.5", "--shift", "1", "--flip", "--accumulate", "2",
                 "--holdout", "0.2", "--init", "he-normal"]
        arch = "conv:8,3 bn relu dropout:0.2 pool:2 dense:16 ln gelu dense:0"
        want = digest(train(*words, model=arch))
        for workers in ("2", "3", "5"):
            self.assertEqual(digest(train(*words, "--workers", workers, model=arch)), want)


if __name__ == "__main__":
    main()
