#!/usr/bin/env python3
"""A sentence for every mistake with models whose parameters live in tables, and nothing left behind."""
import os
import re
import shutil
import subprocess
import time
import unittest

from harness import DATA, MPIEXEC, SHORT, TANDEM, TOP, main, new_run, ranks, tandem
from keys import ULFM, clicks, export, job, ps, recovering, rows_of, train, weights, write


class Mistakes(unittest.TestCase):
    def says(self, text, *words, code=2, prefix=()):
        done = tandem(*words, expect=code, prefix=prefix)
        self.assertIn(text, done.stderr)
        lines = done.stderr.strip().splitlines()
        if prefix:  # mpiexec may have something to say of its own files
            lines = [line for line in lines if line.startswith("tandem")]
        self.assertEqual(len(lines), 1, done.stderr)

    def test_places_and_clocks(self):
        for text, words in (
                ("--clock fast is no clock; there are bsp, ssp:BOUND, asp,", ps(2, clock="fast")),
                ("--clock ssp:x is no clock", ps(2, clock="ssp:x")),
                ("--clock backup: 5 would be waited for of 2 workers", ps(2, clock="backup:5")),
                ("--clock groups: 9 groups of 2 workers", ps(2, clock="groups:9:1:2")),
                ("--replicas 1 needs two servers or more, and there is one; give --servers 2",
                 ps(2, "--replicas", "1", servers=1)),
                ("--replicas 1 needs two servers or more, and there is one", ps(1, "--replicas", "1")),
                ("--evict-after with --replicas 1 is for --clock bsp",
                 ps(2, "--replicas", "1", "--evict-after", "9", servers=2, clock="asp")),
                ("are more than the 16 leaves of a batch", ps(15, servers=5)),
                ("--clip: no rank knows the norm of all gradients", ps(2, "--clip", "1")),
                ("--accumulate is not for parameters in tables; give a larger --batch", ps(2, "--accumulate", "2")),
                ("--keep best: of parameters in tables only the last", ps(2, "--keep", "best", "--holdout", "0.2")),
                ("--l1 is for --optimizer ftrl; here it would do nothing", ps(2, "--l1", "0.1")),
                ("--optimizer nesterov is for networks whose parameters are not in tables; these have sgd (with "
                 "--momentum",
                 ps(2, "--optimizer", "nesterov")),
                ("--clock \"\" is no clock", ps(2, clock="")),
                ("--table-memory: \"12q\" is not a whole number, with k, m or g behind it",
                 ps(2, "--table-memory", "12q")),
                ("--servers 1000 and a worker are more than the 16 leaves of a batch; ask for at most 15",
                 ps(1, servers=1000)),
                ("a memory limit of 1000 bytes is too small for rows of", ps(2, "--table-memory", "1000"))):
            self.says(text, *job(*words))
        ssp = ["--strategy", "ps", "--clock", "ssp:2"]
        self.says("--net-clock backup:1 beside --clock ssp:2: two tables may differ among",
                  *job(*ssp, "--net-clock", "backup:1", model="dlrm"))
        self.says("--net-clock often is no clock; there are asp", *job(*ssp, "--net-clock", "often", model="dlrm"))
        self.says("--net-optimizer adamw is for networks", *job("--net-optimizer", "adamw", model="dlrm"))
        self.says("no update rule is called \"ftrl\"", *job("--optimizer", "ftrl", model="mlp", data=DATA))
        if MPIEXEC:
            done = tandem(*job(*ps(1, servers=2)), expect=2, prefix=ranks(2))
            self.assertIn("--servers 2 leaves no worker of the job's 2 ranks", done.stderr)

    @unittest.skipUnless(ULFM, "no MPI that recovers")
    def test_beside_spares(self):
        """Who waits as a spare leaves it to those that made the mistake to tell it, and ends as they do."""
        nope = os.path.join(TOP, "nope.tsv")
        for text, words in (
                ("--clock bla is no clock", job(*ps(1, clock="bla"))),
                ("there is no file or folder", job(*ps(1), data=nope)),
                ("there is no file or folder", job(model="mlp", data=nope)),
                ("a memory limit of 1000 bytes", job(*ps(1, "--table-memory", "1000"))),
                ("--rows-from: there is no file", job(*ps(1, "--rows-from", nope))),
                ("--servers 3 leaves no worker of the job's 3 ranks beside 1 spare", job(*ps(1, servers=3))),
                ("give --bits 1 to 30", job("--strategy", "hogwild")),
                ("--min-workers 5 is more than the 3 workers", job(*ps(1, "--min-workers", "5"))),
                ("--min-workers 5 is more than the 3 workers", job("--min-workers", "5", model="mlp", data=DATA))):
            for _ in range(1 if SHORT else 3):
                self.says(text, *words, "--spares", "1", prefix=recovering(4))
        for _ in range(2):
            done = tandem("run", "--workers", "3", "--spares", "1", "--mpiexec", MPIEXEC, "--",
                          *job(*ps(1, clock="bla")),
                          expect=2, prefix=("env", "ASAN_OPTIONS=detect_leaks=0"))  # MPI's are not ours
            self.assertEqual([done.stderr.count(text) for text in ("is no clock", "rank", "restart")], [1, 0, 0],
                             done.stderr)

    def test_running_statistics(self):
        """Of batch norm: a push of several steps, or one that is compensated, is no average."""
        model = "dense:8 bn relu dense:0"
        for text, words in (("--strategy downpour: batch norm's running statistics", ["--strategy", "downpour"]),
                            ("--strategy easgd: batch norm's running statistics", ["--strategy", "easgd"]),
                            ("--compensation: batch norm's running statistics",
                             ps(1, "--compensation", "0.1", clock="asp"))):
            self.says(text, *job(*words, model=model, data=DATA))

    def test_batch_norm_of_one_sample(self):
        """A warning, wherever statistics are of leaves, or of a thread's share, and some of these have one."""
        for words, text in ((["--batch", "24"], "fewer --leaves"), ([*ps(2, servers=1), "--batch", "24"], "fewer --leaves"),
                            ([*ps(4, clock="asp"), "--threads", "8", "--batch", "60"], "fewer --workers or --threads"),
                            (["--batch", "32"], ""), ([*ps(4, clock="asp"), "--threads", "8", "--batch", "64"], "")):
            done = tandem("train", "--data", DATA, "--model", "bn dense:0", "--epochs", "1", "--run", new_run(), *words)
            self.assertEqual(done.stderr.count("have one sample"), bool(text), (words, done.stderr))
            self.assertIn(text, done.stderr)

    def test_what_would_do_nothing(self):
        """Each such option is named, beside models and strategies that do not use it; at its default it is not."""
        ssp = ["--strategy", "ps", "--clock", "ssp:2"]
        for words, model, base in (
                (["--clock", "asp"], "mlp", []), (["--clock", "asp"], "fm", ["--strategy", "downpour"]),
                (["--servers", "1"], "fm", []), (["--servers", "1"], "mlp", ["--strategy", "hogwild"]),
                (["--data-servers", "1"], "fm", []), (["--replicas", "1"], "mlp", ["--workers", "2"]),
                (["--staleness-rate"], "fm", ["--strategy", "ps"]),
                (["--staleness-rate"], "fm", ["--strategy", "easgd"]), (["--compensation", "1"], "fm", []),
                (["--push-every", "2"], "fm", ssp), (["--fetch-every", "2"], "fm", ["--strategy", "easgd"]),
                (["--elastic", "0.5"], "fm", ["--strategy", "downpour"]), (["--table-memory", "1g"], "mlp", ssp),
                (["--admit", "2"], "mlp", []), (["--evict-after", "2"], "mlp", ssp), (["--bits", "9"], "mlp", []),
                (["--hash-seed", "9"], "mlp", ssp), (["--factors", "9"], "linear", []), (["--top", "4-1"], "fm", []),
                (["--net-lr", "0.1"], "fm", []), (["--net-clock", "asp"], "dlrm", ["--strategy", "ps"]),
                (["--net-optimizer", "adam"], "dlrm", ["--strategy", "easgd"]),
                (["--bottom", "4-1"], "mlp", []), (["--balance"], "fm", ["--strategy", "hogwild", "--bits", "9"]), (["--flip"], "mlp", ssp),
                (["--shard-optimizer"], "fm", []), (["--optimizer", "adam"], "fm", ["--strategy", "easgd"]),
                (["--momentum", "0.9"], "mlp", ["--optimizer", "adam"]), (["--beta1", "0.8"], "mlp", []),
                (["--beta2", "0.8"], "fm", ["--optimizer", "adagrad"]), (["--epsilon", "0.8"], "fm", []),
                (["--l2", "0.8"], "mlp", []), (["--ftrl-beta", "0.8"], "fm", ["--optimizer", "adagrad"]),
                (["--gamma", "0.8"], "mlp", []), (["--step-every", "2"], "fm", ["--schedule", "cosine"]),
                (["--final-lr", "0.001"], "mlp", ["--schedule", "step"]),
                (["--weight-decay", "0.1"], "fm", ["--optimizer", "ftrl"]))[::2 if SHORT else 1]:
            data = DATA if model == "mlp" else clicks()
            self.says(f"{words[0]} is for ", *job(*base, *words, model=model, data=data))
        train("--weight-decay", "0.1", "--optimizer", "ftrl", "--net-optimizer", "adam", model="dlrm")
        for form in ("libsvm", "libffm"):  # whose keys are numbers already
            self.says("--hash-seed is for ", *job("--hash-seed", "9", data=clicks(form)))
            train("--hash-seed", "9", "--bits", "9", data=clicks(form))
        run = train("--clock", "bsp", "--servers", "0", "--admit", "1", "--momentum", "0", "--l1", "0", "--gamma",
                    "0.1", "--optimizer", "ftrl", "--l2", "0.1")
        again = new_run()
        tandem("train", os.path.join(run, "job.yaml"), "--run", again, "--quiet")
        self.assertEqual(weights(run), weights(again))
        tandem("train", "--run", run, "--resume", "--epochs", "3", "--quiet")

    def test_models(self):
        for text, words in (
                ("the bottom network \"3-4\" must end in 16 units, as an embedding is wide", ["--bottom", "3-4"]),
                ("must end in 3 units, as an embedding is wide", ["--bottom", "8-4", "--factors", "3"]),
                ("the top network \"5-3\" must end in 1 unit", ["--top", "5-3"]),
                ("top network \"x\": layers are their units, 1 to 65536, with dashes between", ["--top", "x"])):
            self.says(text, *job(*words, model="dlrm"))
        self.says("dlrm needs dense numbers or two fields", *job(model="dlrm", data=clicks("libsvm")))
        self.says("ffm needs data with fields: libffm or a table", *job(model="ffm", data=clicks("libsvm")))

    def test_data(self):
        three = write("three.csv", "size,label\n" + "".join(f"{i},{i % 3}\n" for i in range(9)))
        negative = write("negative.csv", "size,label\n1,2\n2,-3\n")
        for loss in ("binary", "hinge"):
            self.says(f"--loss {loss} needs two classes, and {three} has 3",
                      *job("--loss", loss, data=three, model="linear"))
        self.says("three.csv has numbers to predict; use squared, or --label-kind class",
                  *job("--loss", "hinge", "--label-kind", "value", data=three, model="linear"))
        words = write("words.csv", "size,label\n1,yes\n2,no\n")
        self.says("words.csv", *job("--loss", "poisson", data=words, model="linear"))
        for flags in (["--label-kind", "value"], []):
            self.says("negative.csv:3: label -3, where counts, which poisson is for, are 0 or more; use squared",
                      *job("--loss", "poisson", *flags, data=negative, model="linear"))
        signs = write("signs.libsvm", "# of two\n1 1:1\n\n-1 2:1\n")
        self.says(f"{signs}:4: label -1, where counts", *job("--loss", "poisson", data=signs, model="linear"))
        self.says(f"--loss poisson predicts counts, and of {signs}, whose labels are 2 classes (-1, ...)",
                  *job("--loss", "poisson", "--label-kind", "class", data=signs, model="linear"))
        one, two = (write(f"{n}.tsv", "label\ta\n" + "".join(f"{i % n}\tx{i}\n" for i in range(8))) for n in (1, 2))
        for model in ("fm", "ffm", "dlrm"):
            self.says(f"--model {model} tells two classes apart, and {three} has 3; use --model linear",
                      *job("--categorical", "size", data=three, model=model))
            self.says(f"--model {model} tells two classes apart, and all samples of {one} are of one",
                      *job(data=one, model=model))
            self.says(f"--loss softmax is not for --model {model}, which has one output; for the two classes of {two}",
                      *job("--loss", "softmax", data=two, model=model))
        for line, text in (("1 0:1:2 x:3:4", ":2: \"x:3:4\" is not field:index:value"),
                           ("1 0:1:2 1:3", ":2: \"1:3\" is not field:index:value"),
                           ("1 0:1:2 99999999:3:4", ":2: \"99999999:3:4\" has a field beyond 65535")):
            torn = write("torn.libffm", "0 0:1:1\n" + line + "\n")
            self.says(text, *job("--format", "libffm", data=torn, model="ffm"))

    def test_measured_algorithms(self):
        """Runs over tables go by them as others do, and so refuse what is damaged or of another group."""
        tuned = os.path.join(TOP, "tuned")
        tandem("bench", "--comm", "all-reduce", "--workers", "2", "--max-bytes", "64", "--tune", tuned)
        with open(tuned) as f:
            torn = write("torn-tuning", f.read()[:80])
        with open(tuned) as f:
            of = f.readlines()[2].strip().removeprefix("group ")
        for model, words in (("linear", []), ("fm", ps(2)), ("dlrm", ps(2, clock="asp")),
                             ("ffm", ["--strategy", "hogwild", "--bits", "9", "--workers", "2"]),
                             ("mlp", ps(2, servers=1))):
            data = DATA if model == "mlp" else clicks()
            self.says("torn-tuning is cut short, or was changed by hand",
                      *job(*words, "--tuning", torn, model=model, data=data))
        self.says(f"tuned was measured for \"{of}\"; this is", *job(*ps(3), "--tuning", tuned))
        self.assertEqual(weights(train(*ps(2), "--tuning", tuned)), weights(train(*ps(2))))
        if MPIEXEC:
            done = tandem(*job(*ps(1), "--tuning", torn), expect=2, prefix=ranks(2))
            self.assertIn("torn-tuning is cut short", done.stderr)
            self.assertEqual(done.stderr.count("tandem: "), 1, done.stderr)

    def test_rows_to_files(self):
        run, net, path = train(), train(model="mlp", data=DATA), os.path.join(TOP, "out.tsv")
        for text, words in (("--run is missing", ["--out", path]),
                            ("--out is missing", ["--run", run]),
                            ("out.csv: a table's file ends in .safetensors or .tsv",
                             ["--run", run, "--out", "out.csv"]),
                            ("--from 7 is above --to 6", ["--run", run, "--out", path, "--from", "7", "--to", "6"]),
                            ("holds a network; export is for models whose rows lie under keys",
                             ["--run", net, "--out", path]),
                            ("holds no model yet", ["--run", TOP, "--out", path]),
                            ("did you mean --states?", ["--run", run, "--out", path, "--state"])):
            self.says(text, "export", *words)
            self.assertFalse(os.path.exists(path))
        write("out.tsv", "mine")
        self.says("out.tsv exists already; --overwrite replaces it", "export", "--run", run, "--out", path)
        with open(path) as f:
            self.assertEqual(f.read(), "mine")
        shutil.rmtree(os.path.join(run, "checkpoints"))
        self.says("has no checkpoint of step 14, of which its model is", "export", "--run", run, "--out", path,
                  "--states", "--overwrite")

    def test_rows_from_files(self):
        """One sentence, whatever ranks there are, and no folder."""
        first = train("--optimizer", "adagrad")
        plain, tensors = export(first), export(first, form="safetensors")
        stated, stated_tensors = export(first, "--states"), export(first, "--states", form="safetensors")
        with open(plain) as f:
            torn = write("torn.tsv", f.read()[:-3])
        for text, words in (
                ("--rows-from: there is no file /no/such.tsv", ["--rows-from", "/no/such.tsv"]),
                ("rows.csv: a table's file ends in .safetensors or .tsv", ["--rows-from", "rows.csv"]),
                ("torn.tsv:", ["--rows-from", torn]),
                (".tsv:1: column 7 must be called weights.5, as of a table with 9 weights a row under sgd",
                 ["--rows-from", plain, "--factors", "8"]),
                ("rows of tensor weights have 5 floats, the table's 9", ["--rows-from", tensors, "--factors", "8"]),
                (".tsv:1: columns from adagrad.sum.0", ["--rows-from", stated]),
                ("tensor adagrad.sum does not belong to a table under adam",
                 ["--rows-from", stated_tensors, "--optimizer", "adam"]),
                ("rows have weights alone; under ftrl these are a function of ftrl.z and ftrl.n, which the file must "
                 "have",
                 ["--rows-from", tensors, "--optimizer", "ftrl"]),
                ("has rows of \"fm factors=4 bits=0 hash-seed=0\", and they are to be of "
                 "\"fm factors=4 bits=0 hash-seed=2\"", ["--rows-from", tensors, "--hash-seed", "2"]),
                ("and they are to be of \"fm factors=4 bits=20 hash-seed=0\"",
                 ["--rows-from", tensors, "--bits", "20"]),
                ("and they are to be of \"fm factors=4 bits=0 hash-seed=3\"",
                 ["--rows-from", plain, "--hash-seed", "3"]),
                ("and they are to be of \"dlrm factors=5 bits=0 hash-seed=0\"",
                 ["--rows-from", plain, "--model", "dlrm", "--factors", "5"]),
                ("has more bits than the 8 that keys are hashed to", ["--rows-from", plain, "--bits", "8"]),
                ("has more bits than the 8 that keys are hashed to",
                 ["--rows-from", plain, "--strategy", "hogwild", "--bits", "8"])):
            ways = ([], ["--workers", "3"]) if "hogwild" in words else ([], ps(3, "--replicas", "1", servers=2))
            for way in ways[1:] if SHORT else ways:
                run = new_run()
                self.says(text, *job(*words, *way, run=run))
                self.assertFalse(os.path.exists(run), (text, way))
        if MPIEXEC:
            run = new_run()
            done = tandem(*job("--rows-from", tensors, "--factors", "8", *ps(1, servers=2), run=run), expect=2,
                          prefix=ranks(3))
            self.assertEqual(done.stderr.count("tandem: "), 1, done.stderr)
            self.assertIn("rows of tensor weights have 5 floats, the table's 9", done.stderr)
            self.assertFalse(os.path.exists(run))
            other = export(train("--optimizer", "adagrad", "--seed", "9"))  # which one of the servers finds
            shell = (f'test $OMPI_COMM_WORLD_RANK = 2 && from={other} || from={plain}; cd $(mktemp -d); '
                     'ln -s $from here.tsv; ')
            done = subprocess.run([*ranks(3), "sh", "-c", shell + 'exec "$@"', "sh", TANDEM,
                                   *job("--rows-from", "here.tsv", *ps(1, servers=2), run=run)], text=True,
                                  capture_output=True, timeout=100)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("rank 2 reads other rows in here.tsv than rank 1; all servers must find the "
                          "same", done.stderr)
            self.assertFalse(os.path.exists(run))
        self.says("--rows-from is for models over hashed features", *job("--rows-from", plain, model="mlp", data=DATA))
        self.says("--rows-from cannot be changed when a run is resumed", "train", "--run", first, "--resume",
                  "--rows-from", plain)

    def test_a_checkpoint_of_another_run(self):
        run = train()
        for name, value in (("bits", "8"), ("hash-seed", "4"), ("model", "linear"), ("factors", "8"),
                            ("optimizer", "adam")):
            self.says(f"--{name} cannot be changed when a run is resumed", "train", "--run", run, "--resume",
                      "--epochs", "3", f"--{name}", value)
        other = train("--bits", "8")  # its checkpoints in the other's place
        for name in os.listdir(os.path.join(run, "checkpoints")):
            shutil.rmtree(os.path.join(run, "checkpoints", name))
        shutil.copytree(os.path.join(other, "checkpoints"), os.path.join(run, "checkpoints"), dirs_exist_ok=True)
        self.says("is a checkpoint of the architecture \"fm factors=4 fields=40 numbers=0 bits=8", "train", "--run",
                  run, "--resume", "--epochs", "3")

    def test_other_data_to_score(self):
        run, fields = train(), train(data=clicks("libffm"), model="ffm")
        self.assertIn("loss", tandem("eval", "--run", fields, "--data", clicks("libffm")).stdout)
        for data, trained, text in ((clicks("libsvm"), run, "beyond the 39 features"),
                                    (DATA, run, "the training set"),
                                    (write("one.csv", "size,label\n1,0\n2,1\n"), run,
                                     "feature columns where the training set"),
                                    (clicks("libsvm"), fields, "ffm needs data with fields"),
                                    (clicks(), fields, "feature columns where the training set"),
                                    (clicks("libffm"), run, "has features by number and the training set had columns")):
            self.says(text, "eval", "--run", trained, "--data", data)
            self.says(text, "predict", "--run", trained, "--data", data)

    def test_a_folder_in_use(self):
        run = new_run()
        words = job(*ps(2, "--table-memory", "262144"), run=run, epochs=200)
        first = subprocess.Popen([TANDEM, *words], env=dict(os.environ, TANDEM_FAKE_SLOW="0:4"), stderr=subprocess.PIPE)
        end = time.monotonic() + 30
        while not os.path.exists(os.path.join(run, "metrics.jsonl")) and time.monotonic() < end:
            time.sleep(0.01)
        self.says("is in use by another job", *words)
        first.kill()
        first.communicate()

    @unittest.skipUnless(os.getuid() == 0 and shutil.which("unshare"), "needs a disk of its own")
    def test_a_full_disk_under_cold_rows(self):
        """One sentence, and what had been saved is whole: with room the run goes on to the bytes of an undisturbed
        one."""
        disk, more = new_run(), ["--table-memory", "524288", "--checkpoint-every", "20"]
        data = clicks(rows=4000, categories=30000)
        done = subprocess.run(["unshare", "--mount", "--", "sh", "-ec",
                               'mkdir -p "$0"; mount -t tmpfs -o size=12m tmpfs "$0"; "$@" || code=$?; '
                               'cp -r "$0" "$0.kept"; exit $code', disk, TANDEM,
                               *job(*ps(2, *more), run=os.path.join(disk, "run"), data=data, epochs=3)], text=True,
                              capture_output=True, timeout=100)
        if re.search("(unshare|mount): .*permi(tted|ssion)", done.stderr):
            self.skipTest(done.stderr)
        self.assertEqual(done.returncode, 2, done.stderr)
        lines = done.stderr.splitlines()  # the last ends the run; a checkpoint that had no room costs that one
        self.assertRegex(lines[-1], r"\Atandem: cannot (open|write) cold rows in \S*/cold/rank-\d: "
                         r".*No space left on device")
        for line in lines[:-1]:
            self.assertIn("the run goes on without this checkpoint", line)
        if MPIEXEC:  # a server of them alone meets it; the others leave it to that one to say so
            other = new_run()
            done = subprocess.run(["unshare", "--mount", "--", "sh", "-ec",
                                   'mkdir -p "$0"; mount -t tmpfs -o size=12m tmpfs "$0"; exec "$@"', other, *ranks(3), TANDEM,
                                   *job(*ps(1, *more, servers=1, clock="asp"), run=os.path.join(other, "run"), data=data,
                                        epochs=3)], text=True, capture_output=True, timeout=100)
            self.assertEqual(done.returncode, 2, done.stderr)
            said = [line for line in re.findall("(?m)^tandem: .*", done.stderr)
                    if "the run goes on without this checkpoint" not in line]
            self.assertEqual(len(said), 1, done.stderr)
            self.assertIn("No space left on device", said[0])
        run = os.path.join(disk + ".kept", "run")
        self.assertFalse(os.path.exists(os.path.join(run, "model")))
        tandem("train", "--run", run, "--resume", "--quiet")
        want = train(data=data, epochs=3)
        self.assertEqual(rows_of(os.path.join(run, "model")), rows_of(os.path.join(want, "model")))

    @unittest.skipUnless(MPIEXEC, "no mpiexec")
    def test_replicas_without_a_recovery(self):
        run = new_run()
        done = tandem(*job(*ps(1, "--replicas", "1"), run=run), prefix=ranks(2), expect=2)
        self.assertEqual(done.stderr.count("tandem: "), 1, done.stderr)
        self.assertIn("--replicas 1 is for jobs that go on when a rank dies, and this one cannot: start it with",
                      done.stderr)
        self.assertFalse(os.path.exists(run))


if __name__ == "__main__":
    main()
