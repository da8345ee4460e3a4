#!/usr/bin/env python3
"""The program as a user meets it: the same model from any number of workers, runs that are stopped
and go on, and a sentence for every mistake. Usage: cli_test.py TANDEM [MPIEXEC]

Data are made here: small images with a bright patch per class, in IDX files."""
import gzip
import hashlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

TANDEM, MPIEXEC = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
SIDE, CLASSES, TRAIN, TEST = 12, 4, 203, 50
TEMPORARY = tempfile.TemporaryDirectory()
TOP = TEMPORARY.name
DATA = os.path.join(TOP, "data")
PRESETS = ["softmax", "mlp", "lenet", "resnet20"]


def make_split(prefix, n, seed):
    state = seed
    pixels, labels = bytearray(), bytearray()
    for i in range(n):
        label = i % CLASSES
        labels.append(label)
        for y in range(SIDE):
            for x in range(SIDE):
                state = (state * 1103515245 + 12345) % 2**31
                inside = (y >= SIDE // 2) == (label >= 2) and (x >= SIDE // 2) == (label % 2 == 1)
                pixels.append((state >> 16) % 128 + (100 if inside else 0))
    with gzip.open(os.path.join(DATA, prefix + "-images-idx3-ubyte.gz"), "wb") as f:
        f.write(struct.pack(">IIII", 2051, n, SIDE, SIDE) + bytes(pixels))
    with gzip.open(os.path.join(DATA, prefix + "-labels-idx1-ubyte.gz"), "wb") as f:
        f.write(struct.pack(">II", 2049, n) + bytes(labels))


def tandem(*words, expect=0, prefix=()):
    done = subprocess.run([*prefix, TANDEM, *words], text=True, capture_output=True, timeout=120)
    if done.returncode != expect:
        raise AssertionError(f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


RUNS = 0


def new_run():
    global RUNS
    RUNS += 1
    return os.path.join(TOP, f"run{RUNS}")


def train(*words, run=None, prefix=(), model="mlp", epochs=2):
    run = run or new_run()
    tandem("train", "--data", DATA, "--model", model, "--epochs", str(epochs), "--batch", "32",
           "--lr", "0.05", "--momentum", "0.9", "--run", run, "--quiet", *words, prefix=prefix)
    return run


def digest(run):
    with open(os.path.join(run, "model", "model.safetensors"), "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def ranks(n):
    return (MPIEXEC, "--map-by", ":OVERSUBSCRIBE", "-n", str(n))


class OneAnswer(unittest.TestCase):
    def test_the_model_does_not_know_the_number_of_workers(self):
        for model in PRESETS:
            extra = ["--steps", "3"] if model == "resnet20" else ["--steps", "9"]
            want = digest(train(*extra, model=model))
            for workers, threads in ((2, 1), (3, 1), (4, 1), (8, 1), (1, 2), (3, 2)):
                run = train(*extra, "--workers", str(workers), "--threads", str(threads), model=model)
                self.assertEqual(digest(run), want, (model, workers, threads))

    @unittest.skipUnless(MPIEXEC, "no MPI")
    def test_nor_whether_they_are_processes(self):
        for model in PRESETS:
            extra = ["--steps", "3"] if model == "resnet20" else ["--steps", "9"]
            want = digest(train(*extra, model=model))
            for n in (1, 2, 3, 4):
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


class Interrupted(unittest.TestCase):
    def stop_and_resume(self, number, resume_words):
        long = ["--model", "lenet", "--epochs", "8"]
        want = digest(train(*long))
        run = new_run()
        job = subprocess.Popen([TANDEM, "train", "--data", DATA, *long, "--batch", "32", "--lr",
                                "0.05", "--momentum", "0.9", "--run", run, "--workers", "2",
                                "--checkpoint-every", "3", "--quiet"], stderr=subprocess.PIPE)
        while not os.path.exists(os.path.join(run, "checkpoints", "step-000000003")):
            time.sleep(0.005)
            if job.poll() is not None:
                break
        job.send_signal(number)
        code = job.wait(60)
        job.stderr.close()
        self.assertIn(code, (128 + number, 0))
        tandem("train", "--run", run, "--resume", "--quiet", *resume_words)
        self.assertEqual(digest(run), want)

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


def listing(folder):
    """Every file below the folder with its content."""
    found = {}
    for at, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(at, name), "rb") as f:
                found[os.path.relpath(os.path.join(at, name), folder)] = f.read()
    return found


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
    def test_nor_do_mistakes_under_mpi(self):
        for words in (["--data", "/no/such"], ["--shift", "13"], self.MISTAKES[-1]):
            run = new_run()
            self.fails(*words, "--run", run, prefix=ranks(3), code=1 if "/no/such" in words else 2)
            self.assertFalse(os.path.exists(run), words)
        run = train()
        before = listing(run)
        self.fails("--run", run, "--overwrite", "--shift", "13", prefix=ranks(2))
        self.assertIn("already holds a run", self.fails("--run", run, prefix=ranks(2)))
        self.assertEqual(listing(run), before)

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

    def test_a_flip_in_a_manifest_is_noticed(self):
        run = train()
        newest = sorted(os.listdir(os.path.join(run, "checkpoints")))[-1]
        manifest = os.path.join(run, "checkpoints", newest, "manifest.json")
        with open(manifest) as f:
            text = f.read()
        content = json.loads(text)
        step = content["state"]["step"]
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


class Length(unittest.TestCase):
    """A finished run goes on for longer, to the bits of a run that was longer from the start."""

    def resume(self, run, *words, **more):
        return tandem("train", "--run", run, "--resume", *words, **more)

    def same_state(self, run, other):
        """Models and newest checkpoints, to the byte."""
        self.assertEqual(digest(run), digest(other))
        states = []
        for folder in (run, other):
            files = listing(os.path.join(folder, "checkpoints"))
            newest = max(files)
            states.append((newest, files[newest], files[newest.replace("state.safetensors",
                                                                       "manifest.json")]))
        self.assertEqual(states[0], states[1])

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


def metrics(run):
    with open(os.path.join(run, "metrics.jsonl")) as f:
        return [json.loads(line) for line in f]


class Program(unittest.TestCase):
    def test_train_eval_predict_inspect(self):
        run = train(epochs=12)
        last = tandem("eval", "--run", run, "--data", DATA).stdout.splitlines()[-1].split()
        self.assertEqual((last[0], last[2]), ("accuracy", "loss"))
        self.assertGreater(float(last[1]), 0.9)
        again = tandem("eval", "--run", run, "--data", DATA, "--workers", "3").stdout.splitlines()[-1]
        self.assertEqual(again.split(), last)
        lines = tandem("predict", "--run", run, "--data", DATA).stdout.split()
        self.assertEqual(len(lines), TEST)
        right = sum(int(p) == i % CLASSES for i, p in enumerate(lines)) / TEST
        self.assertAlmostEqual(right, float(last[1]), places=4)
        for line in tandem("predict", "--run", run, "--data", DATA, "--proba").stdout.splitlines():
            self.assertAlmostEqual(sum(map(float, line.split())), 1, places=4)
        self.assertIn("1.weight", tandem("inspect", run).stdout)

    def test_a_run_holds_what_it_promises(self):
        run = train("--metrics-every", "2")
        with open(os.path.join(run, "metrics.jsonl")) as f:
            lines = [json.loads(line) for line in f]
        for key in ("step", "loss", "forward_s", "backward_s", "wait_s", "move_s", "update_s",
                    "input_s", "bytes_sent", "samples"):
            self.assertIn(key, lines[0])
        with open(os.path.join(run, "model", "model.safetensors"), "rb") as f:
            length = struct.unpack("<Q", f.read(8))[0]
            header = json.loads(f.read(length))
        self.assertEqual(header["1.weight"]["shape"], [256, SIDE * SIDE])
        self.assertIn("lr: 0.05", open(os.path.join(run, "job.yaml")).read())

    def test_bench_times_every_collective(self):
        done = tandem("bench", "--comm", "all", "--workers", "3", "--max-bytes", "4096", "--json")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual(len({row["pattern"] for row in rows}), 10)
        self.assertTrue(all(row["right"] and row["us"] > 0 for row in rows))
        tandem("bench", "--comm", "scan", "--workers", "2", "--max-bytes", "64")
        tandem("bench", "--comm", "scan", "--min-bytes", "64", "--max-bytes", "4", expect=2)

    def test_diagnose_lays_the_ranks_side_by_side(self):
        run = train("--workers", "3")
        done = tandem("diagnose", run)
        self.assertIn("all ranks have ended", done.stdout)
        self.assertEqual(done.stdout.count("ended"), 4)
        with open(os.path.join(run, "recorder", "rank-1"), "r+b") as f:
            f.write(b"x")
        self.assertIn("rank-1 is not a record", tandem("diagnose", run, expect=2).stderr)
        self.assertIn("holds no record", tandem("diagnose", TOP, expect=2).stderr)
        self.assertIn("tandem diagnose RUN", tandem("diagnose", expect=2).stderr)

    @unittest.skipUnless(MPIEXEC, "no mpiexec")
    def test_a_stopped_rank_is_named(self):
        run = new_run()
        job = subprocess.Popen(
            [*ranks(3), TANDEM, "train", "--data", DATA, "--model", "lenet", "--epochs", "10000",
             "--run", run, "--quiet", "--deadline", "3"], stderr=subprocess.PIPE, text=True)
        record = os.path.join(run, "recorder", "rank-2")
        while not os.path.exists(record) or os.path.getsize(record) == 0:
            self.assertIsNone(job.poll())
            time.sleep(0.05)
        time.sleep(0.5)
        with open(record, "rb") as f:
            stopped = struct.unpack_from("=q", f.read(64), 24)[0]
        os.kill(stopped, signal.SIGUSR1)
        time.sleep(0.2)
        os.kill(stopped, signal.SIGSTOP)
        try:  # it may have been stopped before the operation that the others wait in, or inside
            named = "rank 2 has not come to operation|waits for rank 2 inside operation"
            for _ in range(40):
                time.sleep(0.05)
                text = tandem("diagnose", run).stdout
                if re.search(named, text):
                    break
            self.assertRegex(text, named)
            time.sleep(3.5)
            os.kill(stopped, signal.SIGCONT)
            _, errors = job.communicate(timeout=60)
        finally:
            job.kill()
            for rank in range(3):
                with open(os.path.join(run, "recorder", f"rank-{rank}"), "rb") as f:
                    pid = struct.unpack_from("=q", f.read(64), 24)[0]
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        self.assertEqual(job.returncode, 1)
        self.assertRegex(errors, "waited more than 3000 ms for rank 2 in ")
        self.assertRegex(errors, "rank 2 of 3, step [0-9]+: ")

    def test_a_job_file_and_flags_say_the_same(self):
        want = digest(train())
        path = os.path.join(TOP, "job.yaml")
        with open(path, "w") as f:
            f.write(f"data:\n  path: {DATA}\nmodel: {{arch: mlp}}\ntrain: {{epochs: 9, batch: 32}}\n"
                    "optimizer: {name: sgd, lr: 0.9, momentum: 0.9}\n")
        run = new_run()
        tandem("train", path, "--set", "optimizer.lr=0.05", "--epochs", "2", "--run", run, "--quiet")
        self.assertEqual(digest(run), want)

    def test_help_lists_options(self):
        self.assertIn("--optimizer", tandem("help", "train").stdout)
        self.assertIn(".TH TANDEM", tandem("help", "man").stdout)
        self.assertIn("complete -F", tandem("help", "completion").stdout)
        self.assertIn("tandem train", tandem().stdout)

    def test_tables_train_too(self):
        path = os.path.join(TOP, "table.csv")
        with open(path, "w") as f:
            f.write("colour,size,label\n")
            for i in range(300):
                f.write(f"{'red' if i % 3 else 'blue'},{i % 7},{'yes' if i % 3 else 'no'}\n")
        run = new_run()
        tandem("train", "--data", path, "--label", "label", "--model", "dense:8 relu dense:0",
               "--epochs", "5", "--lr", "0.1", "--run", run, "--quiet")
        last = tandem("eval", "--run", run, "--data", path).stdout.split()
        self.assertGreater(float(last[1]), 0.99)
        self.assertEqual(tandem("predict", "--run", run, "--data", path).stdout.split()[:2], ["no", "yes"])


class Tables(unittest.TestCase):
    """A model reads new tables by what it holds; the training file may be gone."""

    def table(self, name, lines, head="size,colour,shape,label\n", encoding="utf-8"):
        path = os.path.join(TOP, name)
        with open(path, "w", encoding=encoding) as f:
            f.write(head + "".join(lines))
        return path

    def rows(self, n, begin=0):
        colours, shapes = ["red", "green", "blue, dark", "\u00e9cru"], ["round", "?"]
        labels = ["no", "yes", "maybe"]
        for i in range(begin, begin + n):
            colour = colours[i % 4]
            yield (f'{i % 7 if i % 5 else "?"},"{colour}",{shapes[i % 3 == 1]},'
                   f"{labels[(i * i + i // 3) % 3]}\n")

    def train(self, path, *words):
        run = new_run()
        tandem("train", "--data", path, "--model", "dense:8 bn relu dense:0", "--epochs", "1", "--batch",
               "16", "--lr", "0.1", "--run", run, "--quiet", *words)
        return run

    def ask(self, run, path, *words):
        return (tandem("eval", "--run", run, "--data", path, *[w for w in words if w != "--proba"]).stdout,
                tandem("predict", "--run", run, "--data", path, *words).stdout)

    def test_the_training_file_may_be_gone(self):
        for encoding in ("utf-8", "latin-1"):
            path = self.table("train.csv", self.rows(200), encoding=encoding)
            test = self.table("new.csv", self.rows(40, 1000), encoding=encoding)
            run = self.train(path, "--label", "label")
            want = self.ask(run, test, "--proba")
            self.assertEqual(self.ask(run, path)[0], self.ask(run, path)[0])
            os.remove(path)
            self.assertEqual(self.ask(run, test, "--proba"), want)
            self.assertLessEqual(set(self.ask(run, test)[1].split()), {"no", "yes", "maybe"})

    def test_an_older_manifest_reads_the_training_file_again(self):
        path = self.table("older.csv", self.rows(200))
        test = self.table("new.csv", self.rows(3, 1000))  # not all of the categories and classes
        run = self.train(path, "--label", "label")
        want = self.ask(run, test, "--proba")
        manifest = os.path.join(run, "model", "manifest.json")
        with open(manifest) as f:
            content = json.load(f)
        schema = content["state"].pop("schema")
        del content["xxh64"]
        self.assertEqual([c["name"] for c in schema["columns"]], ["size", "colour", "shape"])
        self.assertEqual(schema["columns"][1]["categories"], ["blue, dark", "green", "red", "\u00e9cru"])
        self.assertEqual(schema["class_names"], ["maybe", "no", "yes"])
        with open(manifest, "w") as f:
            json.dump(content, f)
        self.assertEqual(self.ask(run, test, "--proba"), want)
        os.remove(path)
        self.assertNotEqual(tandem("predict", "--run", run, "--data", path, expect=1).stderr, "")

    def test_what_training_never_saw(self):
        run = self.train(self.table("train.csv", self.rows(200)), "--label", "label")
        known = self.table("known.csv", ["1,?,round,no\n", "2,red,round,yes\n"])
        other = self.table("other.csv", ["1,mauve,round,no\n", "2,red,round,yes\n"])
        self.assertEqual(self.ask(run, other, "--proba"), self.ask(run, known, "--proba"))
        wrong = self.table("wrong.csv", ["1,red,round,perhaps\n"])
        done = tandem("eval", "--run", run, "--data", wrong, expect=2)
        self.assertIn("wrong.csv:2: class \"perhaps\" is not one of the training set's 3 classes", done.stderr)
        narrow = self.table("narrow.csv", ["1,red,no\n"], head="size,colour,label\n")
        done = tandem("eval", "--run", run, "--data", narrow, expect=2)
        self.assertIn("2 feature columns where the training set", done.stderr)
        renamed = self.table("renamed.csv", ["1,red,round,no\n"], head="size,color,shape,label\n")
        self.assertIn("\"color=", tandem("eval", "--run", run, "--data", renamed, expect=2).stderr)

    def test_new_rows_need_no_label_and_no_header(self):
        run = self.train(self.table("train.csv", self.rows(200)), "--label", "label")
        labelled = self.table("labelled.csv", ["3,red,round,no\n"])
        want = tandem("predict", "--run", run, "--data", labelled, "--proba").stdout
        for head in ("size,colour,shape\n", ""):
            bare = self.table("bare.csv", ["3,red,round\n"], head=head)
            got = tandem("predict", "--run", run, "--data", bare, "--label", "none", "--proba").stdout
            self.assertEqual(got, want)

    def test_missing_texts_and_numbered_classes_are_kept(self):
        path = self.table("odd.csv", [f"{(-1) ** i},{i % 9 if i % 4 else '--'},NA\n" if i % 3 else
                                      f"{(-1) ** i},{i % 9},b\n" for i in range(100)], head="")
        run = self.train(path, "--missing", "--")  # NA is a category then
        with open(os.path.join(run, "model", "manifest.json")) as f:
            state = json.load(f)["state"]
        self.assertEqual(state["data"]["data.missing"], "--")
        self.assertEqual(state["schema"]["columns"], [{}, {"categories": ["NA", "b"]}])
        self.assertEqual(state["schema"]["class_values"], [-1, 1])
        want = self.ask(run, path, "--proba")
        new = self.table("new.csv", ["1,--,NA\n", "1,5,b\n"], head="")
        os.rename(path, path + ".moved")
        self.assertEqual(self.ask(run, path + ".moved", "--proba", "--format", "csv"), want)
        self.assertLessEqual(set(self.ask(run, new)[1].split()), {"-1", "1"})

    def test_indices_of_sparse_files_count_as_in_training(self):
        path = os.path.join(TOP, "zero.svm")
        with open(path, "w") as f:
            f.writelines(f"{i % 2} 0:{1 + i % 2} {2 + i % 5}:1\n" for i in range(80))
        run = self.train(path)
        os.remove(path)
        with open(path, "w") as f:
            f.write("0 2:1\n1 2:1 5:1\n")  # no index 0: would count from 1 by itself
        zeros = os.path.join(TOP, "zeros.svm")
        with open(zeros, "w") as f:
            f.write("0 0:0 2:1\n1 0:0 2:1 5:1\n")
        self.assertEqual(self.ask(run, path, "--proba"), self.ask(run, zeros, "--proba"))
        with open(path, "w") as f:
            f.write("0 7:1\n")
        self.assertIn("index 7 is beyond the 7 features", tandem("eval", "--run", run, "--data", path,
                                                               expect=2).stderr)


class Predictions(unittest.TestCase):
    """Any number of ranks answers once; labels are not needed."""

    def ask(self, command, run, data, *words, prefix=(), expect=0):
        return tandem(command, "--run", run, "--data", data, *words, prefix=prefix, expect=expect).stdout

    def test_ranks_share_the_work(self):
        run = train()
        ways = [(["--workers", "3"], ())] + ([([], ranks(3))] if MPIEXEC else [])
        for command, flags in (("eval", []), ("eval", ["--json"]), ("predict", ["--proba"]),
                               ("predict", ["--json"])):
            want = self.ask(command, run, DATA, "--split", "train", *flags)
            for words, prefix in ways:
                got = self.ask(command, run, DATA, "--split", "train", *flags, *words, prefix=prefix)
                self.assertEqual(got.replace("\r", ""), want, (command, flags, words))

    def test_json(self):
        run = train()
        plain = self.ask("predict", run, DATA).split()
        rows = [json.loads(line) for line in self.ask("predict", run, DATA, "--json", "--proba").splitlines()]
        self.assertEqual([str(row["class"]) for row in rows], plain)
        for row in rows:
            self.assertEqual(row["proba"][row["class"]], max(row["proba"]))
        path = os.path.join(TOP, "numbers.csv")
        with open(path, "w") as f:
            f.writelines(f"{i}.5,{i},{i % 7}\n" for i in range(50))
        run = new_run()
        tandem("train", "--data", path, "--label", "0", "--model", "dense:0", "--run", run, "--quiet")
        values = [json.loads(line)["value"] for line in self.ask("predict", run, path, "--json").splitlines()]
        self.assertEqual(values, [float(v) for v in self.ask("predict", run, path).split()])

    def test_images_alone(self):
        run = train()
        want = self.ask("predict", run, DATA)
        bare = os.path.join(TOP, "bare")
        os.makedirs(bare)
        name = "t10k-images-idx3-ubyte.gz"
        os.link(os.path.join(DATA, name), os.path.join(bare, name))
        self.assertEqual(self.ask("predict", run, bare), want)
        self.assertEqual(self.ask("predict", run, os.path.join(bare, name)), want)
        with gzip.open(os.path.join(bare, name)) as f:
            pixels = f.read()[16:]
        head = "{'descr': '|u1', 'fortran_order': False, 'shape': (%d, %d, %d), }" % (TEST, SIDE, SIDE)
        head = head.ljust(117) + "\n"
        with open(os.path.join(bare, "x.npy"), "wb") as f:
            f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + pixels)
        self.assertEqual(self.ask("predict", run, os.path.join(bare, "x.npy")), want)
        self.ask("eval", run, os.path.join(bare, "x.npy"), expect=2)

    def test_lines_without_labels(self):
        path = os.path.join(TOP, "known.svm")
        with open(path, "w") as f:
            f.writelines(f"{i % 2} 1:{1 + i % 2} {2 + i % 5}:1\n" for i in range(80))
        run = new_run()
        tandem("train", "--data", path, "--model", "softmax", "--run", run, "--quiet")
        want = self.ask("predict", run, path, "--proba")
        with open(path) as f:
            lines = f.read().splitlines()
        new = os.path.join(TOP, "new.svm")
        with open(new, "w") as f:
            f.writelines(f"{'7' if i % 3 else '?'} {line[2:]}\n" for i, line in enumerate(lines))
        self.assertEqual(self.ask("predict", run, new, "--proba"), want)
        self.ask("eval", run, new, expect=2)
        with open(new, "w") as f:
            f.writelines(f"{line[2:]}\n" for line in lines)
        done = tandem("predict", "--run", run, "--data", new, expect=2)
        self.assertIn("set label to none for the one, to 0 for the other", done.stderr)
        self.assertEqual(self.ask("predict", run, new, "--proba", "--label", "none"), want)
        with open(new, "w") as f:
            f.writelines(f"{line[0]}:2{line[1:]}\n" for line in lines)
        self.assertEqual(self.ask("predict", run, new, "--proba", "--label", "0"), want)

    def test_tables_without_the_label_column(self):
        path, new = os.path.join(TOP, "with.csv"), os.path.join(TOP, "without.csv")
        rows = [(("red", "blue")[i % 2], i % 7, ("no", "yes")[i % 3 > 0], 1 + i % 2) for i in range(90)]

        def write(name, columns, head=True, answer=None):
            with open(name, "w") as f:
                for row in ([("colour", "size", "answer", "w")] if head else []) + rows:
                    row = (*row[:2], answer if answer and row[2] != "answer" else row[2], row[3])
                    f.write(",".join(str(row[c]) for c in columns) + "\n")

        write(path, (0, 1, 2, 3))
        run = new_run()
        tandem("train", "--data", path, "--label", "answer", "--weights", "w", "--model", "softmax",
               "--run", run, "--quiet")
        want = self.ask("predict", run, path, "--proba")
        for columns, head, answer in (((0, 1), True, None), ((0, 1), False, None), ((0, 1, 2), True, None),
                                      ((0, 1, 3), True, None), ((0, 2, 1), True, "perhaps")):
            write(new, columns, head, answer)
            self.assertEqual(self.ask("predict", run, new, "--proba"), want, (columns, head))

    @unittest.skipUnless(MPIEXEC, "no MPI")
    def test_what_has_no_ranks_runs_once(self):
        run = train()
        for words in (("inspect", run), ("help", "train"), ("version",)):
            want = tandem(*words).stdout
            self.assertEqual(tandem(*words, prefix=ranks(2)).stdout.replace("\r", ""), want)
        done = tandem("eval", "--run", run, "--data", "/no/such", prefix=ranks(3), expect=1)
        self.assertEqual(done.stderr.count("/no/such"), 1, done.stderr)
        plain = tandem("train", "--data", DATA, "--model", "softmax", "--run", new_run(), prefix=ranks(2))
        self.assertNotIn("\033[K", plain.stdout)

    def test_flags_that_would_do_nothing_are_refused(self):
        for command in ("eval", "predict"):
            for flag in ("--batch", "--threads", "--quiet"):
                self.assertIn("unknown option", tandem(command, flag, "3", expect=2).stderr)


class Mistakes(unittest.TestCase):
    def says(self, text, *words, code=2):
        done = tandem(*words, expect=code)
        self.assertIn(text, done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)

    def job(self, *words, run=None):
        return ["train", "--data", DATA, "--run", run or new_run(), "--quiet", *words]

    def test_options(self):
        self.says("did you mean --epochs?", *self.job("--epoch", "3"))
        self.says("did you mean \"train\"?", "trian")
        self.says("--batch must be", *self.job("--batch", "0"))
        self.says("--workers 17 is more than the 16 leaves", *self.job("--workers", "17"))
        self.says("not a number", *self.job("--lr", "fast"))
        self.says("--optimizer: \"sdg\" is not one of sgd,", *self.job("--optimizer", "sdg"))
        self.says("does not fit an image", *self.job("--model", "conv:4,13,pad=0 dense:0"))
        self.says("where the data asks for", *self.job("--model", "dense:3"))
        self.says("--run is missing", "train", "--data", DATA)
        self.says("--data is missing", "train", "--run", new_run())

    def test_data(self):
        empty = os.path.join(TOP, "empty")
        os.makedirs(empty, exist_ok=True)
        self.says("empty", "train", "--data", empty, "--run", new_run())
        self.says("/no/such", "train", "--data", "/no/such", "--run", new_run(), code=1)
        torn = os.path.join(TOP, "torn")
        os.makedirs(torn, exist_ok=True)
        for name in os.listdir(DATA):
            with open(os.path.join(DATA, name), "rb") as f:
                whole = f.read()
            with open(os.path.join(torn, name), "wb") as f:
                f.write(whole[:len(whole) // 2] if name.startswith("train-im") else whole)
        self.says("train-images", "train", "--data", torn, "--run", new_run())

    def test_divergence(self):
        self.says("the loss is no longer a number", *self.job("--lr", "1e5", "--epochs", "40"))

    def test_divergence_that_the_training_loss_does_not_show(self):
        path = os.path.join(TOP, "large.csv")
        for size, lr, says in (("e18", "1e5", "a parameter is no longer a number at step 1"),
                               ("e16", "1", "the held-out loss is no longer a number at step 1")):
            run = new_run()
            with open(path, "w") as f:
                f.writelines(f"1{size},{1 + i % 7}{size}\n" for i in range(100))
            self.says(says, "train", "--data", path, "--label-kind", "value", "--model", "dense:0",
                      "--normalise", "none", "--holdout", "0.2", "--steps", "1", "--lr", lr,
                      "--run", run, "--quiet")
            self.assertFalse(os.path.exists(run))

    def test_a_damaged_description_of_the_data(self):
        run = train()
        manifest = os.path.join(run, "model", "manifest.json")
        with open(manifest) as f:
            content = json.load(f)
        content["state"]["schema"]["shape"] = []
        with open(manifest, "w") as f:
            json.dump(content, f)
        self.says("manifest.json is damaged: its checksum", "eval", "--run", run, "--data", DATA)
        del content["xxh64"]  # as earlier versions wrote it
        with open(manifest, "w") as f:
            json.dump(content, f)
        self.says("description of the training data is damaged", "eval", "--run", run, "--data", DATA)

    def test_folders(self):
        run = train()
        self.says("already holds a run", *self.job(run=run))
        self.says("no job.yaml", "train", "--run", new_run(), "--resume")
        self.says("holds no model", "eval", "--run", DATA, "--data", DATA)
        self.says("cannot be changed", "train", "--run", run, "--resume", "--lr", "1")
        file = os.path.join(TOP, "plain")
        open(file, "w").close()
        self.says("plain", *self.job(run=os.path.join(file, "run")), code=1)

    def test_damaged_checkpoints(self):
        run = train()
        newest = sorted(os.listdir(os.path.join(run, "checkpoints")))[-1]
        path = os.path.join(run, "checkpoints", newest, "state.safetensors")
        with open(path, "rb") as f:
            whole = f.read()
        with open(path, "wb") as f:
            f.write(whole[:-1])
        self.says("cut off", "train", "--run", run, "--resume")
        with open(path, "wb") as f:
            f.write(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        self.says("checksum", "train", "--run", run, "--resume")
        with open(path, "wb") as f:
            f.write(whole)
        job = os.path.join(run, "job.yaml")
        with open(job) as f:
            text = f.read()
        with open(job, "w") as f:
            f.write(text.replace("'mlp'", "'lenet'"))
        self.says("is a checkpoint of the architecture", "train", "--run", run, "--resume")
        with open(job, "w") as f:
            f.write(text + "nonsense: 1\n")
        self.says("unknown option \"nonsense\"", "train", "--run", run, "--resume")

    def test_a_full_disk_leaves_nothing_half_written(self):
        run = new_run()
        code = ("import resource, os, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000));"
                "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
                "os.execv(sys.argv[1], sys.argv[1:])")
        done = subprocess.run([sys.executable, "-c", code, TANDEM, *self.job(run=run)],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("cannot write", done.stderr)
        self.assertEqual([n for n in os.listdir(os.path.join(run, "checkpoints"))], [])


if __name__ == "__main__":
    os.makedirs(DATA)
    make_split("train", TRAIN, 1)
    make_split("t10k", TEST, 2)
    result = unittest.main(argv=sys.argv[:1], exit=False, verbosity=1).result
    bad = len(result.failures) + len(result.errors)
    print(f"[  PASSED  ] {result.testsRun - bad - len(result.skipped)} test(s).")
    if result.skipped:
        print(f"[  SKIPPED ] {len(result.skipped)} test(s).")
    if bad:
        print(f"[  FAILED  ] {bad} test(s).")
    TEMPORARY.cleanup()
    sys.exit(1 if bad else 0)
