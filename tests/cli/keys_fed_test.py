#!/usr/bin/env python3
"""Training-data servers: in step the bytes of workers that read for themselves, whoever dies, comes or goes;
workers without the data; networks at their own pace."""
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from harness import MPIEXEC, SHORT, TANDEM, main, metrics, new_run, ranks, tandem  # noqa: E402
from keys import ULFM, clicks, event, job, ps, recovering, told, train, weights, write  # noqa: E402


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
        """What is told of a part of an epoch is no proof."""
        words = fed(2, 1, "--checkpoint-every", "3", servers=1)
        for model in ("fm", "mlp"):
            run, want = train(*words, "--steps", "10", model=model), train(model=model, epochs=3)
            tandem("train", "--run", run, "--resume", "--quiet", "--steps", "0", "--epochs", "3")
            self.assertEqual(weights(run), weights(want), model)
            self.assertEqual([once for _, once in each_once(run)], [True, None, None, True])

    def test_not_from_within_an_epoch_at_their_own_pace(self):
        run = train(*ps(2, "--checkpoint-every", "3", servers=1, clock="asp"), "--steps", "9")
        done = tandem("train", "--run", run, "--resume", "--steps", "0", "--data-servers", "1", "--checkpoint-every", "0",
                      expect=2)
        self.assertIn("the run goes on from step 9, within an epoch, and data servers at a clock other than bsp deal out "
                      "whole epochs; resume it without --data-servers up to --steps 14", done.stderr)
        tandem("train", "--run", run, "--resume", "--quiet", "--steps", "14")
        tandem("train", "--run", run, "--resume", "--quiet", "--steps", "0", "--epochs", "3", "--data-servers", "1",
               "--checkpoint-every", "0")
        self.assertEqual(each_once(run)[-1], (400, True))

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
