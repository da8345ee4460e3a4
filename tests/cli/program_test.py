#!/usr/bin/env python3
"""The commands, one after the other, as a user meets them."""
import json
import os
import re
import signal
import struct
import subprocess
import time
import unittest

from harness import (CLASSES, DATA, MPIEXEC, SIDE, TANDEM, TEST, TOP, digest, main, new_run, ranks,
                     tandem, train)


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
        self.assertEqual(len({row["pattern"] for row in rows}), 12)
        self.assertEqual({row["algorithm"] for row in rows}, {"shared", "none"})
        self.assertTrue(all(row["right"] and row["us"] > 0 for row in rows))
        tandem("bench", "--comm", "scan", "--workers", "2", "--max-bytes", "64")
        tandem("bench", "--comm", "all-reduce", "--workers", "2", "--min-bytes", "65536", "--max-bytes", "65536",
               "--registered")
        tandem("bench", "--registered", expect=2)
        tandem("bench", "--comm", "scan", "--min-bytes", "64", "--max-bytes", "4", expect=2)
        ops = ("sum", "min", "max", "product")
        for k, kind in enumerate(("f32", "f64", "i32", "i64", "u8", "f16", "bf16")):
            op, pattern = ops[k % 4], ("all-reduce", "scan", "reduce-scatter")[k % 3]
            done = tandem("bench", "--comm", pattern, "--workers", "3", "--min-bytes", "96", "--max-bytes", "192",
                          "--factor", "2", "--type", kind, "--op", op, "--algorithm", "all")
            self.assertIn(f"transport local, {kind} {op}\n", done.stdout)
            rows = [line.split("\t") for line in done.stdout.splitlines() if line.startswith(pattern)]
            self.assertEqual({row[2] for row in rows}, {"96", "192"})
            names = {row[3] for row in rows}
            self.assertEqual("double-tree" in names, pattern == "all-reduce" and kind == "i64", (kind, names))
            self.assertIn("shared", names)

    def test_bench_says_what_it_cannot_time(self):
        for text, words in (("is not one of f32, f64", ["--comm", "scan", "--type", "f31"]),
                            ("no \"zork\" serves scan of f32 in this group", ["--comm", "scan", "--algorithm", "zork"]),
                            ("send-recv takes two ranks or more", ["--comm", "send-recv"]),
                            ("there is one way alone, nothing to choose", ["--comm", "push-pull", "--algorithm", "all"]),
                            ("--tune: cannot write /nowhere/tuning", ["--comm", "scan", "--tune", "/nowhere/tuning"]),
                            ("all-gather moves values as they are", ["--comm", "all-gather", "--op", "max"]),
                            ("leave out --algorithm", ["--comm", "scan", "--tune", "x", "--algorithm", "all"]),
                            ("leave out --type and --op", ["--comm", "scan", "--tune", "x", "--type", "u8"])):
            done = tandem("bench", *words, expect=2)
            self.assertIn(text, done.stderr)
            self.assertEqual(done.stdout, "")
            self.assertFalse(os.path.exists("x"))

    def test_bench_tunes_whole_numbers_apart(self):
        tuning = os.path.join(TOP, "tuned")
        tandem("bench", "--comm", "all-reduce", "--workers", "3", "--max-bytes", "16", "--tune", tuning)
        with open(tuning) as f:
            rows = [line.split()[0] for line in f.read().splitlines()[3:-1]]
        self.assertEqual(set(rows), {"all-reduce", "all-reduce/whole"})
        tandem("bench", "--comm", "all-reduce", "--workers", "3", "--max-bytes", "1024", "--tuning", tuning)

    def test_bench_tunes_what_it_has_measured(self):
        """Of a group of that size; what the file has of other patterns and groups stays."""
        tuning, want = os.path.join(TOP, "tuned-from"), {}
        for workers, pattern, bytes_ in ((2, "all-reduce", 4096), (3, "all-reduce", 1024), (2, "broadcast", 1024),
                                         (2, "all-reduce", 1024), (2, "barrier", 1024)):
            tandem("bench", "--comm", pattern, "--workers", str(workers), "--min-bytes", str(bytes_), "--max-bytes",
                   str(bytes_), "--tune", tuning)
            want[str(workers), pattern] = "0" if pattern == "barrier" else str(bytes_)
            with open(tuning) as f:
                lines = [line.split() for line in f.read().splitlines()[2:-1]]
            found, group = {}, None
            for words in lines:
                if words[0] == "group":
                    group = words[4]
                else:
                    found[group, words[0].split("/")[0]] = words[1]
            self.assertEqual(found, want)
        self.assertRegex(tandem("bench", "--comm", "scan", "--workers", "4", "--tuning", tuning, expect=2).stderr,
                         'tuned-from was measured for "transport local ranks [23] hosts 1 largest-host [23]", '
                         '".*; this is "transport local ranks 4 .*adds it')
        other = os.path.join(TOP, "not-a-tuning")
        with open(other, "w") as f:
            f.write("mine\n")
        self.assertIn("not-a-tuning is not a tuning file",
                      tandem("bench", "--comm", "scan", "--tune", other, expect=2).stderr)
        with open(other) as f:
            self.assertEqual(f.read(), "mine\n")

    @unittest.skipUnless(MPIEXEC, "no mpiexec")
    def test_bench_runs_between_the_ranks_of_mpiexec(self):
        done = tandem("bench", "--comm", "barrier", prefix=ranks(3))
        self.assertIn("3 ranks on 1 hosts, transport mpi", done.stdout)
        tuning = os.path.join(TOP, "tuning")
        tandem("bench", "--comm", "broadcast", "--min-bytes", "64", "--max-bytes", "64", "--tune", tuning,
               prefix=ranks(2))
        run = train("--tuning", tuning, prefix=ranks(2))
        self.assertEqual(digest(run), digest(train()))
        done = tandem("train", "--run", run, "--resume", "--epochs", "3", prefix=ranks(3))  # as when a host is lost
        self.assertRegex(done.stderr, r'was measured for "transport mpi ranks 2 .*; the run goes on without it')
        self.assertEqual(digest(run), digest(train(epochs=3)))
        for words in (("--comm", "zork"), ("--comm", "scan", "--min-bytes", "64", "--max-bytes", "4")):
            done = tandem("bench", *words, prefix=ranks(2), expect=2)
            self.assertEqual(done.stderr.count("tandem: "), 1, done.stderr)
        done = tandem("bench", "--model", "softmax", "--steps", "2", prefix=ranks(2))
        self.assertEqual(done.stdout.count("samples/s"), 1)

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

    def test_a_signal_asks_what_ranks_do(self):
        job = subprocess.Popen([TANDEM, "bench", "--steps", "1000000", "--workers", "2"], text=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            caught = 0
            while not caught >> (signal.SIGUSR1 - 1) & 1:  # before that it would end the process
                self.assertIsNone(job.poll())
                with open(f"/proc/{job.pid}/status") as f:
                    caught = int(re.search(r"SigCgt:\s*(\w+)", f.read())[1], 16)
            said = set()
            while len(said) < 2:
                job.send_signal(signal.SIGUSR1)
                line = job.stderr.readline()
                self.assertRegex(line, "rank [01] of 2, step 0: |no rank of this process records")
                said |= set(re.findall("rank [01] of 2", line))
            self.assertIsNone(job.poll())
        finally:
            job.kill()
            job.communicate()

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
            try:  # mpiexec may have ended it already, for the others' sake
                os.kill(stopped, signal.SIGCONT)
            except ProcessLookupError:
                pass
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

    def test_a_job_file_is_given_again(self):
        """To a run that is resumed: as flags are, it has to say what the run was made with."""
        path = os.path.join(TOP, "again.yaml")
        with open(path, "w") as f:
            f.write(f"data: {{path: {DATA}}}\ntrain: {{epochs: 2, batch: 32}}\noptimizer: {{lr: 0.9, momentum: 0.9}}\n")
        words = ["train", path, "--lr", "0.05", "--run", new_run(), "--quiet"]
        tandem(*words)
        tandem(*words, "--resume", "--epochs", "3")
        self.assertEqual(digest(words[5]), digest(train(epochs=3)))
        done = tandem("train", path, "--run", words[5], "--resume", expect=2)
        self.assertEqual(done.stderr, "tandem: --lr cannot be changed when a run is resumed, by a flag or in "
                                      f"{path}\n")
        done = tandem(*words, "--resume", expect=2)
        self.assertEqual(done.stderr, "tandem: --epochs 2 is less than the 3 that the run has done; give more, or begin "
                                      "another run\n")
        done = tandem(*words, "--resume", "again.yaml", expect=2)
        self.assertIn("unexpected argument \"again.yaml\"", done.stderr)

    def test_help_lists_options(self):
        self.assertIn("--optimizer", tandem("help", "train").stdout)
        self.assertIn(".TH TANDEM", tandem("help", "man").stdout)
        self.assertIn("complete -F", tandem("help", "completion").stdout)
        self.assertIn("tandem train", tandem().stdout)

    def test_inspect_shows_the_curve_of_any_run(self):
        path = os.path.join(TOP, "values.csv")
        with open(path, "w") as f:
            f.writelines(f"{i % 7 + .5},{i % 5}\n" for i in range(90))
        run = new_run()
        tandem("train", "--data", path, "--label", "0", "--model", "dense:0", "--holdout", "0.2", "--lr", "0.001",
               "--run", run, "--quiet")
        text = tandem("inspect", run).stdout
        self.assertRegex(text, "(?m)^step .* held-out loss [0-9.]+$")  # values have no accuracy
        with open(os.path.join(run, "metrics.jsonl"), "a") as f:  # a long run, whose loss falls all the time
            f.writelines(f'{{"step":{s},"loss":{90001 - s}}}\n' for s in range(9, 90001))
            f.write('{"step":90000,"eval":"held-out","loss":0.5,"accuracy":null}\n')
        text = tandem("inspect", run).stdout
        self.assertIn("step 90000    held-out loss 0.5000\n", text)
        last = [line for line in text.splitlines() if "|" in line][-1]
        self.assertTrue(last.endswith("*") and float(last.split()[0]) < 100, last)
        subprocess.run(["rm", "-r", os.path.join(run, "model")], check=True)
        text = tandem("inspect", run).stdout
        self.assertTrue(text.startswith("no model yet\n") and "training loss" in text, text)
        self.assertIn("holds no model yet", tandem("inspect", DATA, expect=2).stderr)

    def test_text_that_does_not_arrive_is_a_failure(self):
        run = train()
        asks = [["help"], ["help", "train"], ["help", "man"], ["help", "completion"], ["version"], ["train", "--help"],
                ["inspect", run], ["diagnose", run], ["bench", "--model", "softmax", "--steps", "1"],
                ["eval", "--run", run, "--data", DATA], ["predict", "--run", run, "--data", DATA],
                ["run", "--dry-run", "--", "train", "--data", DATA, "--run", new_run()]]
        with open("/dev/full", "w") as full:
            for words in asks:
                done = subprocess.run([TANDEM, *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
                self.assertEqual(done.returncode, 1, words)
                self.assertRegex(done.stderr, "^tandem: (cannot write .*No space left on device|not all could be written .*)\n$")
            words = ["train", "--data", DATA, "--model", "softmax", "--epochs", "1", "--run", new_run()]
            self.assertEqual(subprocess.run([TANDEM, *words], stdout=full, timeout=60).returncode, 0)

    def test_closed_standard_streams_are_not_taken_for_files(self):
        run = new_run()
        close = 'exec "$@" <&- >&- 2>&-'
        tandem("train", "--data", DATA, "--model", "softmax", "--epochs", "1", "--run", run,
               prefix=("sh", "-c", close, "sh"))
        self.assertFalse(os.path.exists(os.path.join(run, "lock")))
        done = tandem("predict", "--run", run, "--data", DATA, expect=1, prefix=("sh", "-c", 'exec "$@" >&-', "sh"))
        self.assertIn("cannot write the predictions", done.stderr)

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

    def test_a_click_log_is_a_function_of_its_seed(self):
        files, told = [], []
        for k, words in enumerate((["--threads", "1"], ["--threads", "3"], ["--seed", "2"])):
            files.append(os.path.join(TOP, f"clicks{k}.tsv"))
            told.append(tandem("synth", "clicks", "--out", files[k], "--rows", "5000", "--categories", "300",
                               *words).stdout)
        texts = []
        for path in files:
            with open(path) as f:
                texts.append(f.read())
        self.assertEqual(texts[0], texts[1])
        self.assertNotEqual(texts[0], texts[2])
        self.assertEqual(len(texts[0].splitlines()), 5001)
        self.assertEqual(told[0].replace("clicks0", "clicks1"), told[1])
        best = re.search(r"5000 rows, \d+\.\d % clicked; the planted model: AUC (0\.\d+) logloss (0\.\d+)", told[0])
        self.assertTrue(0.7 < float(best[1]) < 0.95, told[0])
        run = new_run()
        tandem("train", "--data", files[0], "--label", "click", "--one-hot", "--model", "softmax", "--epochs", "1",
               "--run", run, "--quiet")
        last = tandem("eval", "--run", run, "--data", files[2]).stdout.splitlines()[-1].split()
        self.assertEqual(last[::2], ["accuracy", "loss"])
        self.assertLess(float(last[3]), 0.69)
        for code, words, sentence in ((2, [], "say what to make up"), (2, ["clicks"], "--out is missing"),
                                      (1, ["clicks", "--out", "/nonexistent/x"], "/nonexistent"),
                                      (2, ["clicks", "--out", files[0]], "exists already; --overwrite replaces it"),
                                      (2, ["clicks", "--out", files[0], "--rows", "0"], "--rows must be")):
            self.assertIn(sentence, tandem("synth", *words, expect=code).stderr)
        with open(files[0]) as f:
            self.assertEqual(f.read(), texts[0])
        tandem("synth", "clicks", "--out", files[2], "--rows", "5000", "--categories", "300", "--overwrite")
        files += [os.path.join(TOP, "clicks.csv"), os.path.join(TOP, "clicks.libffm")]
        for path in files[3:]:
            tandem("synth", "clicks", "--out", path, "--rows", "5000", "--categories", "300")
        with open(files[2]) as f, open(files[3]) as of:
            self.assertEqual(f.read(), texts[0])
            self.assertEqual(of.read(), texts[0].replace("\t", ","))
        for path in files[3:]:
            run = new_run()
            tandem("train", "--data", path, "--model", "ffm", "--factors", "2", "--epochs", "1", "--run", run, "--quiet")
            self.assertIn("fields=40", tandem("inspect", run).stdout)


if __name__ == "__main__":
    main()
