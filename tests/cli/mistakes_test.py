#!/usr/bin/env python3
"""A sentence for every mistake."""
import json
import os
import subprocess
import sys
import unittest

from harness import DATA, MPIEXEC, TANDEM, TOP, main, new_run, newest_checkpoint, ranks, state_file, tandem, train


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
        self.says("--keep: \"3\" is not one of auto, last, best; --keep-checkpoints says how many", *self.job("--keep", "3"))
        self.says("--keep: \"worst\" is not one of auto, last, best\n", *self.job("--keep", "worst"))
        for large in ("9999999999999999", "99999999999g"):
            self.says(f"--max-bytes: {large} is too large; 1e+12 is the most", "bench", "--comm", "scan",
                      "--max-bytes", large)
        self.says("--table-memory: 99999999999g is too large; 9e+15 is the most",
                  *self.job("--table-memory", "99999999999g"))
        self.says("--epochs: 99999999999999999999 is too large; 1000000 is the most",
                  *self.job("--epochs", "99999999999999999999"))
        self.says("does not fit an image", *self.job("--model", "conv:4,13,pad=0 dense:0"))
        self.says("\"mlp\" is a whole network, not a layer", *self.job("--model", "mlp dense:0"))
        self.says("9999999999 is too large", *self.job("--model", "dense:9999999999 dense:0"))
        self.says("where the data asks for", *self.job("--model", "dense:3"))
        self.says("--run is missing", "train", "--data", DATA)
        self.says("--data is missing", "train", "--run", new_run())

    def test_options_that_would_do_nothing(self):
        table = os.path.join(TOP, "small.csv")
        with open(table, "w") as f:
            f.writelines(f"{i % 7},{i % 2}\n" for i in range(40))
        words = ["train", "--data", table, "--label", "1", "--model", "softmax", "--quiet", "--run"]
        self.says("--patience needs data held out", *words, new_run(), "--patience", "2")
        self.says("--keep best needs data held out", *words, new_run(), "--keep", "best")
        tandem(*words, new_run(), "--patience", "2", "--holdout", "0.3")
        self.says("--run is missing", *words, "")
        self.says("--data is missing", "train", "--data", "", "--run", new_run())
        self.says("--tuning: there is no file /no/such", *self.job("--tuning", "/no/such"))
        self.says("--tuning: there is no file /no/such", "bench", "--comm", "scan", "--tuning", "/no/such")
        self.says("--tune does nothing without --comm", "bench", "--tune", os.path.join(TOP, "x"))
        self.says("--max-bytes does nothing without --comm", "bench", "--max-bytes", "64")
        self.says("--steps does nothing with --comm", "bench", "--comm", "scan", "--steps", "3")
        self.says("give one of them", *self.job("--resume", "--overwrite", run=train()))

    def test_more_spares_than_ranks(self):
        """Named as what they are, and under MPI by one rank."""
        self.says("--workers 2, 0 servers and --spares 1024 are 1026 ranks; a job has at most 1024",
                  *self.job("--workers", "2", "--spares", "1024"))
        self.says("--workers 2, 3 servers and --spares 1020 are 1025 ranks",
                  *self.job("--workers", "2", "--strategy", "ps", "--servers", "3", "--spares", "1020"))
        for n, words, text in (("2", [], "--spares 2 leaves no worker of the job's 2 ranks; give at most 1"),
                               ("1024", ["--lr", "fast"], "--lr: \"fast\" is not a number")) if MPIEXEC else ():
            run = new_run()
            done = tandem(*self.job("--spares", n, *words, run=run), expect=2, prefix=ranks(2))
            self.assertEqual((done.stderr.count(text), done.stderr.count("tandem: ")), (1, 1), done.stderr)
            self.assertFalse(os.path.exists(run))

    def test_data(self):
        empty = os.path.join(TOP, "empty")
        os.makedirs(empty, exist_ok=True)
        self.says("empty", "train", "--data", empty, "--run", new_run())
        self.says("/no/such", "train", "--data", "/no/such", "--run", new_run())
        torn = os.path.join(TOP, "torn")
        os.makedirs(torn, exist_ok=True)
        for name in os.listdir(DATA):
            with open(os.path.join(DATA, name), "rb") as f:
                whole = f.read()
            with open(os.path.join(torn, name), "wb") as f:
                f.write(whole[:len(whole) // 2] if name.startswith("train-im") else whole)
        self.says("train-images", "train", "--data", torn, "--run", new_run())
        wide, table = os.path.join(TOP, "wide.svm"), os.path.join(TOP, "table.csv")
        with open(wide, "w") as f:
            f.write("1 1:2\n0 2147483647:1\n")
        self.says("on 2147483647 inputs needs", "train", "--data", wide, "--model", "dense:0", "--workers",
                  "16", "--batch", "16", "--run", new_run(), code=1)
        with open(table, "w") as f:
            f.write("a,label\n1,0\n2,0\n")
        self.says("all samples are of one class", "train", "--data", table, "--model", "softmax", "--quiet",
                  "--run", new_run(), code=0)
        with open(table, "w") as f:
            f.write("a,label\n1,0\n2,1\n")
        self.says("--label none leaves nothing to learn", "train", "--data", table, "--label", "none",
                  "--model", "dense:0", "--run", new_run())

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
        self.says("holds no run to resume", "train", "--run", new_run(), "--resume", "--model", "fm")
        self.says("--resume needs --run", "train", "--run", "", "--resume")
        tandem("train", "--run", run, "--resume", "--model", "mlp", "--lr", "5e-2", "--quiet")
        self.says("--model cannot be changed", "train", "--run", run, "--resume", "--lr", "0.05", "--model", "lenet")
        self.says("holds no model", "eval", "--run", DATA, "--data", DATA)
        self.says("cannot be changed", "train", "--run", run, "--resume", "--lr", "1")
        file = os.path.join(TOP, "plain")
        open(file, "w").close()
        self.says("is no folder; name another", *self.job(run=file))
        self.says("is a folder, not a file", "train", TOP, "--run", new_run())
        self.says("is not a plain file", "train", "--data", "/dev/null", "--run", new_run())
        for name in ("model.safetensors", "manifest.json"):
            os.remove(os.path.join(run, "model", name))
            self.says(f"model/{name} is missing", "eval", "--run", run, "--data", DATA)
        self.says("plain", *self.job(run=os.path.join(file, "run")), code=1)

    def test_damaged_checkpoints(self):
        run = train("--keep-checkpoints", "1")
        path = state_file(newest_checkpoint(run))
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

    def with_room_for(self, size, *words):
        """No file may have more bytes."""
        code = (f"import resource, os, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}));"
                "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
                "os.execv(sys.argv[1], sys.argv[1:])")
        return subprocess.run([sys.executable, "-c", code, TANDEM, *words], capture_output=True, text=True)

    def test_a_disk_without_any_room_leaves_no_folder(self):
        run = new_run()
        done = self.with_room_for(0, *self.job(run=run))
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stderr, "^tandem: cannot write .*/lock: .*\n$")
        self.assertFalse(os.path.exists(run))

    def test_a_cache_that_finds_no_room_is_told(self):
        path = os.path.join(TOP, "cached.csv")
        with open(path, "w") as f:
            f.writelines(f"{i % 2},{i}\n" for i in range(30000))
        words = ["train", "--data", path, "--cache", "--model", "softmax", "--epochs", "1", "--quiet"]
        done = self.with_room_for(100000, *words, "--run", new_run())
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"warning: no cache was kept for {path}: cannot write", done.stderr)
        self.assertFalse([n for n in os.listdir(TOP) if n.startswith("cached.csv.")])

    def test_a_full_disk_leaves_nothing_half_written_and_the_run_alive(self):
        run = new_run()
        done = self.with_room_for(200000, *self.job(run=run))
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(done.stderr.count("the run goes on"), 1, done.stderr)  # not at each epoch
        self.assertRegex(done.stderr.splitlines()[-1], "^tandem: cannot write .*/model")
        self.assertEqual([n for n in os.listdir(os.path.join(run, "checkpoints"))], [])


if __name__ == "__main__":
    main()
