#!/usr/bin/env python3
"""Models whose parameters live in tables: in step the same bytes for any number of workers, servers,
threads and processes, through resumptions, and from a file of rows on; at other clocks nearly the same
loss, and what the clock promises. keys_death_test.py has their deaths, keys_mistakes_test.py what is refused."""
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import time
import unittest

from harness import DATA, MPIEXEC, SHORT, TANDEM, main, metrics, new_run, ranks, tandem
from keys import (ROWS, SOME, ULFM, clicks, event, export, floats, job, place, ps, recovering, rows_of, text_rows, told,
                  train, weights, write)

KINDS = ["linear", "fm", "ffm", "dlrm"]


def progressive(run):
    return event(run, "epoch")[-1]["progressive_loss"]


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

    def test_a_network_with_a_rule_of_its_own(self):
        own = ["--optimizer", "adagrad", "--net-optimizer", "adam", "--net-lr", "0.003", "--beta2", "0.99"]
        self.same(train("--optimizer", "adagrad", model="dlrm"), "--optimizer", "adagrad", "--net-optimizer", "adagrad",
                  "--net-lr", "0.1", model="dlrm")
        self.same(train(*own, model="dlrm"), *own, *ps(2, servers=1), model="dlrm")
        # In the first step gradients are the same, and rows move by their own rule.
        first, other = (rows_of(os.path.join(train(*words, "--steps", "1", model="dlrm"), "model"))
                        for words in (["--optimizer", "adagrad"], own))
        self.assertEqual(first.keys(), other.keys())
        differ = {tensor for tensor, key in first if first[tensor, key] != other[tensor, key]}
        self.assertTrue(differ and differ < {tensor for tensor, _ in first}, differ)
        self.assertFalse(any(tensor in differ for tensor, key in first if key > 1 << 20), differ)
        # Clocks that lag by different numbers of steps are one to a worker alone.
        want = weights(train(*ps(1, servers=1, clock="asp"), *own, model="dlrm"))
        for clock, net in (("asp", "ssp:2"), ("ssp:3", "asp"), ("ssp:1", "groups:1:1:2"))[2 if SHORT else 0:]:
            got = train(*ps(1, servers=1, clock=clock), "--net-clock", net, *own, model="dlrm")
            self.assertEqual(weights(got), want, (clock, net))
        run = train(*ps(3, servers=2, clock="ssp:1"), "--net-clock", "asp", *own, model="dlrm")
        self.assertEqual(metrics(run)[-1]["pushes"] > 0, True)

    @unittest.skipUnless(MPIEXEC, "no mpiexec")
    def test_processes(self):
        for model in SOME:
            want = train("--momentum", "0.5", model=model)
            twice = ["--replicas", "1"] if ULFM else []  # it is for ranks that can go on
            ways = [(4, ps(1, *twice, servers=2))]
            if not SHORT:
                ways += [(2, ["--strategy", "allreduce"]), (3, ps(1, servers=1, clock="ssp:0")),
                         (3, ps(1, "--threads", "2", *twice))]
            for n, words in ways:
                self.same(want, *words, "--momentum", "0.5", model=model, prefix=recovering(n))

    def test_networks(self):
        """Whose parameters are rows of the dense table."""
        for model in ("softmax", "mlp", "dense:24 bn relu bn:0 dense:0"):
            words = ["--momentum", "0.9", "--weight-decay", "0.02", "--holdout", "0.2"]
            want = train("--strategy", "allreduce", "--keep", "last", *words, model=model, data=DATA)
            if model == "mlp":
                words[:2] = ["--optimizer", "adam", "--lr", "0.01"]
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
        for model in SOME[:1] if SHORT else SOME:
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

    def test_reads_that_are_counted(self):
        """Pulls, not pushes, whatever the clock."""
        counts = []
        for clock in ("bsp", "asp"):
            found = event(train(*ps(1, clock=clock), epochs=1), "tables")[0]
            counts.append((found["hits"], found["misses"]))
            self.assertEqual(found["misses"], found["rows"])  # each key is new once
        self.assertEqual(*counts)

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
        for model in SOME[:1] if SHORT else SOME:
            want = train("--optimizer", "adagrad", model=model, epochs=epochs)
            ways = ((ps(2, servers=1), place(3, "--replicas", "1", servers=2)), (ps(5), place(1)),
                    (["--workers", "3"], place(1)))
            for words, then in ways[:1] if SHORT else ways:
                run = self.interrupted(*words, "--optimizer", "adagrad", model=model, epochs=epochs)
                tandem("train", "--run", run, "--resume", "--quiet", *then)
                self.assertEqual(weights(run), weights(want), (model, words, then))
                self.assertEqual([x for x in told(run) if x["eval"]], [x for x in told(want) if x["eval"]])

    def test_by_its_own_words(self):
        """Given once more, also those that say nothing of features under keys."""
        for word in ("--one-hot", "--no-one-hot"):
            run = train(word, "--l2", "0.1", "--optimizer", "ftrl", model="linear")
            train(word, "--l2", "0.1", "--optimizer", "ftrl", "--resume", model="linear", run=run, epochs=3)
            self.assertEqual(len(event(run, "epoch")), 3)

    def test_at_their_own_pace(self):
        for clock in ("asp", "ssp:2", "backup:1")[::2 if SHORT else 1]:
            run = self.interrupted(*ps(2, servers=1, clock=clock), epochs=60)
            tandem("train", "--run", run, "--resume", "--quiet", *place(3, servers=2))
            self.assertEqual(metrics(run)[-1]["step"], 60 * -(-ROWS // 64), clock)

    def test_what_an_earlier_job_left(self):
        """Records of ranks that there are no more, and a request that it did not live to answer."""
        run = train(*ps(3, servers=2, clock="asp"), epochs=1)
        with open(os.path.join(run, "resize"), "w") as f:
            f.write("1 -1 -1 1-1\n")
        tandem("train", "--run", run, "--resume", "--epochs", "3", "--quiet", *place(1, servers=1))
        self.assertEqual(event(run, "resized"), [])
        self.assertFalse(os.path.exists(os.path.join(run, "resize")))
        self.assertEqual(sorted(os.listdir(os.path.join(run, "recorder"))), ["rank-0", "rank-1"])
        self.assertIn("all ranks have ended", tandem("diagnose", run).stdout)

    def test_a_length_that_cannot_be_changed(self):
        for schedule in ("cosine", "linear"):
            run = train(*ps(2), "--schedule", schedule)
            for epochs, says in (("3", f"--epochs 3 cannot be changed: --schedule {schedule} was laid out over 14 steps (2"),
                                 ("1", "--epochs 1 is less than the 2 that the run has done")):
                done = tandem("train", "--run", run, "--resume", "--epochs", epochs, expect=2)
                self.assertIn(says, done.stderr)
                self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            tandem("train", "--run", run, "--resume", "--quiet")

    def test_seconds_between_checkpoints(self):
        """In an epoch's midst, at every clock; in step they change no bit."""
        how = {"data": clicks(rows=1600), "epochs": 1}
        ways = {"bsp": ps(2, servers=1), "asp": ps(2, servers=1, clock="asp"),
                "hogwild": ["--strategy", "hogwild", "--bits", "12", *place(2)],
                "easgd": ["--strategy", "easgd", *place(2)]}
        runs = {name: new_run() for name in ways}
        jobs = [subprocess.Popen([TANDEM, *job(*way, "--batch", "16", "--checkpoint-every", "1s", "--keep-checkpoints",
                                               "9", run=runs[name], **how)],
                                 env=dict(os.environ, TANDEM_FAKE_SLOW="0:25")) for name, way in ways.items()]
        self.assertEqual([process.wait(60) for process in jobs], [0] * len(jobs))
        for name, run in runs.items():
            kept = sorted(int(n.split("-")[1]) for n in os.listdir(os.path.join(run, "checkpoints")))
            self.assertEqual(kept[-1], 100, name)
            self.assertTrue(2 <= len(kept) <= 4 and kept[0] > 9, (name, kept))
        self.assertEqual(weights(runs["bsp"]), weights(train("--batch", "16", **how)))

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
        for model in SOME[:1] if SHORT else SOME:
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

    def test_backup_workers_leave_out_what_would_be_dropped(self):
        """A worker that is late skips to the step of the others, where late pushes are dropped; where they are
        applied it learns from all that is its own."""
        data = clicks(rows=4000)
        for clock, more, whole, samples in (("backup:2", [], False, 4000), ("backup:2:apply", [], True, 4000),
                                            ("backup:2", ["--drop-last"], False, 62 * 64)):
            words = [w for w in job(*ps(3, *more, servers=1, clock=clock), data=data, run=new_run()) if w != "--quiet"]
            done = tandem(*words, prefix=("env", "TANDEM_FAKE_SLOW=0:20"))
            epochs = event(words[words.index("--run") + 1], "epoch")
            self.assertEqual([e["each_once"] for e in epochs], [whole] * len(epochs), clock)
            self.assertEqual(self.left_out(done), sum(samples - e["samples"] for e in epochs), done.stdout)

    @staticmethod
    def left_out(done):
        return sum(map(int, re.findall(r"; (\d+) samples of slow workers were left out", done.stdout + done.stderr)))

    def test_what_no_slow_worker_has_left_out(self):
        """Epochs that --steps ends, those that a resumption goes on with, and what --drop-last drops: where all are
        waited for, or late pushes are applied, nothing is left out."""
        data = clicks(rows=4000)
        for clock, more in (("backup:2", ["--steps", "10"]), ("backup:2", ["--batch", "63", "--drop-last"]),
                            ("backup:1:apply", ["--steps", "70"])):
            words = [w for w in job(*ps(2, *more, clock=clock), data=data, run=new_run()) if w != "--quiet"]
            self.assertEqual(self.left_out(tandem(*words)), 0, (clock, more))
            run = words[words.index("--run") + 1]
            done = tandem("train", "--run", run, "--resume", "--steps", "0", "--epochs", "3")
            self.assertEqual(self.left_out(done), 0, (clock, more))

    @unittest.skipUnless(MPIEXEC, "no mpiexec")
    def test_rows_fetched_ahead_have_all_own_pushes(self):
        """By one worker: a clock that lets it fetch the next batch's rows early gives the bits of one that does not."""
        for words in ([], ["--admit", "3"], ["--compensation", "0.1"])[2 if SHORT else 0:]:
            want = weights(train(*ps(1, servers=2, clock="backup:1"), *words))
            for clock in ("asp",) if words else ("asp", "ssp:1", "ssp:6", "groups:1:2:3"):
                got = train(*ps(1, servers=2, clock=clock), *words, prefix=ranks(3))
                self.assertEqual(weights(got), want, (clock, words))

    def test_hot_slices_are_shared_out(self):
        """Of a server that is asked for more than others; by one worker with the same bytes as where nothing moves."""
        data = clicks(rows=2000)
        for more, model in ((["--replicas", "1"], "fm"), ([], "linear")):
            words = [*more, "--optimizer", "adagrad", "--bits", "4"]  # 16 keys in 256 slices, and not evenly
            want = train(*ps(1, *words, servers=3, clock="asp"), data=data, model=model, epochs=4)
            self.assertEqual(event(want, "balanced"), [])
            told = event(want, "hot")  # once, of the server that has most
            self.assertEqual([e["servers"] for e in told], [3])
            self.assertGreaterEqual(told[0]["hottest"], 1.25 / 3)
            run = train(*ps(1, *words, "--balance", servers=3, clock="asp"), data=data, model=model, epochs=4)
            moves = event(run, "balanced")
            self.assertGreater(moves[0]["slices"], 0)
            before, after = moves[0]["hottest"]
            self.assertEqual((before, after, event(run, "hot")), (told[0]["hottest"], told[0]["balanced"], []))
            self.assertTrue(1 / 3 <= after < before, moves)
            self.assertEqual(rows_of(os.path.join(run, "model")), rows_of(os.path.join(want, "model")))
            want = train(*ps(1, *words, "--batch", "4", servers=3, clock="asp"), data=data, model=model, epochs=1)
            run = train(*ps(1, *words, "--batch", "4", "--balance", servers=3, clock="asp"), data=data, model=model, epochs=1)
            self.assertEqual([e["step"] for e in event(want, "hot")], [500])  # when it is over; to move slices is worth it
            self.assertEqual(event(run, "balanced")[0]["step"], 31)  # behind a 16th
            self.assertEqual(rows_of(os.path.join(run, "model")), rows_of(os.path.join(want, "model")))
            want = train(*words[len(more):], "--batch", "4", data=data, model=model, epochs=1)
            run = train(*ps(2, *words, "--batch", "4", "--balance", servers=3), data=data, model=model, epochs=1)
            self.assertEqual((event(run, "balanced")[0]["step"], weights(run)), (31, weights(want)))
            want = train(*ps(1, *words, servers=3, clock="asp"), data=data, model=model, epochs=4)
            shared = train(*ps(3, *words, "--balance", servers=3, clock="asp"), data=data, model=model, epochs=4)
            self.assertAlmostEqual(progressive(shared), progressive(want), delta=0.05)
            want = train(*words[len(more):], data=data, model=model, epochs=4)
            hot = train(*ps(2, *words, servers=3), data=data, model=model, epochs=4)
            run = train(*ps(2, *words, "--balance", servers=3), data=data, model=model, epochs=4)
            self.assertGreater(event(run, "balanced")[0]["slices"], 0)
            self.assertEqual(event(run, "balanced")[0]["hottest"], [event(hot, "hot")[0][k] for k in ("hottest", "balanced")])
            self.assertEqual([weights(hot), weights(run)], [weights(want)] * 2)

    def test_a_centre_does_not_decay_by_itself(self):
        """Only copies do, in their steps."""
        words = ["--strategy", "easgd", *place(2), "--push-every", "2", "--lr"]

        def size(*decay, model, rate):
            kept = rows_of(os.path.join(train(*words, rate, *decay, model=model, epochs=4), "model"))
            return sum(x * x for row in kept.values() for x in floats(row))

        for model in SOME:
            still, same = (size(*decay, model=model, rate="1e-9") for decay in ([], ["--weight-decay", "0.5"]))
            self.assertAlmostEqual(same / still, 1, 3, model)
            free, less = (size(*decay, model=model, rate="0.05") for decay in ([], ["--weight-decay", "2"]))
            self.assertLess(less, 0.8 * free, model)

    def test_all_workers_pushes_make_a_step(self):
        """Of running statistics and of decay: what one worker of the batch does, four of a quarter each do."""
        arch = "bn dense:8 relu dense:0"

        def tensors(*words):
            run = train("--normalise", "none", "--batch", "64", "--lr", "0.001", "--weight-decay", "5", *words,
                        model=arch, data=DATA, epochs=4)
            return {name: floats(row) for (name, _), row in rows_of(os.path.join(run, "model")).items()}

        want = tensors("--strategy", "allreduce")
        for words in (ps(1, servers=1, clock="asp"), ps(4, servers=1, clock="asp"), ps(4, servers=1, clock="ssp:2"),
                      ["--strategy", "hogwild", "--workers", "4"])[1 if SHORT else 0:]:
            got = tensors(*words)
            self.assertEqual(got.keys(), want.keys())
            for name, row in want.items():
                if "running" in name:
                    for a, b in zip(got[name], row):
                        self.assertAlmostEqual(a / b, 1, delta=0.35, msg=(words, name, got[name], row))
            ours, theirs = (sum(x * x for name in ts if name.endswith("weight") for x in ts[name]) for ts in (got, want))
            self.assertAlmostEqual(ours / theirs, 1, delta=0.2, msg=words)

    def test_pushes_decay_by_what_they_are_of_a_batch(self):
        """However many workers there are by then, and however many steps a push is of."""
        def size(*words, plan=""):
            run = new_run()
            tandem(*job("--normalise", "unit", "--lr", "0.001", "--weight-decay", "3", "--drop-last", *words, run=run, data=DATA,
                        model="dense:8 relu dense:0", epochs=30), env={"TANDEM_FAKE_DEATH": plan})
            return sum(x * x for (name, _), row in rows_of(os.path.join(run, "model")).items() if "weight" in name
                       for x in floats(row))

        want, few = size("--strategy", "allreduce"), "1:3:backward,2:3:backward,3:3:backward"
        for words, plan in ((ps(4, servers=1, clock="asp"), few), (["--strategy", "hogwild", "--workers", "4"], few),
                            (["--strategy", "downpour", *place(1), "--push-every", "5"], ""),
                            (["--strategy", "downpour", *place(4), "--push-every", "5", "--fetch-every", "5"], ""),
                            (ps(3, "--data-servers", "1", servers=1, clock="asp"), ""))[2 if SHORT else 0:]:
            self.assertAlmostEqual(size(*words, plan=plan) / want, 1, delta=0.1, msg=words)

    def test_a_copy_moves_as_the_servers_do(self):
        """By one worker, a copy that is never fetched anew is what the servers have."""
        for words in ([], ["--net-lr", "0.001"], ["--weight-decay", "0.1"])[::2 if SHORT else 1]:
            losses = [progressive(train("--strategy", "downpour", *place(1), "--push-every", "1", "--fetch-every", every,
                                        *words, model="dlrm")) for every in ("1", "1000")]
            self.assertAlmostEqual(*losses, 5, words)

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
        for model in SOME[:1] if SHORT else SOME:
            run = train("--optimizer", "adagrad", model=model)
            needed, _ = text_rows(export(train("--optimizer", "adagrad", "--hash-seed", "9", model=model, epochs=1)))
            for form in ("tsv", "safetensors"):
                for words in ([], ["--states"]):
                    want, _ = text_rows(export(run, *words))
                    path = as_of_another_tool(export(run, *words, form=form))
                    for way in (["--workers", "2"], ps(3, "--replicas", "1", servers=2), ps(2, servers=1, clock="asp")):
                        other = train("--optimizer", "adagrad", "--hash-seed", "9", "--rows-from", path, *way,
                                      model=model, epochs=1)
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
            first, later = (event(run, "epoch")[0]["progressive_loss"] for run in (cold, warm))
            self.assertLess(later, first - 0.01)


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

    def test_a_model_that_is_not_held(self):
        """Its rows are looked up in its files: to the same answers, whoever wrote them."""
        data, less = clicks(rows=1000, categories=3000), ["--table-memory", "65536"]
        for words in (ps(2, servers=1), ps(2, "--table-memory", "524288", servers=2)):
            run = train(*words, "--optimizer", "adagrad", data=data, epochs=1)
            want = self.ask(run, data, "--table-memory", "0")
            self.assertEqual(self.ask(run, data), want)
            self.assertEqual(self.ask(run, data, *less), want)
            self.assertEqual(self.ask(run, data, *less, "--workers", "3"), want)
            os.remove(os.path.join(run, "job.yaml"))  # which says what the servers had
            self.assertEqual(self.ask(run, data), want)
            self.assertFalse(os.path.exists(os.path.join(run, "cold", "rank-0")))

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


if __name__ == "__main__":
    main()
