#!/usr/bin/env python3
"""Models whose parameters live in tables: in step the same bytes for any number of workers, servers,
threads and processes, through deaths and resumptions; at other clocks nearly the same loss, and what
the clock promises; and a sentence for every mistake."""
import hashlib
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from harness import DATA, MPIEXEC, SHORT, TANDEM, TOP, listing, main, metrics, new_run, ranks, tandem  # noqa: E402
from processes import processes_of  # noqa: E402

KINDS = ["linear", "fm", "ffm", "dlrm"]
SOME = ["fm", "dlrm"]  # without dense parameters, and with
ROWS = 400
ULFM = MPIEXEC and "--with-ft" in tandem("run", "--dry-run", "--", "train", "--data", "x", "--run", "y").stdout


def clicks(form="tsv", rows=ROWS, seed=3, categories=40):
    """A small click log."""
    path = os.path.join(TOP, f"clicks-{rows}-{seed}-{categories}.{form}")
    if not os.path.exists(path):
        tandem("synth", "clicks", "--out", path, "--rows", str(rows), "--categories", str(categories), "--seed", str(seed),
               "--format", form, "--quiet")
    return path


def job(*words, model="fm", data=None, run=None, epochs=2):
    return ["train", "--data", data or clicks(), "--model", model, "--epochs", str(epochs), "--batch", "64", "--lr",
            "0.1", "--run", run or new_run(), "--quiet", *words]


def train(*words, prefix=(), run=None, **how):
    run = run or new_run()
    tandem(*job(*words, run=run, **how), prefix=prefix)
    return run


def place(workers=1, *words, servers=0):
    return ["--workers", str(workers), "--servers", str(servers), *words]


def ps(workers=1, *words, servers=0, clock="bsp"):
    return ["--strategy", "ps", "--clock", clock, *place(workers, *words, servers=servers)]


def weights(run):
    """A digest of all files of the model but its manifest, which tells of the run."""
    files = listing(os.path.join(run, "model"))
    text = b"".join(name.encode() + files[name] for name in sorted(files) if name != "manifest.json")
    assert text
    return hashlib.sha256(text).hexdigest()


def rows_of(folder):
    """{(table, key): row} of a folder's safetensors files, however many there are."""
    found = {}
    for name, content in listing(folder).items():
        if not name.endswith(".safetensors"):
            continue
        n, = struct.unpack("<Q", content[:8])
        tensors, base = json.loads(content[8:8 + n]), 8 + n
        tensors.pop("__metadata__", None)
        for tensor, about in tensors.items():
            begin, end = about["data_offsets"]
            part = content[base + begin:base + end]
            if "keys" in tensors and len(about["shape"]) == 2:
                keys = content[base + tensors["keys"]["data_offsets"][0]:base + tensors["keys"]["data_offsets"][1]]
                width = 4 * about["shape"][1]
                for i, (key,) in enumerate(struct.iter_unpack("<Q", keys)):
                    found[tensor, key] = part[i * width:(i + 1) * width]
            elif tensor != "keys":
                found[tensor, 0] = part
    return found


def event(run, name):
    return [line for line in metrics(run) if line.get("event") == name]


def progressive(run):
    return event(run, "epoch")[-1]["progressive_loss"]


def each_once(run):
    return [(line["samples"], line["each_once"]) for line in event(run, "epoch")]


def told(run):
    """What metrics say, but for times and for what depends on how many ranks there are."""
    keep = ("step", "epoch", "loss", "accuracy", "lr", "samples", "eval", "auc", "progressive_loss")
    return [{k: line.get(k) for k in keep} for line in metrics(run)
            if line.get("event") not in ("recovered", "tables")]


def write(name, text):
    path = os.path.join(TOP, name)
    with open(path, "w") as f:
        f.write(text)
    return path


class Bits(unittest.TestCase):
    def same(self, want, *words, prefix=(), **how):
        run = train(*words, prefix=prefix, **how)
        self.assertEqual(weights(run), weights(want), (words, prefix, how))
        self.assertEqual(told(run), told(want), (words, prefix, how))

    def test_threads(self):
        for model in SOME if SHORT else KINDS:
            want = train("--optimizer", "adagrad", "--holdout", "0.2", model=model)
            ways = [["--workers", "3"], ps(2, servers=1), ps(3, "--threads", "2", "--replicas", "1"),
                    ps(5, "--replicas", "1", servers=2), ps(2, servers=2, clock="ssp:0")]
            for words in ways[3:] if SHORT else ways:
                self.same(want, *words, "--optimizer", "adagrad", "--holdout", "0.2", model=model)

    @unittest.skipIf(SHORT, "the bits of rules are ps/bulk's matter")
    def test_rules_and_schedules(self):
        for rule in (["--optimizer", "adam", "--lr", "0.01", "--warmup", "0.5", "--schedule", "cosine"],
                     ["--momentum", "0.9", "--weight-decay", "0.001"], ["--optimizer", "ftrl", "--l1", "0.01"]):
            for model in SOME:
                want = train(*rule, model=model)
                self.same(want, *ps(3, "--replicas", "1", servers=2), *rule, model=model)

    @unittest.skipUnless(MPIEXEC, "no mpiexec")
    def test_processes(self):
        for model in SOME:
            want = train("--momentum", "0.5", model=model)
            ways = [(4, ps(1, "--replicas", "1", servers=2))]
            if not SHORT:
                ways += [(2, ["--strategy", "allreduce"]), (3, ps(1, servers=1, clock="ssp:0")),
                         (3, ps(1, "--threads", "2", "--replicas", "1"))]
            for n, words in ways:
                self.same(want, *words, "--momentum", "0.5", model=model, prefix=ranks(n))

    def test_networks(self):
        """Whose parameters are rows of the dense table."""
        for model in ("softmax", "mlp"):
            words = ["--momentum", "0.9", "--holdout", "0.2"]
            want = train("--strategy", "allreduce", "--keep", "last", *words, model=model, data=DATA)
            for way in [ps(2, servers=2)] if SHORT else [ps(), ps(3), ps(2, "--replicas", "1", servers=2)]:
                run = train(*way, *words, "--keep", "last", model=model, data=DATA)
                self.assertEqual(weights(run), weights(want), (model, way))
                self.assertEqual([x for x in told(run) if x["eval"]], [x for x in told(want) if x["eval"]])
        if MPIEXEC:
            run = train(*ps(1, servers=1), *words, "--keep", "last", model=model, data=DATA, prefix=ranks(3))
            self.assertEqual(weights(run), weights(want))

    def test_other_data(self):
        for form in ("libsvm", "libffm"):
            want = train(data=clicks(form), model="fm")
            self.same(want, *ps(3, servers=1), data=clicks(form), model="fm")
        self.same(train(data=DATA, model="linear"), *ps(2, servers=1), data=DATA, model="linear")
        self.same(train("--bits", "6", "--hash-seed", "9"), *ps(3), "--bits", "6", "--hash-seed", "9")

    def test_a_limit_to_memory(self):
        """Rows on disk are the same rows."""
        how = {"data": clicks(rows=1000, categories=3000)}
        less = ["--table-memory", "524288"]
        for model in SOME:
            want = train("--optimizer", "adagrad", model=model, epochs=1, **how)
            run = train(*ps(2, *less, servers=1), "--optimizer", "adagrad", model=model, epochs=1, **how)
            self.assertGreater(event(run, "tables")[-1]["disk_bytes"], 0)
            self.assertEqual(rows_of(os.path.join(run, "model")), rows_of(os.path.join(want, "model")))
            self.assertEqual(told(run), told(want))
        for first, second in ((["--table-memory", "0"], less), (less, ["--table-memory", "0"])):
            whole = train("--optimizer", "adagrad", **how)
            run = train("--optimizer", "adagrad", *first, epochs=1, **how)
            tandem("train", "--run", run, "--resume", "--epochs", "2", "--quiet", *second)
            self.assertEqual(rows_of(os.path.join(run, "model")), rows_of(os.path.join(whole, "model")))

    def test_seldom_keys(self):
        count = [event(train("--admit", n), "tables")[0]["rows"] for n in ("1", "3", "1000")]
        self.assertGreater(count[0], count[1])
        self.assertGreater(count[1], count[2])
        self.same(train("--admit", "3"), *ps(3, servers=2), "--admit", "3")

    def test_old_keys(self):
        data = clicks(rows=3000)
        few, all_ = (event(train("--steps", "65", *words, data=data, epochs=4), "tables")[0]["rows"]
                     for words in (["--evict-after", "3"], []))
        self.assertLess(few, all_)
        self.same(train("--evict-after", "3", data=data, epochs=4), *ps(3, servers=2), "--evict-after", "3",
                  data=data, epochs=4)


class Resumed(unittest.TestCase):
    def interrupted(self, *words, **how):
        """A run that was asked to stop in its midst."""
        run = new_run()
        process = subprocess.Popen([TANDEM, *job(*words, run=run, **how)], text=True, stderr=subprocess.PIPE,
                                   env=dict(os.environ, TANDEM_FAKE_SLOW="0:4"))
        end = time.monotonic() + 60
        while not os.path.isdir(os.path.join(run, "checkpoints")) and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=100)
        self.assertEqual(process.returncode, 130, err)
        self.assertFalse(os.path.exists(os.path.join(run, "model")))
        return run

    def test_elsewhere(self):
        epochs = 30
        for model in SOME:
            want = train("--optimizer", "adagrad", model=model, epochs=epochs)
            for words, then in ((ps(2, servers=1), place(3, "--replicas", "1", servers=2)),
                                (ps(5), place(1)), (["--workers", "3"], place(1))):
                run = self.interrupted(*words, "--optimizer", "adagrad", model=model, epochs=epochs)
                tandem("train", "--run", run, "--resume", "--quiet", *then)
                self.assertEqual(weights(run), weights(want), (model, words, then))
                self.assertEqual([x for x in told(run) if x["eval"]], [x for x in told(want) if x["eval"]])

    def test_at_their_own_pace(self):
        for clock in ("asp", "ssp:2", "backup:1"):
            run = self.interrupted(*ps(2, servers=1, clock=clock), epochs=60)
            tandem("train", "--run", run, "--resume", "--quiet", *place(3, servers=2))
            self.assertEqual(metrics(run)[-1]["step"], 60 * -(-ROWS // 64), clock)

    def test_what_rows_remember(self):
        """Ages and sightings lie in checkpoints, too."""
        data = clicks(rows=3000)
        less = ["--table-memory", "1m"]
        for words, first, then in ((["--admit", "3"], ps(2, servers=1), place(3, "--replicas", "1", servers=2)),
                                   (["--admit", "3", "--evict-after", "20"], ps(5), place(1)),
                                   (["--evict-after", "20"], [*ps(1), *less], [*place(2), *less])):
            want = train(*words, data=data, epochs=4)
            run = train(*words, *first, data=data, epochs=2)
            tandem("train", "--run", run, "--resume", "--epochs", "4", "--quiet", *then)
            self.assertEqual(rows_of(os.path.join(run, "model")), rows_of(os.path.join(want, "model")), words)

    def test_networks(self):
        how = {"model": "mlp", "data": DATA, "epochs": 30}
        want = train("--keep", "last", **how)
        run = self.interrupted(*ps(2, servers=1), "--keep", "last", **how)
        tandem("train", "--run", run, "--resume", "--quiet", *place(3))
        self.assertEqual(weights(run), weights(want))


class Clocks(unittest.TestCase):
    def test_all_learn(self):
        data = clicks(rows=4000)
        for model in SOME:
            want = progressive(train(model=model, data=data))
            for clock, bound in (("bsp", 0), ("ssp:0", 0), ("ssp:2", 2), ("asp", None), ("backup:2", None),
                                 ("backup:2:apply", None), ("groups:2:1:3", 3)):
                run = train(*ps(3, servers=2, clock=clock), model=model, data=data)
                self.assertAlmostEqual(progressive(run), want, delta=0.05, msg=clock)
                tables = event(run, "tables")[-1]
                self.assertEqual(metrics(run)[-1]["step"], 2 * 63)
                if clock in ("bsp", "ssp:0"):
                    self.assertEqual(tables["staleness"], [])  # in step: nothing is ever stale
                    continue
                self.assertGreater(sum(tables["staleness"]), 0)
                if bound is not None:
                    self.assertLessEqual(len(tables["staleness"]), bound + 1, clock)

    def test_hot_slices_are_shared_out(self):
        """Of a server that is asked for more than others; by one worker with the same bytes as where nothing moves."""
        data = clicks(rows=2000)
        for more, model in ((["--replicas", "1"], "fm"), ([], "linear")):
            words = [*more, "--optimizer", "adagrad", "--bits", "4"]  # 16 keys in 256 slices, and not evenly
            want = train(*ps(1, *words, servers=3, clock="asp"), data=data, model=model, epochs=4)
            self.assertEqual(event(want, "balanced"), [])
            run = train(*ps(1, *words, "--balance", servers=3, clock="asp"), data=data, model=model, epochs=4)
            moves = event(run, "balanced")
            self.assertGreater(moves[0]["slices"], 0)
            before, after = moves[0]["hottest"]
            self.assertTrue(1 / 3 <= after < before, moves)
            self.assertEqual(rows_of(os.path.join(run, "model")), rows_of(os.path.join(want, "model")))
            shared = train(*ps(3, *words, "--balance", servers=3, clock="asp"), data=data, model=model, epochs=4)
            self.assertAlmostEqual(progressive(shared), progressive(want), delta=0.05)

    def test_options_against_staleness(self):
        want = progressive(train())
        for words in (["--staleness-rate"], ["--compensation", "0.1"]):
            run = train(*ps(3, "--replicas", "1", servers=2, clock="asp"), *words)
            self.assertAlmostEqual(progressive(run), want, delta=0.1, msg=words)

    @unittest.skipUnless(MPIEXEC, "no mpiexec")
    def test_processes(self):
        want = progressive(train())
        for clock in ("asp", "ssp:2", "backup:2") if not SHORT else ("ssp:2",):
            for servers in (0, 1):
                run = train(*ps(1, servers=servers, clock=clock), prefix=ranks(3))
                self.assertAlmostEqual(progressive(run), want, delta=0.1, msg=clock)


def export(run, *words, form="tsv"):
    path = os.path.join(TOP, f"rows-{os.path.basename(run)}{''.join(words)}.{form}")
    tandem("export", "--run", run, "--out", path, "--overwrite", "--quiet", *words)
    return path


def text_rows(path):
    """{key: numbers} of a .tsv file, and its columns."""
    with open(path) as f:
        head, *lines, last = f.read().splitlines()
    assert re.match(rf"# {len(lines)} rows of \w+ .*bits=\d+ hash-seed=\d+$", last), last
    rows = [line.split("\t") for line in lines]
    keys = [int(row[0]) for row in rows]
    assert keys == sorted(set(keys))
    return {key: list(map(float, row[1:])) for key, row in zip(keys, rows)}, head.split("\t")


def as_of_another_tool(path):
    """The file without a word of what its rows mean."""
    with open(path, "rb") as f:
        content = f.read()
    if path.endswith(".tsv"):
        content = re.sub(rb" of [^\n]*\n\Z", b"\n", content)
    else:
        n, = struct.unpack("<Q", content[:8])
        head = json.loads(content[8:8 + n])
        head["__metadata__"].pop("rows_of")
        content = content[:8] + json.dumps(head, separators=(",", ":")).encode().ljust(n) + content[8 + n:]
    with open(path, "wb") as f:
        f.write(content)
    return path


def floats(row):
    return list(struct.unpack(f"<{len(row) // 4}f", row))


class Files(unittest.TestCase):
    """Rows to files for other tools, and runs that begin with them."""

    def test_all_rows_are_there(self):
        for model in SOME if SHORT else KINDS:
            run = train(*ps(2, servers=1), "--optimizer", "adam", "--lr", "0.01", model=model)
            kept = rows_of(os.path.join(run, "model"))
            want = {key: floats(row) for (name, key), row in kept.items() if name == "weights"}
            got, columns = text_rows(export(run))
            self.assertEqual({key: floats(struct.pack(f"<{len(row)}f", *row)) for key, row in got.items()}, want)
            self.assertEqual(columns, ["key"] + [f"weights.{i}" for i in range(len(columns) - 1)])
            path = export(run, form="safetensors")
            folder = new_run()
            os.makedirs(folder)
            shutil.copy(path, folder)
            rows = rows_of(folder)
            self.assertEqual(rows, {at: row for at, row in kept.items() if at[0] == "weights"})
            both, columns = text_rows(export(run, "--states"))
            width = len(columns) // 3
            self.assertEqual(columns[1 + width], "adam.exp_avg.0")
            self.assertEqual({key: row[:width] for key, row in both.items()}, got)
            keys = sorted(got)
            some, _ = text_rows(export(run, "--from", str(keys[3]), "--to", str(keys[-5])))
            self.assertEqual(some, {key: got[key] for key in keys[3:-4]})
            said = tandem("export", "--run", run, "--out", path, "--overwrite").stdout
            self.assertEqual(said, f"{path}: {len(got)} rows of {width} weights\n")

    def test_there_and_back(self):
        """Rows that a run does not need, as keys are hashed in another way, stay as they are."""
        for model in SOME:
            run = train("--optimizer", "adagrad", model=model)
            needed, _ = text_rows(export(train("--optimizer", "adagrad", "--hash-seed", "9", model=model, epochs=1)))
            for form in ("tsv", "safetensors"):
                for words in ([], ["--states"]):
                    want, _ = text_rows(export(run, *words))
                    path = as_of_another_tool(export(run, *words, form=form))
                    for way in (["--workers", "2"], ps(3, "--replicas", "1", servers=2), ps(2, servers=1, clock="asp")):
                        other = train("--optimizer", "adagrad", "--hash-seed", "9", "--rows-from", path, *way, model=model,
                                      epochs=1)
                        got, _ = text_rows(export(other, "--states"))
                        idle = want.keys() - needed.keys()
                        self.assertGreater(len(idle), len(want) / 2)
                        self.assertEqual(got.keys(), want.keys() | needed.keys())
                        for key in idle:
                            zeros = [0] * (len(got[key]) - len(want[key]))
                            self.assertEqual(got[key], want[key] + zeros, (model, form, words, way))

    def test_the_same_bits_from_there_on(self):
        for model in SOME:
            more = ["--optimizer", "adagrad", "--holdout", "0.2"]
            first = train(*more, model=model)
            found = [weights(train(*more, model=model))]
            for words in ([], ["--states"]):
                begin = ["--rows-from", export(first, *words, form="safetensors")]
                want = train(*begin, *more, model=model)
                ways = [ps(3, servers=2), ["--workers", "3"], ps(2, "--threads", "2", "--replicas", "1", servers=3)]
                for way in ways[:1] if SHORT else ways:
                    run = train(*begin, *way, *more, model=model)
                    self.assertEqual(weights(run), weights(want), (model, way))
                    self.assertEqual(told(run), told(want), (model, way))
                if MPIEXEC and words:
                    run = train(*begin, *ps(1, servers=1), *more, model=model, prefix=ranks(3))
                    self.assertEqual(weights(run), weights(want))
                if model == "fm":  # without a network that begins anew
                    self.assertLess(*(event(r, "epoch")[0]["progressive_loss"] for r in (want, first)))
                found.append(weights(want))
            self.assertEqual(len(set(found)), 3)  # from nothing, from weights, from weights and states
        less = train(*begin, *more, *ps(1, "--table-memory", "524288", servers=2), model=model)
        self.assertEqual(rows_of(os.path.join(less, "model")), rows_of(os.path.join(want, "model")))

    def test_a_run_that_goes_on_needs_the_file_no_more(self):
        first = export(train())
        want = train("--rows-from", first, epochs=3)
        run = train("--rows-from", first, epochs=2)
        os.remove(first)
        tandem("train", "--run", run, "--resume", "--epochs", "3", "--quiet", *place(3))
        self.assertEqual(weights(run), weights(want))

    def test_every_strategy(self):
        words = ["--bits", "10"]
        cold = train(*words)
        path = export(cold)
        for way in (ps(2, servers=1, clock="ssp:2"), ["--strategy", "downpour", *place(2)],
                    ["--strategy", "easgd", *place(2)], ["--strategy", "hogwild", "--workers", "2"]):
            warm = train("--rows-from", path, *words, *way)
            self.assertLess(event(warm, "epoch")[0]["progressive_loss"], event(cold, "epoch")[0]["progressive_loss"] - 0.01)


class Answers(unittest.TestCase):
    def ask(self, run, data, *words):
        said = tandem("eval", "--run", run, "--data", data, "--json", *words).stdout
        return json.loads(said), tandem("predict", "--run", run, "--data", data, "--proba", *words).stdout

    def test_eval_and_predict(self):
        data = clicks(rows=2000)
        with open(data) as f:
            lines = f.readlines()
        other = write("other.tsv", "".join([lines[0], *lines[301:451]]))
        for model in KINDS:
            run = train(*ps(2, servers=1), "--optimizer", "adagrad", model=model, data=data, epochs=4)
            told_, lines = self.ask(run, other)
            self.assertEqual(self.ask(run, other, "--workers", "3"), (told_, lines))
            self.assertTrue(0 < told_["loss"] < 1 and 0 < told_["accuracy"] <= 1, told_)
            self.assertGreater(told_["auc"], 0.7)
            lines = [json.loads(line) if line.startswith("{") else line for line in lines.splitlines()]
            self.assertEqual(len(lines), 150)
            shares = [list(map(float, line.replace(",", " ").replace("\t", " ").split()))[-2:] for line in lines]
            for share in shares:
                self.assertTrue(0 <= share[-1] <= 1)
            as_json = tandem("predict", "--run", run, "--data", other, "--json").stdout.splitlines()
            self.assertEqual(len([json.loads(line) for line in as_json]), 150)

    def test_what_training_never_saw(self):
        """A category that is new is as one that is missing; the training file may be gone."""
        lines = [f"{i % 7},{'red green blue'.split()[i % 3]},{'no yes'.split()[(i % 3 == 1) ^ (i % 11 == 0)]}\n"
                 for i in range(300)]
        path = write("train.csv", "size,colour,label\n" + "".join(lines))
        for model in ("linear", "fm", "dlrm"):
            run = train("--label", "label", model=model, data=path)
            known = write("known.csv", "size,colour,label\n1,?,no\n2,red,yes\n")
            new = write("new.csv", "size,colour,label\n1,mauve,no\n2,red,yes\n")
            self.assertEqual(self.ask(run, new), self.ask(run, known))
            self.assertLessEqual(set(tandem("predict", "--run", run, "--data", new).stdout.split()), {"no", "yes"})

    def test_other_losses(self):
        lines = [f"{i % 7},{'abc'[i % 3]},{i % 4}\n" for i in range(200)]
        path = write("counts.csv", "size,kind,label\n" + "".join(lines))
        for words in (["--loss", "squared", "--label-kind", "value"], ["--loss", "poisson", "--label-kind", "value"],
                      ["--loss", "softmax"]):
            run = train(*words, *ps(2), "--lr", "0.01", model="linear", data=path)
            self.assertEqual(weights(run), weights(train(*words, "--lr", "0.01", model="linear", data=path)))
            tandem("eval", "--run", run, "--data", path)
            self.assertEqual(len(tandem("predict", "--run", run, "--data", path).stdout.splitlines()), 200)

    def test_hinge(self):
        """Of classes that a plane parts: all behind their margin, so that no sample moves it any more."""
        draw = random.Random(5)
        kinds = [draw.choice("abcdefg") for _ in range(300)]
        want = ["yes" if kind in "aceg" else "no" for kind in kinds]
        path = write("apart.csv", "kind,other,label\n" + "".join(
            f"{kind},{draw.choice('xyz')},{label}\n" for kind, label in zip(kinds, want)))
        run = train("--loss", "hinge", "--label", "label", *ps(2), model="linear", data=path, epochs=40)
        said = tandem("eval", "--run", run, "--data", path).stdout
        self.assertRegex(said, r"(?m)^accuracy 1.0000 loss 0\.0+$")
        self.assertEqual(tandem("predict", "--run", run, "--data", path).stdout.split(), want)
        again = train("--loss", "hinge", "--label", "label", model="linear", data=path, epochs=50)
        self.assertEqual(event(again, "epoch")[-1]["progressive_loss"], 0)
        self.assertEqual(weights(run), weights(again))


class Mistakes(unittest.TestCase):
    def says(self, text, *words, code=2, prefix=()):
        done = tandem(*words, expect=code, prefix=prefix)
        self.assertIn(text, done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)

    def test_places_and_clocks(self):
        for text, words in (
                ("--clock fast is no clock; there are bsp, ssp:BOUND, asp,", ps(2, clock="fast")),
                ("--clock ssp:x is no clock", ps(2, clock="ssp:x")),
                ("--clock backup: 5 would be waited for of 2 workers", ps(2, clock="backup:5")),
                ("--clock groups: 9 groups of 2 workers", ps(2, clock="groups:9:1:2")),
                ("--replicas 1 needs two servers or more, and there is one", ps(2, "--replicas", "1", servers=1)),
                ("--replicas 1 needs two servers or more, and there is one", ps(1, "--replicas", "1")),
                ("are more than the 16 leaves of a batch", ps(15, servers=5)),
                ("--clip: no rank knows the norm of all gradients", ps(2, "--clip", "1")),
                ("--accumulate is not for parameters in tables; give a larger --batch", ps(2, "--accumulate", "2")),
                ("--keep best: of parameters in tables only the last", ps(2, "--keep", "best", "--holdout", "0.2")),
                ("--l1 is for --optimizer ftrl; here it would do nothing", ps(2, "--l1", "0.1")),
                ("--optimizer nesterov is for networks whose parameters are not in tables; these have sgd (with --momentum",
                 ps(2, "--optimizer", "nesterov")),
                ("--clock \"\" is no clock", ps(2, clock="")),
                ("--table-memory: \"12q\" is not a whole number, with k, m or g behind it", ps(2, "--table-memory", "12q")),
                ("1000 servers and a worker are more than the 16 leaves of a batch; start at most 15", ps(1, servers=1000)),
                ("a memory limit of 1000 bytes is too small for rows of", ps(2, "--table-memory", "1000"))):
            self.says(text, *job(*words))
        self.says("no update rule is called \"ftrl\"", *job("--optimizer", "ftrl", model="mlp", data=DATA))
        if MPIEXEC:
            done = tandem(*job(*ps(1, servers=2)), expect=2, prefix=ranks(2))
            self.assertIn("--servers 2 leaves no worker of the job's 2 ranks", done.stderr)

    def test_what_would_do_nothing(self):
        """Each such option is named, beside models and strategies that do not use it; at its default it is not."""
        ssp = ["--strategy", "ps", "--clock", "ssp:2"]
        for words, model, base in (
                (["--clock", "asp"], "mlp", []), (["--clock", "asp"], "fm", ["--strategy", "downpour"]),
                (["--servers", "1"], "fm", []), (["--servers", "1"], "mlp", ["--strategy", "hogwild"]),
                (["--data-servers", "1"], "fm", []), (["--replicas", "1"], "mlp", ["--workers", "2"]),
                (["--staleness-rate"], "fm", ["--strategy", "ps"]), (["--compensation", "1"], "fm", []),
                (["--push-every", "2"], "fm", ssp), (["--fetch-every", "2"], "fm", ["--strategy", "easgd"]),
                (["--elastic", "0.5"], "fm", ["--strategy", "downpour"]), (["--table-memory", "1g"], "mlp", ssp),
                (["--admit", "2"], "mlp", []), (["--evict-after", "2"], "mlp", ssp), (["--bits", "9"], "mlp", []),
                (["--hash-seed", "9"], "mlp", ssp), (["--factors", "9"], "linear", []), (["--top", "4-1"], "fm", []),
                (["--bottom", "4-1"], "mlp", []), (["--balance"], "fm", []), (["--flip"], "mlp", ssp),
                (["--shard-optimizer"], "fm", []), (["--optimizer", "adam"], "fm", ["--strategy", "easgd"]),
                (["--momentum", "0.9"], "mlp", ["--optimizer", "adam"]), (["--beta1", "0.8"], "mlp", []),
                (["--beta2", "0.8"], "fm", ["--optimizer", "adagrad"]), (["--epsilon", "0.8"], "fm", []),
                (["--l2", "0.8"], "mlp", []), (["--ftrl-beta", "0.8"], "fm", ["--optimizer", "adagrad"]),
                (["--gamma", "0.8"], "mlp", []), (["--step-every", "2"], "fm", ["--schedule", "cosine"]),
                (["--final-lr", "0.001"], "mlp", ["--schedule", "step"])):
            data = DATA if model == "mlp" else clicks()
            self.says(f"{words[0]} is for ", *job(*base, *words, model=model, data=data))
        run = train("--clock", "bsp", "--servers", "0", "--admit", "1", "--momentum", "0", "--l1", "0", "--gamma", "0.1",
                    "--optimizer", "ftrl", "--l2", "0.1")
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
        self.says("--loss binary needs two classes, and " + three + " has 3", *job("--loss", "binary", data=three, model="linear"))
        self.says("--loss hinge needs two classes, and " + three + " has 3", *job("--loss", "hinge", data=three, model="linear"))
        self.says("three.csv has numbers to predict; use squared, or --label-kind class",
                  *job("--loss", "hinge", "--label-kind", "value", data=three, model="linear"))
        self.says("negative.csv: sample 1 has -3, where --loss poisson needs counts",
                  *job("--loss", "poisson", "--label-kind", "value", data=negative, model="linear"))
        for line, text in (("1 0:1:2 x:3:4", ":2: \"x:3:4\" is not field:index:value"),
                           ("1 0:1:2 1:3", ":2: \"1:3\" is not field:index:value"),
                           ("1 0:1:2 99999999:3:4", ":2: \"99999999:3:4\" has a field beyond 65535")):
            torn = write("torn.libffm", "0 0:1:1\n" + line + "\n")
            self.says(text, *job("--format", "libffm", data=torn, model="ffm"))

    def test_rows_to_files(self):
        run, net, path = train(), train(model="mlp", data=DATA), os.path.join(TOP, "out.tsv")
        for text, words in (("--run is missing", ["--out", path]),
                            ("--out is missing", ["--run", run]),
                            ("out.csv: a table's file ends in .safetensors or .tsv", ["--run", run, "--out", "out.csv"]),
                            ("--from 7 is above --to 6", ["--run", run, "--out", path, "--from", "7", "--to", "6"]),
                            ("holds a network; export is for models whose rows lie under keys", ["--run", net, "--out", path]),
                            ("holds no model yet", ["--run", TOP, "--out", path]),
                            ("did you mean --states?", ["--run", run, "--out", path, "--state"])):
            self.says(text, "export", *words)
            self.assertFalse(os.path.exists(path))
        write("out.tsv", "mine")
        self.says("out.tsv exists already; --overwrite replaces it", "export", "--run", run, "--out", path)
        with open(path) as f:
            self.assertEqual(f.read(), "mine")
        shutil.rmtree(os.path.join(run, "checkpoints"))
        self.says("has no checkpoint of step 14, of which its model is", "export", "--run", run, "--out", path, "--states",
                  "--overwrite")

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
                ("rows have weights alone; under ftrl these are a function of ftrl.z and ftrl.n, which the file must have",
                 ["--rows-from", tensors, "--optimizer", "ftrl"]),
                ("has rows of \"fm factors=4 bits=0 hash-seed=0\", and they are to be of "
                 "\"fm factors=4 bits=0 hash-seed=2\"", ["--rows-from", tensors, "--hash-seed", "2"]),
                ("and they are to be of \"fm factors=4 bits=20 hash-seed=0\"", ["--rows-from", tensors, "--bits", "20"]),
                ("and they are to be of \"fm factors=4 bits=0 hash-seed=3\"", ["--rows-from", plain, "--hash-seed", "3"]),
                ("and they are to be of \"dlrm factors=5 bits=0 hash-seed=0\"",
                 ["--rows-from", plain, "--model", "dlrm", "--factors", "5"]),
                ("has more bits than the 8 that keys are hashed to", ["--rows-from", plain, "--bits", "8"]),
                ("has more bits than the 8 that keys are hashed to",
                 ["--rows-from", plain, "--strategy", "hogwild", "--bits", "8"])):
            for way in ([], ["--workers", "3"]) if "hogwild" in words else ([], ps(3, "--replicas", "1", servers=2)):
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
            shell = f'test $OMPI_COMM_WORLD_RANK = 2 && from={other} || from={plain}; cd $(mktemp -d); ln -s $from here.tsv; '
            done = subprocess.run([*ranks(3), "sh", "-c", shell + 'exec "$@"', "sh", TANDEM,
                                   *job("--rows-from", "here.tsv", *ps(1, servers=2), run=run)], text=True,
                                  capture_output=True, timeout=100)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("rank 2 reads other rows in here.tsv than rank 1; all servers must find the same file",
                          done.stderr)
            self.assertFalse(os.path.exists(run))
        self.says("--rows-from is for models over hashed features", *job("--rows-from", plain, model="mlp", data=DATA))
        self.says("--rows-from cannot be changed when a run is resumed", "train", "--run", first, "--resume", "--rows-from",
                  plain)

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
        self.says("is a checkpoint of the architecture \"fm factors=4 fields=40 numbers=0 bits=8", "train", "--run", run,
                  "--resume", "--epochs", "3")

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
        """One sentence, and what had been saved is whole: with room the run goes on to the bytes of an undisturbed one."""
        disk, more = new_run(), ["--table-memory", "524288", "--checkpoint-every", "20"]
        data = clicks(rows=4000, categories=30000)
        done = subprocess.run(["unshare", "--mount", "--", "sh", "-ec",
                               'mkdir -p "$0"; mount -t tmpfs -o size=12m tmpfs "$0"; "$@" || code=$?; '
                               'cp -r "$0" "$0.kept"; exit $code', disk, TANDEM,
                               *job(*ps(2, *more), run=os.path.join(disk, "run"), data=data, epochs=3)], text=True,
                              capture_output=True, timeout=100)
        if "mount" in done.stderr and "permission" in done.stderr:
            self.skipTest(done.stderr)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertRegex(done.stderr, r"\Atandem: cannot (open|write) cold rows in \S*/cold/rank-\d: .*No space left on device.*\n\Z")
        run = os.path.join(disk + ".kept", "run")
        self.assertFalse(os.path.exists(os.path.join(run, "model")))
        tandem("train", "--run", run, "--resume", "--quiet")
        self.assertEqual(rows_of(os.path.join(run, "model")), rows_of(os.path.join(train(data=data, epochs=3), "model")))

    @unittest.skipUnless(MPIEXEC, "no mpiexec")
    def test_replicas_without_a_recovery(self):
        run = new_run()
        done = tandem(*job(*ps(1, "--replicas", "1"), run=run), prefix=ranks(2), expect=2)
        self.assertEqual(done.stderr.count("tandem: "), 1, done.stderr)
        self.assertIn("--replicas 1 is for jobs that go on when a rank dies, and this one cannot: start it with", done.stderr)
        self.assertFalse(os.path.exists(run))


class ThreadDeaths(unittest.TestCase):
    """At chosen points, of ranks that are threads."""

    def lives(self, want, plan, *words, spares=0, **how):
        run = new_run()
        done = subprocess.run([TANDEM, *job(*words, "--spares", str(spares), run=run, **how)], text=True,
                              capture_output=True, timeout=60, env=dict(os.environ, TANDEM_FAKE_DEATH=plan))
        self.assertEqual(done.returncode, 0, (plan, words, spares, done.stdout + done.stderr))
        if want:
            self.assertEqual(weights(run), weights(want), (plan, words, spares))
            lines = [[x for x in told(r) if not x["progressive_loss"]] for r in (run, want)]
            self.assertEqual(lines[0], lines[1], (plan, words, spares))
        return run

    def test_in_step(self):
        more = ["--optimizer", "adagrad", "--holdout", "0.2"]
        for model in SOME:
            want = train(*more, model=model)
            words = ps(3, "--replicas", "1", servers=2)
            plans = ["1:3:backward", "4:4:reduce", "0:5:update", "3:5:evaluate", "0:5:evaluate", "2:2:reduce,3:6:update",
                     "0:3:reduce,1:3:recover", "1:5:checkpoint", "0:10:end:alarm"]
            for plan in plans[::3] if SHORT else plans:
                for spares in (0, 2):
                    self.lives(want, plan, *words, *more, spares=spares, model=model)
            self.lives(want, "2:4:reduce", *ps(3, "--replicas", "1"), *more, model=model)
            self.lives(want, "0:4:backward,2:7:update", "--workers", "4", "--replicas", "1", *more, model=model)

    def test_what_rows_remember(self):
        """Sightings and ages go with rows to other ranks."""
        how = {"data": clicks(rows=1500), "epochs": 4}
        for words in (["--admit", "4"], ["--evict-after", "20"]):
            want = train(*words, **how)
            for plan in ("3:40:reduce,1:65:reduce", "4:20:update"):
                self.lives(want, plan, *ps(3, "--replicas", "1", servers=2), *words, spares=1, **how)

    def test_at_their_own_pace(self):
        for clock in ("asp", "ssp:2") if SHORT else ("asp", "ssp:2", "backup:2", "groups:2:1:3"):
            for plan in ("1:3:backward", "0:5:update", "3:5:evaluate", "2:2:backward,0:6:update"):
                for spares in (0, 2):
                    run = self.lives(None, plan, *ps(3, "--replicas", "1", servers=2, clock=clock), "--holdout", "0.2",
                                     spares=spares)
                    self.assertEqual(metrics(run)[-1]["step"], 10)

    def test_too_few_workers(self):
        """They stop with a checkpoint."""
        for clock, more in (("bsp", ["--optimizer", "adagrad"]), ("asp", []), ("ssp:2", [])):
            want = train(*more, "--holdout", "0.2", epochs=4)
            words = ps(3, "--replicas", "1", "--min-workers", "3", *more, "--holdout", "0.2", servers=2, clock=clock)
            for spares in (0, 1):
                run = new_run()
                plan = "1:7:backward,0:8:backward" if spares else "1:7:backward"
                done = subprocess.run([TANDEM, *job(*words, "--spares", str(spares), run=run, epochs=4)], text=True,
                                      capture_output=True, timeout=60, env=dict(os.environ, TANDEM_FAKE_DEATH=plan))
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn("2 workers are left, fewer than --min-workers 3: stopped after step", done.stderr)
                self.assertNotEqual(os.listdir(os.path.join(run, "checkpoints")), [])
                tandem("train", "--run", run, "--resume", "--quiet", "--workers", "2", "--min-workers", "1")
                self.assertEqual(metrics(run)[-1]["step"], 4 * 5)
                if clock == "bsp":
                    self.assertEqual(weights(run), weights(want))

    def test_data_servers(self):
        """Every sample once an epoch, whoever dies; who asks nobody but data servers and servers apart hears of it."""
        shards = 2 * -(-4000 // (64 // 3))
        for model, clock in (("fm", "asp"),) if SHORT else (("fm", "asp"), ("linear", "ssp:2")):
            words = ps(3, "--data-servers", "2", "--replicas", "1", servers=2, clock=clock)
            for plan in ("1:3:backward,0:50:update", "2:20:backward", "1:3:update,0:66:backward"):
                for spares in (1,) if SHORT else (0, 1):
                    run = self.lives(None, plan, *words, spares=spares, data=clicks(rows=4000), model=model)
                    self.assertEqual(each_once(run), [(4000, True)] * 2, (plan, spares))
                    # At both servers: none is made twice; of those that met a loss a server may count one less.
                    pushes = event(run, "tables")[0]["pushes"]
                    self.assertTrue(2 * shards - 12 <= pushes <= 2 * shards, (pushes, shards))


@unittest.skipUnless(ULFM, "no MPI that recovers")
class Kills(unittest.TestCase):
    """SIGKILL at any moment, of processes."""

    def run_and_kill(self, victims, *words, n, spares=0, epochs=30, **how):
        chance, run = random.Random(repr((victims, words))), new_run()
        other = how.pop("astray", None)  # (rank, data that it reads)
        prefix = ranks(n + spares)
        at = prefix.index(MPIEXEC) + 1
        command = [*prefix[:at], "--with-ft", "ulfm", *prefix[at:], TANDEM,
                   *job(*words, "--spares", str(spares), "--replicas", "1", "--holdout", "0.2", run=run, epochs=epochs,
                        **how)]
        if other:
            dealt = f'[ "$OMPI_COMM_WORLD_RANK" != {other[0]} ] || set -- "$@" --data {other[1]}; exec "$@"'
            program = command.index(TANDEM)
            command[program:program] = ["sh", "-c", dealt, "sh"]
        process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=dict(os.environ, TANDEM_FAKE_SLOW="0:8"))
        end = time.monotonic() + 60
        while not os.path.exists(os.path.join(run, "metrics.jsonl")) and time.monotonic() < end:
            time.sleep(0.01)
        for victim in victims:
            time.sleep(chance.uniform(0.05, 0.3))
            pid = processes_of(run, TANDEM).get(victim)
            if pid:
                os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=100)
        self.assertEqual(process.returncode, 0, out + err)
        if other:
            self.assertEqual(err.count(f"rank {other[0]} leaves the run: it reads other training data in"), 1, err)
        return run

    def test_a_spare_with_other_data(self):
        """It leaves before it has any part in the run; the next one comes."""
        with open(clicks()) as f:
            lines = f.readlines()
        other = write("strange.tsv", "".join([*lines[:7], "1" + lines[8][1:], "0" + lines[7][1:], *lines[9:]]))
        for clock in ("bsp", "asp"):
            run = self.run_and_kill([0], *ps(1, servers=2, clock=clock), n=4, spares=2, astray=(4, other))
            self.assertEqual(metrics(run)[-1]["step"], 30 * 5)
            if clock == "bsp":
                self.assertEqual(weights(run), weights(train("--holdout", "0.2", epochs=30)))

    def test_in_step(self):
        want = train("--holdout", "0.2", epochs=30)
        for victims, words, n, spares in (([0], ps(1, servers=2), 4, 1), ([3, 1], ps(1, servers=2), 4, 1),
                                          ([2], ps(1), 3, 0))[1 if SHORT else 0:]:
            run = self.run_and_kill(victims, *words, n=n, spares=spares)
            self.assertEqual(weights(run), weights(want), (victims, words))
            self.assertEqual([x for x in told(run) if x["eval"]], [x for x in told(want) if x["eval"]])

    @unittest.skipIf(SHORT, "chaos does so")
    def test_at_their_own_pace(self):
        for clock in ("asp", "ssp:2"):
            run = self.run_and_kill([3, 0], *ps(1, servers=2, clock=clock), n=4, spares=1)
            self.assertEqual(metrics(run)[-1]["step"], 30 * 5)

    def test_data_servers(self):
        words = ps(1, "--data-servers", "2", servers=2, clock="asp")
        for victims in [[0, 5]] if SHORT else [[1], [4], [5, 0], [0, 1]]:
            run = self.run_and_kill(victims, *words, n=6, spares=1, data=clicks(rows=4000), epochs=8)
            samples = 3200  # the rest is held out
            for count, once in each_once(run):
                # None: a worker and a data server died at once, and what both knew with them.
                self.assertTrue(once or (once is None and len(victims) > 1), (victims, each_once(run)))
                self.assertEqual(count if once else samples, samples)
            self.assertEqual(len(each_once(run)), 8)


if __name__ == "__main__":
    main()
