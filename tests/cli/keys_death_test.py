#!/usr/bin/env python3
"""Deaths of ranks of models whose parameters live in tables: in step the same bytes as without; at other
clocks, and from data servers, every step and every sample."""
import os
import random
import re
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from harness import SHORT, TANDEM, main, metrics, new_run, tandem  # noqa: E402
from keys import SOME, ULFM, clicks, event, job, ps, recovering, rows_of, told, train, weights, write  # noqa: E402
from processes import processes_of  # noqa: E402


def each_once(run):
    return [(line["samples"], line["each_once"]) for line in event(run, "epoch")]


class ThreadDeaths(unittest.TestCase):
    """At chosen points, of ranks that are threads."""

    def lives(self, want, plan, *words, spares=0, fill="0", **how):
        run = new_run()
        done = subprocess.run([TANDEM, *job(*words, "--spares", str(spares), run=run, **how)], text=True,
                              capture_output=True, timeout=60,
                              env=dict(os.environ, TANDEM_FAKE_DEATH=plan, MALLOC_PERTURB_=fill))
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
            plans = ["1:3:backward", "4:4:reduce", "0:5:update", "3:5:evaluate", "0:5:evaluate",
                     "2:2:reduce,3:6:update", "0:3:reduce,1:3:recover", "1:5:checkpoint", "0:10:end:alarm"]
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

    def test_rows_beyond_memory(self):
        """A server writes its rows behind a death, too, whatever its number is by then."""
        how = {"data": clicks(rows=1000, categories=3000), "epochs": 2}
        want = train("--optimizer", "adagrad", **how)
        for plan, spares in (("0:5:update", 0), ("3:5:update", 1)):
            words = ps(3, "--replicas", "1", "--table-memory", "524288", servers=2)
            run = self.lives(None, plan, *words, "--optimizer", "adagrad", spares=spares, **how)
            self.assertEqual(rows_of(os.path.join(run, "model")), rows_of(os.path.join(want, "model")), plan)

    def test_at_their_own_pace(self):
        for clock in ("asp", "ssp:2") if SHORT else ("asp", "ssp:2", "backup:2", "groups:2:1:3"):
            for plan in ("1:3:backward", "0:5:update", "3:5:evaluate", "2:2:backward,0:6:update"):
                for spares in (0, 2):
                    run = self.lives(None, plan, *ps(3, "--replicas", "1", servers=2, clock=clock), "--holdout", "0.2",
                                     spares=spares)
                    self.assertEqual(metrics(run)[-1]["step"], 10)

    def test_between_the_pushes_of_two_tables(self):
        """A network's part of a step is pushed behind a loss as it was computed."""
        for k in range(3 if SHORT else 8):
            run = self.lives(None, f"1:{4 + k}:backward,2:{24 + k}:backward", *ps(4, "--replicas", "1", clock="asp"),
                             fill="165", data=clicks(rows=1500, categories=1000), model="dlrm")
            self.assertLess(event(run, "epoch")[-1]["progressive_loss"], 1)

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
        shards = 2 * 3 * -(-4000 // 64)
        for model, clock in (("fm", "asp"),) if SHORT else (("fm", "asp"), ("linear", "ssp:2")):
            words = ps(3, "--data-servers", "2", "--replicas", "1", servers=2, clock=clock)
            for plan in ("1:3:backward,0:50:update", "2:20:backward", "1:3:update,0:66:backward"):
                for spares in (1,) if SHORT else (0, 1):
                    run = self.lives(None, plan, *words, spares=spares, data=clicks(rows=4000), model=model)
                    self.assertEqual(each_once(run), [(4000, True)] * 2, (plan, spares))
                    # At both servers: none is made twice; of those that met a loss a server may count one less.
                    pushes = event(run, "tables")[0]["pushes"]
                    self.assertTrue(2 * shards - 12 <= pushes <= 2 * shards, (pushes, shards))

    def test_in_shared_memory(self):
        """Who follows a dead worker makes the steps that are left of its epoch; without a spare the others have its
        part from where they are. What it had counted is lost with it."""
        how = {"data": clicks(rows=4000), "epochs": 3}
        for model in ("fm",) if SHORT else ("fm", "dlrm", "mlp"):
            words = ["--strategy", "hogwild", "--workers", "3", "--holdout", "0.2"]
            words += ["--bits", "12"] if model in SOME else []
            for plan in ("1:40:backward", "0:30:update", "0:2:evaluate", "2:2:backward,0:60:update"):
                for spares in (0, 2):
                    run = self.lives(None, plan, *words, spares=spares, model=model, **how)
                    self.assertEqual(metrics(run)[-1]["step"], 150)
                    counts = each_once(run)
                    self.assertIn((3200, True), counts)
                    if plan == "1:40:backward" and spares:  # 39 steps of a third of 64 samples, in whole leaves
                        self.assertTrue(39 * 20 <= 3200 - counts[0][0] <= 40 * 24, counts)
                    self.assertLess(event(run, "epoch")[-1]["progressive_loss"],
                                    event(run, "epoch")[0]["progressive_loss"])
        words = ["--strategy", "hogwild", "--bits", "12", "--workers", "2", "--data-servers", "2"]
        for plan in ("1:20:backward", "3:60:backward", "0:20:update"):
            for spares in (0, 1):
                self.lives(None, plan, *words, spares=spares, **how)

    def test_before_the_first_step_of_a_resumption(self):
        """Nobody goes on with tables that have not been read: the run is as it was, and is started again."""
        for words in (ps(2, "--replicas", "1", servers=2), ["--strategy", "hogwild", "--workers", "4"]):
            want = train(*words, "--bits", "12", epochs=3)
            run = train(*words, "--bits", "12", epochs=2)
            again = [TANDEM, "train", "--run", run, "--resume", "--epochs", "3", "--quiet"]
            for victim in range(0, 4, 3 if SHORT else 1):
                done = subprocess.run([*again, "--spares", "1"], text=True, capture_output=True, timeout=60,
                                      env=dict(os.environ, TANDEM_FAKE_DEATH=f"{victim}:1:begin"))
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn("ranks died before the first step; start the run again", done.stderr)
            subprocess.run(again, check=True, timeout=60)
            if "hogwild" not in words:
                self.assertEqual(weights(run), weights(want))

    def test_in_the_first_step_behind_a_resumption(self):
        """Who follows goes on where the run was resumed, also when the dead worker had made no step since."""
        for model, more in (("fm", ["--bits", "12"]), ("mlp", [])):
            words = ["--strategy", "hogwild", "--workers", "2", "--holdout", "0.2", *more]
            data = clicks(rows=4000)
            run = train(*words, model=model, data=data)
            done = subprocess.run([TANDEM, "train", "--run", run, "--resume", "--epochs", "3", "--spares", "1",
                                   "--quiet"], text=True, capture_output=True, timeout=60,
                                  env=dict(os.environ, TANDEM_FAKE_DEATH="1:101:backward"))
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(len(event(run, "recovered")), 1)
            self.assertEqual([line["weight"] for line in event(run, "epoch")], [3200] * 3, model)

    def test_a_successor_that_all_wait_for(self):
        """What its predecessor owes is a step of the predecessor's: its own clock would wait for that push."""
        words = ps(3, "--data-servers", "2", "--replicas", "1", "--deadline", "2", servers=2, clock="backup:3")
        for _ in range(2 if SHORT else 8):
            run = self.lives(None, "0:30:backward", *words, spares=2, data=clicks(rows=4000), epochs=1)
            self.assertEqual(each_once(run), [(4000, True)])
            self.assertEqual(len(event(run, "recovered")), 1)


class Sizes(unittest.TestCase):
    """tandem resize, of a run that is under way; rows move with its ranks."""

    def test_another_number_of_threads(self):
        want, run = train(epochs=30), new_run()
        process = subprocess.Popen([TANDEM, *job(*ps(2, "--spares", "1", "--replicas", "1"), run=run, epochs=30)], text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=dict(os.environ, TANDEM_FAKE_SLOW="0:4"))
        end = time.monotonic() + 30
        while not os.path.exists(os.path.join(run, "metrics.jsonl")) and time.monotonic() < end:
            time.sleep(0.01)
        for n in ("3", "2"):
            self.assertRegex(tandem("resize", run, n).stdout, rf"^the run goes on with {n} ranks from step \d+\n$")
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, out + err)
        self.assertEqual([line["workers"] for line in event(run, "resized")], [3, 2])
        self.assertEqual(weights(run), weights(want))


@unittest.skipUnless(ULFM, "no MPI that recovers")
class Kills(unittest.TestCase):
    """SIGKILL at any moment, of processes."""

    def run_and_kill(self, victims, *words, n, spares=0, epochs=30, **how):
        chance, run = random.Random(repr((victims, words))), new_run()
        other = how.pop("astray", None)  # (rank, data that it reads)
        hosts = {"TANDEM_FAKE_HOSTS": how.pop("hosts", "0")}
        room = how.pop("room", None)  # of /dev/shm
        if "hogwild" not in words:
            words = (*words, "--replicas", "1")
        command = [*recovering(n + spares), TANDEM,
                   *job(*words, "--spares", str(spares), "--holdout", "0.2", run=run, epochs=epochs, **how)]
        if other:
            dealt = f'[ "$OMPI_COMM_WORLD_RANK" != {other[0]} ] || set -- "$@" --data {other[1]}; exec "$@"'
            program = command.index(TANDEM)
            command[program:program] = ["sh", "-c", dealt, "sh"]
        if room:
            command = ["unshare", "--mount", "sh", "-ec", f'mount -t tmpfs -o size={room} tmpfs /dev/shm; exec "$@"', "sh",
                       *command]
        process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=dict(os.environ, TANDEM_FAKE_SLOW="0:8", **hosts))
        end = time.monotonic() + 60
        while not os.path.exists(os.path.join(run, "metrics.jsonl")) and time.monotonic() < end and process.poll() is None:
            time.sleep(0.01)
        for victim in victims:
            time.sleep(chance.uniform(0.05, 0.3))
            pid = processes_of(run, TANDEM).get(victim)
            while not pid and process.poll() is None:  # /proc may be read just when a rank begins
                pid = processes_of(run, TANDEM).get(victim)
            if pid:
                os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=100)
        if room and re.search("(unshare|mount): .*permi(tted|ssion)", err):
            self.skipTest("may not mount")
        self.assertEqual(process.returncode, 0, out + err)
        self.err = err
        return run

    def test_who_waits_for_a_stopped_server_is_told(self):
        """In whatever a worker asks of it, at its own pace, also one that has come for another; when the server goes on,
        so does the run, which ends when it is told to, however long that took to see."""
        for plan, n, waits in (("", 4, 0), ("1:5:backward", 5, 4))[:2 if ULFM else 1]:  # the slow one does
            run = new_run()
            words = ps(1, "--replicas", "1", "--spares", str(n - 4), servers=2, clock="asp")
            command = [*recovering(n), TANDEM, *job(*words, run=run, epochs=1000, data=clicks(rows=6000))]
            process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       env=dict(os.environ, TANDEM_FAKE_SLOW=f"{waits}:8", TANDEM_FAKE_DEATH=plan))
            self.addCleanup(process.terminate)
            end = time.monotonic() + 60
            begun = [os.path.join(run, name) for name in ("metrics.jsonl", f"recorder/rank-{waits}", "recorder/rank-3")]
            while time.monotonic() < end and not (all(map(os.path.exists, begun))
                                                  and len(event(run, "recovered")) == bool(plan)):
                time.sleep(0.01)
            self.assertNotIn("has not come", tandem("diagnose", run).stdout)  # servers wait where all meet
            server = processes_of(run, TANDEM)[3]
            text, end = "", time.monotonic() + 20
            says = f"rank {waits} waits in (push|pull) .* for rank 3, .* stopped"
            # Else it was at an epoch's end, or on its way from there to where servers wait.
            while (not re.search(says, text) or "has not come" in text) and time.monotonic() < end:
                os.kill(server, signal.SIGSTOP)
                try:
                    time.sleep(0.1)
                    text = tandem("diagnose", run).stdout
                finally:
                    os.kill(server, signal.SIGCONT)
                time.sleep(0.05)
            self.assertRegex(text, says)
            self.assertNotIn("has not come", text)
            process.send_signal(signal.SIGUSR2)  # mpiexec passes it on
            _, err = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 143, err)
            self.assertNotEqual(os.listdir(os.path.join(run, "checkpoints")), [])

    def test_a_spare_with_other_data(self):
        """It leaves before it has any part in the run; the next one comes."""
        with open(clicks()) as f:
            lines = f.readlines()
        other = write("strange.tsv", "".join([*lines[:7], "1" + lines[8][1:], "0" + lines[7][1:], *lines[9:]]))
        for clock in ("bsp", "asp"):
            for _ in range(5):
                run = self.run_and_kill([0], *ps(1, servers=2, clock=clock), n=4, spares=2, astray=(4, other))
                self.assertEqual(metrics(run)[-1]["step"], 30 * 5)
                if clock == "bsp":
                    self.assertEqual(weights(run), weights(train("--holdout", "0.2", epochs=30)))
                if "leaves the run" in self.err:  # else rank 5 was there before
                    break
            self.assertEqual(self.err.count("rank 4 leaves the run: it reads other training data in"), 1, self.err)

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

    def test_in_shared_memory(self):
        words = ["--strategy", "hogwild", "--bits", "12"]
        for victims, spares in (([1], 0), ([2, 0], 1)):
            run = self.run_and_kill(victims, *words, n=3, spares=spares)
            self.assertEqual(metrics(run)[-1]["step"], 30 * 5)
            came = [line["came"] for line in event(run, "recovered")]
            self.assertEqual(sorted(came), [[], [3]][-len(came):] if spares else [[]], came)
            self.assertTrue(rows_of(os.path.join(run, "model")))
        run = self.run_and_kill([1], *words, n=3, spares=2, hosts="0,0,0,1,0")
        self.assertIn("rank 3 leaves the run: --strategy hogwild is for the workers of one machine", self.err)
        self.assertEqual(event(run, "recovered")[-1]["came"][-1:], [4])

    def test_without_memory_for_a_spare_to_share(self):
        run = self.run_and_kill([1], "--strategy", "hogwild", "--bits", "20", "--factors", "4", n=3, spares=1, room="60m",
                                epochs=10)
        self.assertIn("rank 3 leaves the run: there is no memory into which --strategy hogwild could copy", self.err)
        self.assertEqual(event(run, "recovered")[-1]["workers"], 2)
        self.assertTrue(rows_of(os.path.join(run, "model")))

    def test_data_servers(self):
        words, within = ps(1, "--data-servers", "2", servers=2, clock="asp"), ["--checkpoint-every", "7"]
        for victims, more in [([0, 5], within)] if SHORT else [([1], []), ([4], within), ([5, 0], within), ([5, 0], []), ([0, 1], [])]:
            run = self.run_and_kill(victims, *words, *more, n=6, spares=1, data=clicks(rows=4000), epochs=8)
            samples = 3200  # the rest is held out
            for count, once in each_once(run):
                # None: a worker and a data server died at once, and what both knew with them.
                self.assertTrue(once or (once is None and len(victims) > 1), (victims, each_once(run)))
                self.assertEqual(count if once else samples, samples)
            self.assertEqual(len(each_once(run)), 8)

    def test_data_servers_in_step(self):
        """Of the two that read, one or a worker with it; bytes stay."""
        want = train("--holdout", "0.2", epochs=30)
        for victims in [[4, 0]] if SHORT else [[5], [4, 0], [1, 5]]:
            run = self.run_and_kill(victims, *ps(1, "--data-servers", "2", servers=2), n=6, spares=1)
            self.assertEqual(weights(run), weights(want), victims)

    def test_what_is_lost_is_told(self):
        """By each rank that is left, as mpiexec may end the others when the first does: rows that nobody has, shards
        that nobody deals out."""
        for text, words, victim in (("is lost: it was at rank 3, and no other rank has it", [], 3),
                                    ("no data server is left", ["--data-servers", "1", "--replicas", "1"], 4)):
            run = new_run()
            n = victim + 1
            done = subprocess.run([*recovering(n), TANDEM, *job(*ps(1, *words, servers=2, clock="asp"), "--holdout", "0.2",
                                                                run=run)],
                                  text=True, capture_output=True, timeout=60,
                                  env=dict(os.environ, TANDEM_FAKE_DEATH=f"{victim}:5:evaluate"))
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(f'{text}; "tandem train --run {run} --resume" goes on from the newest checkpoint', done.stderr)


if __name__ == "__main__":
    main()
