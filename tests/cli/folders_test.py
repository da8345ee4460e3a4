#!/usr/bin/env python3
"""What a run does to its folder, and what it trusts there."""
import gzip
import json
import os
import shutil
import socket
import subprocess
import time
import unittest

from harness import (DATA, MPIEXEC, TANDEM, TOP, TRAIN, digest, listing, main, metrics, new_run,
                     newest_checkpoint, ranks, tandem, train)


class Folders(unittest.TestCase):
    """What a run does to its folder, and what it leaves alone."""

    # Found by the options' rules, the data's reader, the plan, the memory, and the first steps.
    MISTAKES = (["--optimizer", "zork"], ["--init", "foo"], ["--shift", "13"], ["--batch", "0"],
                ["--shuffle", "leaf", "--leaves", "64", "--batch", "32"],
                ["--drop-last", "--batch", "500"], ["--label-kind", "zork"],
                ["--model", "dense:3"], ["--lr", "1e5", "--model", "mlp", "--epochs", "9",
                                         "--checkpoint-every", "1000"])

    def fails(self, *words, prefix=(), code=2):
        done = tandem("train", "--data", DATA, "--quiet", *words, prefix=prefix, expect=code)
        self.assertEqual(done.stderr.count("tandem: "), 1, done.stderr)
        return done.stderr

    def test_a_mistake_makes_no_folder(self):
        for words in self.MISTAKES:
            run = new_run()
            self.fails(*words, "--run", os.path.join(run, "deep", "down"))
            self.assertFalse(os.path.exists(run), words)

    def test_a_mistake_replaces_nothing(self):
        run = train()
        with open(os.path.join(run, "mine"), "w") as f:
            f.write("notes")
        before = listing(run)
        for words in self.MISTAKES:
            self.fails("--run", run, "--overwrite", *words)
            self.assertEqual(listing(run), before, words)
        train("--overwrite", run=run, model="softmax")
        after = listing(run)
        self.assertEqual(after["mine"], b"notes")
        self.assertNotEqual(after["model/model.safetensors"], before["model/model.safetensors"])
        self.assertFalse(any(name.startswith("replaced") for name in after))

    @unittest.skipUnless(MPIEXEC, "no MPI")
    def test_ranks_read_the_same_data(self):
        """Not only as many samples: here pixels of one rank's copy are others."""
        other = os.path.join(TOP, "other")
        shutil.copytree(DATA, other)
        name = os.path.join(other, "train-images-idx3-ubyte.gz")
        with gzip.open(name) as f:
            pixels = f.read()
        with gzip.open(name, "wb") as f:
            f.write(pixels[:16] + bytes(255 - b for b in pixels[16:]))
        run = new_run()
        dealt = 'd=$0; [ "$OMPI_COMM_WORLD_RANK" != 1 ] || d=$1; shift; exec "$@" --data $d'
        done = subprocess.run([*ranks(3), "sh", "-c", dealt, DATA, other, TANDEM, "train", "--model", "mlp", "--run",
                               run, "--quiet"], text=True, capture_output=True, timeout=100)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(done.stderr.count("rank 1 reads other training data in"), 1, done.stderr)
        self.assertFalse(os.path.exists(run))

    @unittest.skipUnless(MPIEXEC, "no MPI")
    def test_nor_do_mistakes_under_mpi(self):
        for words in (["--data", "/no/such"], ["--shift", "13"], self.MISTAKES[-1]):
            run = new_run()
            self.fails(*words, "--run", run, prefix=ranks(3))
            self.assertFalse(os.path.exists(run), words)
        run = train()
        before = listing(run)
        self.fails("--run", run, "--overwrite", "--shift", "13", prefix=ranks(2))
        self.assertIn("already holds a run", self.fails("--run", run, prefix=ranks(2)))
        self.assertEqual(listing(run), before)

    @unittest.skipUnless(MPIEXEC, "no MPI")
    def test_one_rank_alone_may_know_of_a_mistake(self):
        for rank in (0, 2):
            done = subprocess.run([*ranks(3), TANDEM, "train", "--data", DATA, "--run", new_run(), "--quiet"], text=True,
                                  capture_output=True, timeout=100,
                                  env=dict(os.environ, TANDEM_FAKE_DEATH=f"{rank}:2:update:mistake"))
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(f'tandem: a mistake in "update" of rank {rank}\n', done.stderr)

    def test_what_is_not_a_run_is_not_replaced(self):
        for name in ("model", "checkpoints", "metrics.jsonl"):
            run = train()
            for other in ("job.yaml", "model", "checkpoints", "metrics.jsonl", "recorder"):
                if other != name:
                    subprocess.run(["rm", "-r", os.path.join(run, other)], check=True)
            before = listing(run)
            self.assertIn(f'holds "{name}"', self.fails("--run", run))
            self.assertEqual(listing(run), before)
            train("--overwrite", run=run)

    def test_a_run_killed_before_its_first_checkpoint_begins_anew(self):
        want = digest(train())
        run = train()
        for name in ("model", "checkpoints"):
            subprocess.run(["rm", "-r", os.path.join(run, name)], check=True)
        done = tandem("train", "--run", run, "--resume")
        self.assertIn("no checkpoint yet: the run begins anew at step 0", done.stdout)
        self.assertEqual(digest(run), want)
        steps = [(m["step"], "eval" in m) for m in metrics(run)]
        self.assertEqual(len(steps), len(set(steps)))

    def test_metrics_count_what_there_is_and_go_on_where_the_run_does(self):
        words = ["--epochs", "4", "--metrics-every", "1"]
        whole = train(*words, "--accumulate", "3")
        self.assertEqual(sum(m.get("samples", 0) for m in metrics(whole)), 4 * TRAIN)
        run = train(*words, "--accumulate", "3", "--checkpoint-every", "5", "--keep-checkpoints", "99")
        for name in os.listdir(os.path.join(run, "checkpoints")):
            if int(name.split("-")[1]) > 10:
                subprocess.run(["rm", "-r", os.path.join(run, "checkpoints", name)], check=True)
        with open(os.path.join(run, "metrics.jsonl"), "a") as f:
            f.write('{"step":27,"lo')  # torn
        tandem("train", "--run", run, "--resume", "--quiet")
        key = lambda m: (m["step"], m.get("eval"), m["loss"], m.get("samples"))
        self.assertEqual([key(m) for m in metrics(run)], [key(m) for m in metrics(whole)])

    def test_resume_trusts_no_edited_job(self):
        run = train("--epochs", "3", "--workers", "2")
        job = os.path.join(run, "job.yaml")
        with open(job) as f:
            text = f.read()
        for name, old, new in (("train.batch", "batch: 32", "batch: 31"),
                               ("optimizer.lr", "lr: 0.05", "lr: 0.06"),
                               ("train.leaves", "leaves: 16", "leaves: 8"),
                               ("augment.flip", "flip: false", "flip: true"),
                               ("data.holdout", "holdout: 0", "holdout: 0.1")):
            self.assertIn(old, text)
            with open(job, "w") as f:
                f.write(text.replace(old, new))
            done = tandem("train", "--run", run, "--resume", expect=2)
            self.assertIn(f"was written with {name} ", done.stderr)
        before = digest(run)
        with open(job, "w") as f:
            f.write(text.replace("workers: 2", "workers: 1"))
        tandem("train", "--run", run, "--resume", "--quiet", "--threads", "2")
        self.assertEqual(digest(run), before)

    def test_resume_wants_the_data_that_it_began_with(self):
        path = os.path.join(TOP, "grows.csv")
        with open(path, "w") as f:
            f.writelines(f"{i % 2},{i % 7},{i % 5}\n" for i in range(100))
        run = new_run()
        tandem("train", "--data", path, "--model", "softmax", "--run", run, "--quiet")
        with open(path, "a") as f:
            f.write("1,2,3\n")
        self.assertIn("101 training samples", tandem("train", "--run", run, "--resume", expect=2).stderr)

    def table(self, name, label=lambda i: i % 2):
        path = os.path.join(TOP, name)
        with open(path, "w") as f:
            f.writelines(f"{label(i)},{i % 7},{i % 5}\n" for i in range(100))
        return path

    def test_nor_does_it_take_other_data_of_the_same_shape(self):
        one, same = self.table("one.csv"), self.table("same.csv")
        other = self.table("other.csv", lambda i: i % 3 == 0 and 1 or 0)
        for words in ([], ["--holdout", "0.2", "--cache"]):
            run, want = new_run(), new_run()
            for folder, epochs in ((run, "2"), (want, "3")):
                tandem("train", "--data", one, "--model", "softmax", "--run", folder, "--quiet",
                       "--epochs", epochs, *words)
            before = listing(run)
            again = ["train", "--run", run, "--resume", "--quiet", "--epochs", "3"]
            for prefix in ((), ranks(2)) if MPIEXEC else ((),):
                done = tandem(*again, "--data", other, prefix=prefix, expect=2)
                self.assertEqual(done.stderr.count("tandem: "), 1, done.stderr)
                self.assertRegex(done.stderr, f"--data {other} has as many training samples as the run began "
                                 "with, but others .*; give the data that it began with, or begin another run")
                self.assertEqual(listing(run), before)
            tandem(*again, "--data", same)
            self.assertEqual(digest(run), digest(want))

    def test_a_checkpoint_that_knows_nothing_of_its_data_goes_on(self):
        run = train(epochs=3)
        manifest = os.path.join(newest_checkpoint(run), "manifest.json")
        with open(manifest) as f:
            content = json.load(f)
        del content["state"]["cursor"]["data"], content["xxh64"]
        with open(manifest, "w") as f:
            json.dump(content, f)
        tandem("train", "--run", run, "--resume", "--quiet", "--epochs", "4")
        self.assertEqual(digest(run), digest(train(epochs=4)))
        with open(os.path.join(newest_checkpoint(run), "manifest.json")) as f:
            self.assertRegex(json.load(f)["state"]["cursor"]["data"], "^[0-9a-f]{16}$")

    def test_a_flip_in_a_manifest_is_noticed(self):
        run = train("--keep-checkpoints", "1")
        newest = sorted(os.listdir(os.path.join(run, "checkpoints")))[-1]
        manifest = os.path.join(run, "checkpoints", newest, "manifest.json")
        with open(manifest) as f:
            text = f.read()
        content = json.loads(text)
        step = content["state"]["step"]
        self.assertRegex(content["state"]["cursor"].pop("data"), "^[0-9a-f]{16}$")
        self.assertEqual(content["state"]["cursor"],
                         {"epoch": 2, "step_in_epoch": 0, "samples_seen": 2 * TRAIN,
                          "samples": TRAIN, "steps_per_epoch": step // 2, "steps": step})
        with open(manifest, "w") as f:
            f.write(text.replace(f'"step": {step}', f'"step": {step - 1}'))
        self.assertIn("is damaged", tandem("train", "--run", run, "--resume", expect=2).stderr)
        content["state"]["step"] = step - 1
        del content["xxh64"]  # as earlier versions wrote it
        with open(manifest, "w") as f:
            json.dump(content, f)
        self.assertIn(f"its manifest is of step {step - 1}",
                      tandem("train", "--run", run, "--resume", expect=2).stderr)


class Locks(unittest.TestCase):
    """One job at a time."""

    def start(self, run, *words):
        return subprocess.Popen([TANDEM, "train", "--data", DATA, "--model", "mlp", "--epochs", "100000",
                                 "--checkpoint-every", "50", "--run", run, "--quiet", *words])

    def begun(self, run, job):
        while not os.path.exists(os.path.join(run, "checkpoints", "step-000000050")):
            time.sleep(0.01)
            self.assertIsNone(job.poll())

    def test_a_second_job_is_told_who_is_at_work(self):
        run = new_run()
        job = self.start(run)
        self.begun(run, job)
        says = f"in use by another job, process {job.pid} on {socket.gethostname()}; wait for it"
        for words in (["--resume"], ["--data", DATA, "--overwrite"], ["--data", DATA]):
            done = tandem("train", "--run", run, *words, expect=2)
            self.assertIn(says, done.stderr)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        if MPIEXEC:
            done = tandem("train", "--run", run, "--resume", prefix=ranks(2), expect=2)
            self.assertEqual(done.stderr.count(says), 1, done.stderr)
        tandem("eval", "--run", train(), "--data", DATA)  # reading needs no lock
        job.terminate()
        self.assertEqual(job.wait(60), 143)
        self.assertFalse(os.path.exists(os.path.join(run, "lock")))

    def test_a_dead_job_holds_nothing(self):
        run = new_run()
        job = self.start(run)
        self.begun(run, job)
        job.kill()
        job.wait()
        self.assertTrue(os.path.exists(os.path.join(run, "lock")))
        for text in (None, "", f"tandem {socket.gethostname()} 1 1\n", "tandem elsewhere 12 34\n", "tandem"):
            if text is not None:
                with open(os.path.join(run, "lock"), "w") as f:
                    f.write(text)
            step = int(newest_checkpoint(run)[-9:])
            done = tandem("train", "--run", run, "--resume", "--quiet", "--steps", str(step + 3))
            self.assertEqual("process 12 on elsewhere" in done.stderr, text and "else" in text or False)
            self.assertFalse(os.path.exists(os.path.join(run, "lock")))

    def test_a_file_of_the_users_is_left_alone(self):
        run = new_run()
        os.makedirs(run)
        with open(os.path.join(run, "lock"), "w") as f:
            f.write("mine")
        done = tandem("train", "--data", DATA, "--run", run, expect=2)
        self.assertIn("lock is not Tandem's", done.stderr)
        self.assertEqual(listing(run), {"lock": b"mine"})


if __name__ == "__main__":
    main()
