#!/usr/bin/env python3
"""Training-data servers: in step the bytes of workers that read for themselves, whoever dies, comes or goes;
workers without the data; networks at their own pace."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from harness import MPIEXEC, SHORT, TANDEM, main, metrics, new_run, ranks, tandem  # noqa: E402
from keys import ULFM, clicks, event, job, ps, recovering, rows_of, told, train, weights, write  # noqa: E402


def fed(workers, readers, *words, **how):
    return ps(workers, "--data-servers", str(readers), *words, **how)


def each_once(run):
    return [(line["samples"], line["each_once"]) for line in event(run, "epoch")]


class InStep(unittest.TestCase):
    """Who reads is nobody's business: the bytes are those of one worker that reads for itself."""

    def same(self, run, want, *about):
        self.assertEqual(weights(run), weights(want), about)
        self.assertEqual(told(run), told(want), about)
        self.assertEqual([e["checksum"] for e in event(run, "epoch")], [e["checksum"] for e in event(want, "epoch")], about)

    def test_threads_and_processes(self):
        more = ["--holdout", "0.2"]
        for model in ("mlp", "dlrm") if SHORT else ("mlp", "bn dense:8 relu dense:0", "linear", "ffm", "dlrm"):
            want = train(*ps(1), *more, model=model)
            for words, n in ((fed(3, 2, servers=1), 6), (fed(1, 1), 2), (fed(2, 1, "--replicas", "1", servers=2), 5)):
                self.same(train(*words, *more, model=model), want, model, words)
                if MPIEXEC and not SHORT:
                    self.same(train(*words, *more, prefix=recovering(n), model=model), want, model, words, n)

    def test_of_networks_bytes_are_those_of_allreduce(self):
        self.assertEqual(weights(train(*fed(2, 1, servers=1), model="mlp")), weights(train("--workers", "3", model="mlp")))

    def lives(self, plan, *words, expect=0, spares=0, **how):
        run = new_run()
        done = subprocess.run([TANDEM, *job(*words, "--spares", str(spares), run=run, **how)], text=True,
                              capture_output=True, timeout=60, env=dict(os.environ, TANDEM_FAKE_DEATH=plan))
        self.assertEqual(done.returncode, expect, (plan, words, done.stderr))
        self.err = done.stderr
        return run

    def test_whoever_dies(self):
        """Ranks are workers 0 to 2, servers 3 and 4, data servers 5 and 6."""
        words = fed(3, 2, "--replicas", "1", servers=2)
        for model in ("fm",) if SHORT else ("fm", "mlp"):
            want = train("--holdout", "0.2", model=model)
            for plan in ("5:3:backward", "1:3:backward", "3:4:reduce", "6:5:update,0:9:reduce", "0:5:evaluate",
                         "5:2:reduce,0:1:recover")[::2 if SHORT else 1]:
                for spares in (0, 1):
                    run = self.lives(plan, *words, "--holdout", "0.2", spares=spares, model=model)
                    self.assertEqual(weights(run), weights(want), (model, plan, spares))
                    self.assertEqual(sorted(rank for e in event(run, "recovered") for rank in e["died"]),
                                     sorted(int(at[0]) for at in plan.split(",")), plan)
                    self.assertEqual(each_once(run), [(320, True)] * 2, (model, plan, spares))
        self.lives("4:3:backward", *fed(2, 1, "--replicas", "1", servers=2), expect=1)
        self.assertIn("no data server is left", self.err)

    def test_resumed_within_an_epoch(self):
        """A part of an epoch is no proof, the rest with it is: both are of the run that went on."""
        words = fed(2, 1, "--checkpoint-every", "3", servers=1)
        for model in ("fm", "mlp"):
            run, want = train(*words, "--steps", "10", model=model), train(model=model, epochs=3)
            tandem("train", "--run", run, "--resume", "--quiet", "--steps", "0", "--epochs", "3")
            self.assertEqual(weights(run), weights(want), model)
            self.assertEqual([once for _, once in each_once(run)], [True, None, True, True])
            if model == "fm":
                self.assertEqual(event(run, "epoch")[2:], event(want, "epoch")[1:])

    def test_not_where_each_has_the_whole_model(self):
        for model in ("mlp", "linear"):
            run = train(model=model, epochs=1)
            done = tandem("train", "--run", run, "--resume", "--epochs", "2", "--data-servers", "1", expect=2)
            self.assertIn("--data-servers is for --strategy ps, downpour, easgd or hogwild", done.stderr)

    def test_without_the_last_batch(self):
        for clock, samples in (("bsp", 6 * 64), ("asp", 400 // 32 * 32)):
            for words in (fed(2, 1, servers=1, clock=clock), ps(2, servers=1, clock=clock)):
                run = train(*words, "--drop-last")
                count = samples if "--data-servers" in words else 6 * 64
                self.assertEqual(each_once(run), [(count, True)] * 2, words)

    def test_a_run_under_way_is_given_others(self):
        want, run = train(epochs=60), new_run()
        process = subprocess.Popen([TANDEM, *job(*fed(2, 1, servers=1), "--spares", "3", run=run, epochs=60)],
                                   env=dict(os.environ, TANDEM_FAKE_SLOW="0:4"))
        for words in ("--data-servers 3", "5 --servers 2 --data-servers 1", "7 --servers 2"):
            while not os.path.exists(os.path.join(run, "metrics.jsonl")):
                self.assertIsNone(process.poll())
            tandem("resize", run, *words.split())
        self.assertEqual(process.wait(timeout=60), 0)
        self.assertEqual(weights(run), weights(want))
        self.assertEqual([(e["workers"], e["servers"], e["data_servers"]) for e in event(run, "resized")],
                         [(6, 1, 3), (5, 2, 1), (7, 2, 1)])


class Within(unittest.TestCase):
    """At their own pace, within an epoch: all meet behind its first so many steps, from whose samples they have learnt,
    and from no others."""
    ROWS = 1000  # 16 steps of three shards

    def counts(self, run):
        return [(e["samples"], int(e["checksum"], 16)) for e in event(run, "epoch")]

    def first(self, steps, epochs=1, rows=ROWS):
        """Count and checksum of the last epoch's first steps, as of workers in step."""
        return self.counts(train(*ps(1), "--steps", str(steps), data=clicks(rows=rows), epochs=epochs))[-1]

    def so_far(self, run, step):
        """Of the epoch under way, as its checkpoint has it."""
        with open(os.path.join(run, "checkpoints", f"step-{step:09}", "manifest.json"), encoding="utf-8") as file:
            part = json.load(file)["state"].get("epoch_so_far")
        return (part["samples"], int(part["checksum"], 16)) if part else None

    def rest(self, run, steps, so_far, epochs=1, rows=ROWS):
        """The run of so many epochs had learnt from the first steps' samples of its epoch when it was stopped behind that
        step, and, resumed, did from its other ones and all of the next, once."""
        per_epoch, at = -(-rows // 64), steps // -(-rows // 64)
        if steps % per_epoch:
            self.assertEqual(so_far, self.first(steps, at + 1, rows), (run, steps))
            self.assertEqual(so_far[0], steps % per_epoch * 64)
        whole = self.first(per_epoch * (at + 1), at + 1, rows)
        self.assertEqual(self.counts(run)[at - epochs], whole, (run, steps))
        self.assertEqual(set(each_once(run)[at - epochs:]), {(rows, True)})

    def kept(self, run):
        return sorted(int(name[5:]) for name in os.listdir(os.path.join(run, "checkpoints")) if "." not in name)

    def go_on_from(self, run, step, *words):
        for other in self.kept(run):
            if other > step:
                shutil.rmtree(os.path.join(run, "checkpoints", f"step-{other:09}"))
        tandem("train", "--run", run, "--resume", "--quiet", *words)

    def test_checkpoints(self):
        """Any number of workers and data servers goes on from one, or workers that read for themselves; an epoch of
        which nobody died is whole."""
        for clock, more in (("asp", []), ("ssp:2", ["--shuffle", "leaf"]), ("backup:2:apply", []))[::2 if SHORT else 1]:
            words = fed(3, 2, "--checkpoint-every", "3", "--keep-checkpoints", "9", *more, servers=1, clock=clock)
            for number, (step, other) in enumerate(((3, []), (12, ["--workers", "5", "--data-servers", "1"]),
                                                    (9, ["--workers", "2", "--servers", "0"]), (6, ["--data-servers", "0"]))):
                run = train(*words, data=clicks(rows=self.ROWS), epochs=1)
                self.assertEqual(each_once(run), [(self.ROWS, True)], clock)
                self.assertEqual(self.kept(run), [3, 6, 9, 12, 15, 16])
                so_far = self.so_far(run, step)
                self.go_on_from(run, step, *other)
                if "leaf" in more:  # other samples than those of `first`
                    self.assertEqual(so_far[0], step * 64)
                    self.assertEqual(each_once(run)[1:], [(self.ROWS, True)])
                else:
                    self.rest(run, step, so_far)
                self.assertEqual(self.kept(run), [3, 6, 9, 12, 15, 16])
                if SHORT and number:
                    break

    def test_checkpoints_by_the_clock(self):
        """Steps are slow enough for a second to pass within an epoch."""
        for clock in ("asp", "ssp:2"):
            run = new_run()
            words = fed(3, 1, "--checkpoint-every", "1s", "--keep-checkpoints", "9", servers=1, clock=clock)
            tandem(*job(*words, data=clicks(rows=self.ROWS), run=run), env={"TANDEM_FAKE_SLOW": "0:100,1:100,2:100"})
            self.assertEqual(each_once(run), [(self.ROWS, True)] * 2, clock)
            within = [step for step in self.kept(run) if step % 16]
            self.assertNotEqual(within, [], clock)
            so_far = self.so_far(run, within[0])
            self.go_on_from(run, within[0])
            self.rest(run, within[0], so_far, epochs=2)

    def test_the_last_step_may_be_within_an_epoch(self):
        for steps in (3, 21):
            run = train(*fed(3, 2, "--steps", str(steps), servers=1, clock="asp"), data=clicks(rows=self.ROWS))
            self.assertEqual(self.counts(run)[-1], self.first(steps, epochs=1 + steps // 16))
            self.assertEqual(each_once(run)[-1], (steps % 16 * 64, None))
            tandem("train", "--run", run, "--resume", "--quiet", "--steps", "0")
            at = steps // 16
            self.assertEqual(each_once(run)[at + 1:], [(self.ROWS, True)] * (2 - at))

    def test_behind_workers_that_read_for_themselves(self):
        run = train(*ps(2, "--checkpoint-every", "3", servers=1, clock="asp"), "--steps", "9", data=clicks(rows=self.ROWS))
        tandem("train", "--run", run, "--resume", "--quiet", "--steps", "0", "--data-servers", "1")
        self.assertEqual(each_once(run), [(9 * 64, None), (self.ROWS, True), (self.ROWS, True)])

    def test_resumed_twice_within_an_epoch(self):
        """Of workers in step the event is that of a run that was not interrupted, to the last digit; of a checkpoint that
        says nothing of the epoch under way nothing is claimed."""
        for clock in ("asp", "bsp"):
            words, data = fed(3, 1, "--checkpoint-every", "3", servers=1, clock=clock), clicks(rows=self.ROWS)
            run = train(*words, "--steps", "5", data=data)
            tandem("train", "--run", run, "--resume", "--quiet", "--steps", "11", "--workers", "2")
            self.assertEqual(self.so_far(run, 11), self.first(11))
            tandem("train", "--run", run, "--resume", "--quiet", "--steps", "0")
            self.assertEqual(each_once(run), [(5 * 64, None), (11 * 64, None), (self.ROWS, True), (self.ROWS, True)])
            if clock == "bsp":
                self.assertEqual(event(run, "epoch")[2:], event(train(*words, data=data), "epoch"))
            run = train(*words, "--steps", "5", data=data)
            name = os.path.join(run, "checkpoints", "step-000000005", "manifest.json")
            with open(name, encoding="utf-8") as file:
                manifest = json.load(file)
            del manifest["state"]["epoch_so_far"], manifest["xxh64"]  # as earlier versions wrote it
            with open(name, "w", encoding="utf-8") as file:
                json.dump(manifest, file)
            tandem("train", "--run", run, "--resume", "--quiet", "--steps", "0")
            self.assertEqual(each_once(run)[1:], [(self.ROWS - 5 * 64, None), (self.ROWS, True)])

    def test_told_once(self):
        """What follows a meeting is done again when a rank dies in it."""
        for feed in ("0", "1"):
            words = ps(3, "--data-servers", feed, "--holdout", "0.2", "--replicas", "1", servers=2, clock="asp")
            run, data = new_run(), clicks(rows=self.ROWS)
            tandem(*job(*words, "--steps", "5", data=data, run=run), env={"TANDEM_FAKE_DEATH": "1:5:evaluate"})
            tandem("train", "--run", run, "--resume", "--quiet", "--steps", "0", env={"TANDEM_FAKE_DEATH": "1:13:evaluate"})
            self.assertEqual(len(event(run, "recovered")), 2)
            known = 800 if feed == "1" else 480  # else what was learnt before died with a rank, and nobody claims it
            self.assertEqual([(e["epoch"], e["samples"]) for e in event(run, "epoch")], [(1, 320), (1, known), (2, 800)])

    def stopped(self, how, *words, prefix=(), status=None, rows=4000):
        """The run, asked to stop in its only epoch, and where it did."""
        run = new_run()
        loud = [word for word in job(*words, "--metrics-every", "2", data=clicks(rows=rows), run=run, epochs=1)
                if word != "--quiet"]
        process = subprocess.Popen([*prefix, TANDEM, *loud], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=dict(os.environ, TANDEM_FAKE_SLOW="0:60,1:30,2:20"))
        while not (os.path.exists(os.path.join(run, "metrics.jsonl")) and metrics(run)):
            self.assertIsNone(process.poll())
        process.send_signal(how)
        err = process.communicate(timeout=100)[1]
        self.assertEqual(process.returncode, status or 128 + how, (words, err))
        step = self.kept(run)[-1]
        if not prefix:  # mpiexec may end rank 0 when another has ended
            self.assertIn(f'stopped after step {step}; "tandem train --run {run} --resume" goes on', err)
        self.assertTrue(0 < step < -(-rows // 64), step)
        return run, step

    def test_stopped(self):
        """At a step with all of it pushed."""
        for how, words in ((signal.SIGTERM, fed(3, 2, servers=1, clock="asp")),
                           (signal.SIGINT, fed(3, 1, "--checkpoint-every", "5", servers=2, clock="ssp:1")),
                           (signal.SIGTERM, fed(3, 2, "--checkpoint-every", "2", clock="backup:2:apply")),
                           (signal.SIGTERM, ["--strategy", "hogwild", "--bits", "12", "--workers", "3", "--data-servers", "1"]),
                           (signal.SIGTERM, ["--strategy", "downpour", "--workers", "3", "--data-servers", "2"]),
                           (signal.SIGTERM, ["--strategy", "easgd", "--workers", "3", "--data-servers", "1"]))[:2 if SHORT else 6]:
            run, step = self.stopped(how, *words)
            so_far = self.so_far(run, step)
            tandem("train", "--run", run, "--resume", "--quiet", "--workers", "4")
            self.rest(run, step, so_far, rows=4000)

    @unittest.skipUnless(MPIEXEC, "no mpiexec")
    def test_processes_stopped(self):
        for clock, servers in (("ssp:1", 0),) if SHORT else (("ssp:1", 0), ("asp", 1)):
            words = ps(1, "--data-servers", "2", servers=servers, clock=clock)
            run, step = self.stopped(signal.SIGUSR2, *words, prefix=ranks(5 + servers), status=143)
            so_far = self.so_far(run, step)
            tandem("train", "--run", run, "--resume", "--quiet", prefix=ranks(4 + servers))
            self.rest(run, step, so_far, rows=4000)

    def test_other_strategies(self):
        for strategy in (["hogwild", "--bits", "12"], ["downpour"], ["easgd", "--servers", "1"]):
            run = train("--strategy", *strategy, "--workers", "3", "--data-servers", "2", "--checkpoint-every", "5",
                        "--keep-checkpoints", "9", data=clicks(rows=self.ROWS))
            self.assertEqual(each_once(run), [(self.ROWS, True)] * 2, strategy)
            so_far = self.so_far(run, 5)
            self.go_on_from(run, 5)
            self.rest(run, 5, so_far, epochs=2)

    def test_hot_servers_are_found_in_the_first_epoch(self):
        """Behind a 16th of it; by one worker with the same rows as where nothing moves."""
        data, words = clicks(rows=2000), ["--optimizer", "adagrad", "--bits", "4", "--batch", "4"]
        for more in ([], ["--replicas", "1"]):
            want = train(*fed(1, 1, *words, *more, servers=3, clock="asp"), data=data, epochs=1)
            run = train(*fed(1, 1, *words, *more, "--balance", servers=3, clock="asp"), data=data, epochs=1)
            self.assertEqual(event(run, "balanced")[0]["step"], 31)
            self.assertEqual(rows_of(os.path.join(run, "model")), rows_of(os.path.join(want, "model")))
            self.assertEqual(each_once(run), [(2000, True)])
        run = train(*fed(3, 2, *words, "--balance", servers=3, clock="ssp:2"), data=data)
        self.assertEqual(event(run, "balanced")[0]["step"], 31)
        self.assertEqual(each_once(run), [(2000, True)] * 2)

    def lives(self, plan, *words, spares=0, rows=ROWS, **how):
        run = new_run()
        done = subprocess.run([TANDEM, *job(*words, "--spares", str(spares), run=run, data=clicks(rows=rows), **how)], text=True,
                              capture_output=True, timeout=100, env=dict(os.environ, TANDEM_FAKE_DEATH=plan))
        self.assertEqual(done.returncode, how.pop("expect", 0), (plan, words, spares, done.stderr))
        self.err = done.stderr
        return run

    def test_whoever_dies_behind_a_checkpoint(self):
        """Ranks are workers 0 to 2, servers 3 and 4, data servers 5 and 6: where they meet within an epoch, or on their
        way from there."""
        shards = 2 * 3 * 16
        for clock in ("asp",) if SHORT else ("asp", "ssp:2"):
            words = fed(3, 2, "--checkpoint-every", "6", "--replicas", "1", servers=2, clock=clock)
            for plan, known in (("1:6:leave", True), ("5:6:leave", True), ("3:6:leave", True), ("1:6:meet", True),
                                ("6:12:meet", True), ("4:6:meet", True), ("0:6:leave", True), ("3:12:leave", True),
                                ("2:12:leave,6:6:leave", True), ("6:18:leave,0:24:meet", True), ("0:6:meet,5:12:leave", True),
                                ("1:6:meet,5:6:meet", None), ("1:9:backward,5:6:leave", None))[::3 if SHORT else 1]:
                for spares in (0, 2):
                    run = self.lives(plan, *words, spares=spares)
                    once = [e for _, e in each_once(run)]
                    self.assertEqual(len(once), 2, (plan, spares))
                    # None: a worker and a data server died at once, and what both knew with them.
                    self.assertIn(once, [[True, True]] if known else [[True, True], [None, True]], (plan, spares))
                    self.assertEqual({n for n, e in each_once(run) if e}, {self.ROWS}, (plan, spares))
                    died = sorted(rank for e in event(run, "recovered") for rank in e["died"])
                    if "backward" not in plan:
                        self.assertEqual(died, sorted(int(at[0]) for at in plan.split(",")), (plan, spares))
                    # At both servers: none is made twice, but where nobody knows, of those begun since all last met; of those
                    # that met a loss a server may count one less.
                    pushes, lost = event(run, "tables")[0]["pushes"], {3, 4} & set(died)
                    twice = 2 * 3 * 6 if "backward" in plan and None in once else 0
                    self.assertTrue((0 if lost else 2 * shards - 12) <= pushes <= 2 * shards + twice, (plan, spares, pushes))

    def test_too_few_workers(self):
        """They stop with a checkpoint, behind all that the dead one had begun."""
        for clock in ("asp", "ssp:2"):
            words = fed(3, 2, "--checkpoint-every", "6", "--replicas", "1", "--min-workers", "3", servers=2, clock=clock)
            for plan in ("1:4:backward", "1:1:update", "1:6:leave", "2:6:meet", "1:12:backward")[::2 if SHORT else 1]:
                run, done = new_run(), None
                done = subprocess.run([TANDEM, *job(*words, run=run, data=clicks(rows=self.ROWS), epochs=1)], text=True,
                                      capture_output=True, timeout=100,
                                      env=dict(os.environ, TANDEM_FAKE_DEATH=plan, TANDEM_FAKE_SLOW="0:20,2:20"))
                self.assertEqual(done.returncode, 1, (plan, done.stderr))
                step = int(re.search(r"2 workers are left, fewer than --min-workers 3: stopped after step (\d+);", done.stderr)[1])
                self.assertEqual(self.kept(run)[-1], step)
                so_far = self.so_far(run, step)
                tandem("train", "--run", run, "--resume", "--quiet", "--workers", "2", "--min-workers", "1")
                if step < 16:
                    self.rest(run, step, so_far)


class Networks(unittest.TestCase):
    """Of networks, at their own pace, as of other models: each sample once an epoch."""

    def test_nothing_is_left_unpushed(self):
        """A worker that is dealt shards does not know which step is its last: it pushes when there are no more."""
        for strategy in ("downpour", "easgd"):
            words = ["--strategy", strategy, "--push-every", "1000", "--workers", "3", "--servers", "1", "--data-servers", "1"]
            run = train(*words, model="linear", data=clicks(rows=4000))
            self.assertGreaterEqual(event(run, "tables")[0]["pushes"], 2 * 3, strategy)

    def test_each_sample_once(self):
        for words in (["ps", "--clock", "asp", "--servers", "1"], ["ps", "--clock", "ssp:2"], ["ps", "--clock", "backup:2"],
                      ["hogwild"], ["downpour"], ["easgd", "--servers", "1"])[::2 if SHORT else 1]:
            run = train("--strategy", *words, "--workers", "2", "--data-servers", "1", model="mlp", epochs=3,
                        data=clicks(rows=1000))
            self.assertEqual(each_once(run), [(1000, True)] * 3, words)
            losses = [e["progressive_loss"] for e in event(run, "epoch")]
            self.assertLess(losses[-1], losses[0], words)


@unittest.skipUnless(MPIEXEC, "no mpiexec")
class Fed(unittest.TestCase):
    """Ranks that data servers read for have no training data."""

    def only_at(self, reader, n, *words, data, expect=0, plan="", **how):
        """The run; ranks below `reader` are told of a file that is not there."""
        run = new_run()
        command = job(*words, data="/no/such.tsv", run=run, **how)
        dealt = f'[ "$OMPI_COMM_WORLD_RANK" -lt {reader} ] || set -- "$@" --data {data}; exec "$@"'
        done = tandem(*command, prefix=(*recovering(n), "sh", "-c", dealt, "sh"), expect=expect,
                      env={"TANDEM_FAKE_DEATH": plan})
        return done.stderr if expect else run

    def test_workers_have_no_data(self):
        for model, form, clock in (("fm", "tsv", "asp"), ("dlrm", "tsv", "bsp"), ("mlp", "tsv", "bsp"), ("mlp", "tsv", "asp"),
                                   ("linear", "libsvm", "bsp"), ("ffm", "libffm", "asp"))[4 if SHORT else 0:]:
            words = fed(1, 1, servers=1, clock=clock)
            run = self.only_at(2, 3, *words, data=clicks(form), model=model)
            # By one worker, in the order that threads read in.
            want = train(*words, data=clicks(form), model=model)
            self.assertEqual(weights(run), weights(want), model)
            self.assertEqual([e["checksum"] for e in event(run, "epoch")], [e["checksum"] for e in event(want, "epoch")])
            for a in (run, want):
                tandem("eval", "--run", a, "--data", clicks(form))
        tandem("train", "--run", run, "--resume", "--epochs", "3", "--quiet", "--data", clicks(form), prefix=ranks(3))
        self.assertEqual(weights(run), weights(train(*words, data=clicks(form), model=model, epochs=3)))

    @unittest.skipUnless(ULFM, "MPI cannot go on without a rank")
    def test_whoever_dies(self):
        """Of workers 0 and 1, servers 2 and 3, data servers 4 and 5; 6 is a spare."""
        words = fed(1, 2, "--replicas", "1", "--spares", "1", servers=2)
        for model, plan in (("fm", "4:3:backward"), ("mlp", "1:3:backward,5:9:reduce"), ("dlrm", "2:4:update"))[::2 if SHORT else 1]:
            want = train(data=clicks(), model=model)
            self.assertEqual(weights(self.only_at(4, 7, *words, data=clicks(), model=model, plan=plan)), weights(want), plan)

    def test_mistakes(self):
        done = tandem(*job(*fed(1, 3)), prefix=ranks(2), expect=2)
        self.assertEqual(done.stderr.count("tandem: --data-servers 3 leaves no worker of the job's 2 ranks"), 1, done.stderr)
        words = fed(1, 1, servers=1, clock="asp")
        for data, text in (("/no/such/either.tsv", "/no/such/either.tsv"),
                           (write("text.tsv", "label\ta\n1\tx\nb\ty\nc\tz\n"), "needs two classes")):
            told_ = self.only_at(2, 3, *words, "--loss", "binary", data=data, expect=2)
            self.assertEqual((told_.count("tandem: "), told_.count(text)), (1, 1), told_)


if __name__ == "__main__":
    main()
