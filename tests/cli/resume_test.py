#!/usr/bin/env python3
"""Runs that are stopped and go on, and finished runs that go on for longer."""
import gzip
import os
import signal
import struct
import subprocess
import time
import unittest

from harness import (DATA, MPIEXEC, PRESETS, SHORT, TANDEM, TOP, digest, listing, main, metrics, new_run,
                     newest_checkpoint, ranks, state_file, tandem, train)


class Interrupted(unittest.TestCase):
    def stop_and_resume(self, number, resume_words, model="lenet", prefix=(), status=None):
        """The run is long, so that the signal finds it at work."""
        long = ["--model", model, "--epochs", "40", "--steps", "12" if model == "resnet20" or SHORT else "30"]
        want = digest(train(*long))
        run = new_run()
        job = subprocess.Popen([*prefix, TANDEM, "train", "--data", DATA, *long, "--batch", "32",
                                "--lr", "0.05", "--momentum", "0.9", "--run", run,
                                "--checkpoint-every", "3", "--quiet",
                                *([] if prefix else ["--workers", "2"])],
                               stderr=subprocess.PIPE)
        while not os.path.exists(os.path.join(run, "checkpoints", "step-000000003")):
            time.sleep(0.001)
            self.assertIsNone(job.poll())
        job.send_signal(number)
        code = job.wait(60)
        job.stderr.close()
        if code == 0:  # it was done before the signal came
            self.assertEqual(digest(run), want)
            return False
        self.assertEqual(code, status or 128 + number)
        tandem("train", "--run", run, "--resume", "--quiet", *resume_words)
        self.assertEqual(digest(run), want)
        return True

    def test_every_preset_goes_on_with_another_number_of_workers(self):
        stopped = [self.stop_and_resume(signal.SIGINT, ["--workers", "3"], model) for model in PRESETS]
        self.assertIn(True, stopped)

    @unittest.skipUnless(MPIEXEC, "no MPI")
    def test_ranks_of_mpiexec_stop_by_sigusr2(self):
        model = "lenet" if SHORT else "resnet20"
        self.stop_and_resume(signal.SIGUSR2, ["--workers", "2"], model, ranks(2), 143)

    def large_test_set(self):
        """A folder whose evaluation takes so long that a signal finds it at work."""
        folder, times = os.path.join(TOP, "slow"), 50 if SHORT else 1000
        if not os.path.exists(folder):
            os.makedirs(folder)
            for name in os.listdir(DATA):
                with gzip.open(os.path.join(DATA, name)) as f:
                    whole = f.read()
                if name.startswith("t10k"):
                    n, head = struct.unpack_from(">I", whole, 4)[0], 16 if "images" in name else 8
                    whole = whole[:4] + struct.pack(">I", times * n) + whole[8:head] + whole[head:] * times
                with open(os.path.join(folder, name[:-3]), "wb") as f:
                    f.write(whole)
        return folder

    def stop_in_the_evaluation(self, words, number, resume_words, prefix=(), status=None):
        words = ["train", "--data", self.large_test_set(), "--model", "lenet", "--batch", "32", *words]
        want, run = new_run(), new_run()
        tandem(*words, "--run", want, "--workers", "2", "--quiet")
        job = subprocess.Popen([*prefix, TANDEM, *words, "--run", run, *([] if prefix else ["--workers", "2"])],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        job.stdout.readline()  # what the steps were like; then the evaluation begins
        job.send_signal(number)
        _, errors = job.communicate(timeout=60)
        self.assertEqual(job.returncode, status or 128 + number, errors)
        self.assertFalse(os.path.exists(os.path.join(run, "model")))
        self.assertIn("before its evaluation", tandem("train", "--run", run, "--resume", *resume_words).stdout)
        self.assertEqual(digest(run), digest(want))
        evaluations = [[m for m in metrics(r) if "eval" in m] for r in (want, run)]
        self.assertEqual(evaluations[0], evaluations[1])
        self.assertTrue(evaluations[0])

    def test_a_run_stops_inside_an_evaluation(self):
        self.stop_in_the_evaluation(["--epochs", "1"], signal.SIGINT, ["--workers", "3"])
        self.stop_in_the_evaluation(["--steps", "2"], signal.SIGTERM, ["--workers", "1"])

    @unittest.skipUnless(MPIEXEC, "no MPI")
    def test_ranks_of_mpiexec_stop_inside_an_evaluation(self):
        self.stop_in_the_evaluation(["--epochs", "1"], signal.SIGUSR2, ["--workers", "1"], ranks(2), 143)

    def test_a_run_stopped_by_sigterm_goes_on_with_more_workers(self):
        self.stop_and_resume(signal.SIGTERM, ["--workers", "5"])

    def test_a_run_stopped_by_sigint_goes_on_with_one(self):
        self.stop_and_resume(signal.SIGINT, ["--workers", "1", "--threads", "2"])

    def test_a_killed_run_goes_on_from_its_checkpoint(self):
        want = digest(train("--epochs", "6"))
        run = train("--epochs", "6", "--checkpoint-every", "4", "--keep-checkpoints", "99")
        for name in os.listdir(os.path.join(run, "checkpoints")):
            if int(name.split("-")[1]) > 8:
                subprocess.run(["rm", "-r", os.path.join(run, "checkpoints", name)], check=True)
        subprocess.run(["rm", "-r", os.path.join(run, "model")], check=True)
        tandem("train", "--run", run, "--resume", "--quiet", "--workers", "3")
        self.assertEqual(digest(run), want)

    def test_seconds_between_checkpoints(self):
        words = ["--model", "dense:2000 relu dense:0", "--epochs", "4000", "--workers", "3"]
        run = new_run()
        job = subprocess.Popen([TANDEM, "train", "--data", DATA, *words, "--run", run, "--quiet",
                                "--checkpoint-every", "1s", "--keep-checkpoints", "99"])
        folder = os.path.join(run, "checkpoints")
        began = time.monotonic()
        while not os.path.exists(folder) or len([n for n in os.listdir(folder) if "." not in n]) < 3:
            time.sleep(0.05)
            self.assertIsNone(job.poll())
        self.assertGreater(time.monotonic() - began, 2.5)
        job.send_signal(signal.SIGTERM)
        self.assertEqual(job.wait(60), 143)
        newest = max(os.listdir(folder))
        self.assertGreater(len(os.listdir(os.path.join(folder, newest))), 2)  # several files
        last = int(newest.split("-")[1])
        want = digest(train(*words[:2], "--batch", "128", "--lr", "0.01", "--momentum", "0",
                            "--steps", str(last + 9), epochs=4000))
        tandem("train", "--run", run, "--resume", "--quiet", "--workers", "2", "--steps",
               str(last + 9))
        self.assertEqual(digest(run), want)

    def test_a_damaged_newest_checkpoint_gives_way(self):
        want = digest(train("--epochs", "6"))
        for torn in (True, False):
            run = train("--epochs", "6", "--checkpoint-every", "4")
            subprocess.run(["rm", "-r", os.path.join(run, "model")], check=True)
            newest = newest_checkpoint(run)
            path = state_file(newest)
            size = os.path.getsize(path)
            with open(path, "r+b") as f:
                if torn:
                    f.truncate(size // 2)
                else:
                    f.seek(size - 30)
                    byte = f.read(1)[0]
                    f.seek(size - 30)
                    f.write(bytes([byte ^ 4]))
            done = tandem("train", "--run", run, "--resume", "--workers", "2")
            self.assertIn("warning: " + path, done.stderr)
            self.assertIn("the one before it is tried", done.stderr)
            self.assertIn("resumed at step 40", done.stdout)
            self.assertEqual(digest(run), want)
            self.assertTrue(os.path.exists(newest + ".damaged"))

    def test_all_damaged_are_named(self):
        run = train("--epochs", "3", "--checkpoint-every", "4")
        names = sorted(os.listdir(os.path.join(run, "checkpoints")))
        self.assertEqual(len(names), 2)
        for name in names:
            os.truncate(state_file(os.path.join(run, "checkpoints", name)), 99)
        before = listing(run)
        done = tandem("train", "--run", run, "--resume", expect=2)
        self.assertRegex(done.stderr, "warning: .*" + names[-1] + "/state.* is cut off .*; the one before it is tried")
        self.assertRegex(done.stderr.splitlines()[-1], names[0] + "/state.* is cut off")
        self.assertEqual(listing(run), before)


class Length(unittest.TestCase):
    """A finished run goes on for longer, to the bits of a run that was longer from the start."""

    def resume(self, run, *words, **more):
        return tandem("train", "--run", run, "--resume", *words, **more)

    def same_state(self, run, other):
        """Models and newest checkpoints, to the byte."""
        self.assertEqual(digest(run), digest(other))
        self.assertEqual(os.path.basename(newest_checkpoint(run)),
                         os.path.basename(newest_checkpoint(other)))
        self.assertEqual(listing(newest_checkpoint(run)), listing(newest_checkpoint(other)))

    def test_more_epochs(self):
        for words in ([], ["--optimizer", "adam", "--lr", "0.002", "--warmup", "1.5"],
                      ["--schedule", "step", "--step-every", "1.5", "--accumulate", "2"],
                      ["--model", "conv:4,3 bn relu pool:2 dropout:0.2 dense:0", "--shift", "1"]):
            want, run = train(*words, epochs=5), train(*words, epochs=2)
            self.resume(run, "--epochs", "3", "--quiet", "--workers", "3")
            self.resume(run, "--epochs", "5", "--quiet")
            self.same_state(run, want)
            with open(os.path.join(run, "job.yaml")) as f, open(os.path.join(want, "job.yaml")) as g:
                self.assertEqual(f.read(), g.read())
            self.assertIn("finished its 35 steps (5 epochs); nothing is left", self.resume(run).stdout)

    def test_more_steps(self):
        want = train("--steps", "20", epochs=9)
        run = train("--steps", "9", epochs=9)
        self.resume(run, "--steps", "20", "--quiet")
        self.same_state(run, want)
        self.resume(run, "--steps", "0", "--epochs", "4", "--quiet")
        self.same_state(run, train(epochs=4))

    @unittest.skipUnless(MPIEXEC, "no MPI")
    def test_more_epochs_under_mpi(self):
        run = train(epochs=2)
        self.resume(run, "--epochs", "4", "--quiet", prefix=ranks(3))
        self.same_state(run, train(epochs=4))
        done = self.resume(run, "--epochs", "3", "--quiet", prefix=ranks(2), expect=2)
        self.assertEqual(done.stderr.count("less than the 4 that the run has done"), 1, done.stderr)

    def test_the_best_model_is_the_longer_runs(self):
        """At the shorter run's end there is an evaluation that the longer one has not, here the best
        of all."""
        for lr, seed, first, then in (("0.3", "3", 3, 4), ("0.5", "1", 1, 2)):
            words = ["--holdout", "0.2", "--eval-every", "2", "--lr", lr, "--seed", seed]
            want, run = train(*words, epochs=then), train(*words, epochs=first)
            best = min(m["loss"] for m in metrics(want) if "eval" in m)
            self.assertLess(metrics(run)[-1]["loss"], best)
            self.resume(run, "--epochs", str(then), "--quiet")
            self.same_state(run, want)

    def test_early_stopping_stays_where_it_was(self):
        words = ["--holdout", "0.2", "--patience", "2", "--lr", "0.3", "--model", "mlp"]
        want = train(*words, epochs=60)
        stopped = max(m["step"] for m in metrics(want))
        per_epoch = max(m["step"] for m in metrics(train("--holdout", "0.2", epochs=1)))
        self.assertLess(stopped, 60 * per_epoch)
        for epochs in (stopped // per_epoch - 1, 60):
            run = train(*words, epochs=epochs)
            before = digest(run)
            done = self.resume(run, "--epochs", "90")
            self.assertIn("stopped: no better held-out loss for 2 epochs", done.stdout)
            self.assertEqual("nothing is left to do" in done.stdout, epochs == 60)
            self.assertEqual(max(m["step"] for m in metrics(run)), stopped)
            self.assertEqual(digest(run), digest(want))
            self.assertTrue(epochs != 60 or digest(run) == before)

    def test_a_finished_run_stays_as_it_is(self):
        for words in ([], ["--holdout", "0.2", "--eval-every", "2", "--schedule", "cosine"]):
            run = train(*words, epochs=3)
            before = listing(run)
            for again in ((), ("--epochs", "3"), ("--workers", "2")):
                self.assertIn("finished its", self.resume(run, *again).stdout)
                after = listing(run)
                for name in before:
                    if not name.startswith("recorder"):
                        self.assertEqual(after[name], before[name], name)

    def test_what_is_done_cannot_be_taken_back(self):
        run = train(epochs=3)
        before = listing(run)
        for words, says in ((["--epochs", "2"], "--epochs 2 is less than the 3 that the run has done"),
                            (["--steps", "20"], "--steps 20 is less than the 21 that the run has done")):
            self.assertIn(says, self.resume(run, *words, expect=2).stderr)
            self.assertEqual(listing(run), before)

    def test_a_schedule_over_the_whole_run_keeps_its_length(self):
        for schedule in ("cosine", "linear"):
            run = train("--schedule", schedule, epochs=3)
            before = listing(run)
            done = self.resume(run, "--epochs", "5", expect=2)
            self.assertIn(f"--epochs 5 cannot be changed: --schedule {schedule} was laid out over "
                          "21 steps (3 epochs)", done.stderr)
            self.assertEqual(listing(run), before)


if __name__ == "__main__":
    main()
