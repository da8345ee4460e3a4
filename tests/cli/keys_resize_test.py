#!/usr/bin/env python3
"""tandem resize of models over tables: servers, data servers and workers come into a run that is under way
and leave it. In step the bytes stay; at other clocks, and from data servers, every sample is learnt from once."""
import os
import re
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from harness import MPIEXEC, SHORT, TANDEM, main, metrics, new_run, ranks, tandem  # noqa: E402
from keys import ULFM, clicks, event, job, ps, recovering, train, weights  # noqa: E402
from processes import processes_of  # noqa: E402

SLOW = {"TANDEM_FAKE_SLOW": "0:4"}  # so that runs last until they have been asked


class Run:
    """One under way, to be asked for other numbers of ranks."""

    def __init__(self, *words, prefix=(), **how):
        env, self.run = how.pop("env", {}), new_run()
        self.process = subprocess.Popen([*prefix, TANDEM, *job(*words, run=self.run, **how)], text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env={**os.environ, **SLOW, **env})
        end = time.monotonic() + 60
        while not os.path.exists(os.path.join(self.run, "metrics.jsonl")) and time.monotonic() < end:
            if self.process.poll() is not None:
                self.end()
            time.sleep(0.01)

    def resize(self, *words, expect=0):
        done = tandem("resize", self.run, *map(str, words), expect=expect)
        return done.stdout if expect == 0 else done.stderr

    def end(self):
        out, err = self.process.communicate(timeout=100)
        if self.process.returncode != 0:
            raise AssertionError(out + err)
        return self.run

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=100)
        if self.process.returncode != 130:
            raise AssertionError(out + err)
        return self.run


def threads(workers, *words, servers=0, clock="bsp", spares=0, **how):
    return Run(*ps(workers, *words, "--spares", str(spares), servers=servers, clock=clock), **how)


class Resizes(unittest.TestCase):
    def ask(self, run, words, parts, more=False):
        """words: of the command; parts: workers, servers, data servers that the run goes on with."""
        said = run.resize(*words.split())
        names = [f"{n} {name}{'' if n == 1 else 's'}" for n, name in zip(parts, ("worker", "server", "data server"))
                 if n or name == "worker"]
        roles = f" \\({', '.join(names)}\\)" if len(names) > 1 else ""
        total = sum(parts)
        self.assertRegex(said, rf"^the run goes on with {total} rank{'' if total == 1 else 's'}{roles} from step \d+"
                               + (": there are no more" if more else "") + "\n$")
        return int(re.search(r"step (\d+)", said)[1])


class Threads(Resizes):
    def test_in_step(self):
        for model in ("fm",) if SHORT else ("fm", "dlrm"):
            want = train(epochs=60, model=model)
            run = threads(2, "--replicas", "1", servers=2, spares=3, epochs=60, model=model)
            self.ask(run, "--servers 4", (2, 4, 0))
            self.ask(run, "7", (3, 4, 0))
            self.ask(run, "6 --servers 2", (4, 2, 0))
            self.ask(run, "3", (1, 2, 0))
            self.ask(run, "7 --servers 5", (2, 5, 0))
            self.assertEqual(weights(run.end()), weights(want), model)
            self.assertEqual([(e["workers"], e["servers"]) for e in event(run.run, "resized")],
                             [(6, 4), (7, 4), (6, 2), (3, 2), (7, 5)])

    def test_parts_change_in_place(self):
        """Where there are no spares: who served works, and who worked serves; all may serve, or some alone."""
        want = train(epochs=60)
        run = threads(2, servers=2, epochs=60)
        self.ask(run, "4 --servers 1", (3, 1, 0))
        self.ask(run, "4 --servers 3", (1, 3, 0))
        self.ask(run, "4 --servers 0", (4, 0, 0))
        self.ask(run, "4 --servers 2", (2, 2, 0))
        self.ask(run, "--servers 3", (2, 2, 0), more=True)
        self.ask(run, "3", (1, 2, 0))  # the third, which could not be had, is not waited for
        self.ask(run, "--servers 0", (1, 0, 0))
        self.assertEqual(weights(run.end()), weights(want))
        self.assertEqual([(e["workers"], e["servers"], e["data_servers"]) for e in event(run.run, "resized")],
                         [(4, n, 0) for n in (1, 3, 0, 2, 2)] + [(3, 2, 0), (1, 0, 0)])

    def test_at_their_own_pace(self):
        """Each sample is learnt from once an epoch, whoever comes and goes in it."""
        for clock in ("asp", "ssp:2"):
            run = threads(2, "--checkpoint-every", "3", "--replicas", "1", servers=2, spares=3, clock=clock, epochs=60)
            self.ask(run, "--servers 4", (2, 4, 0))
            self.ask(run, "6 --servers 2", (4, 2, 0))
            self.ask(run, "3", (1, 2, 0))
            self.ask(run, "6 --servers 3", (3, 3, 0))
            samples = [(e["samples"], e["each_once"]) for e in event(run.end(), "epoch")]
            self.assertEqual(samples, [(400, True)] * 60, clock)
            self.assertEqual(metrics(run.run)[-1]["step"], 60 * 7)
            self.assertEqual(len(event(run.run, "resized")), 4)

    def test_data_servers(self):
        for more in ([], ["--checkpoint-every", "2"]):
            run = threads(2, "--data-servers", "1", "--replicas", "1", *more, servers=2, spares=3, clock="asp", epochs=60)
            self.ask(run, "--data-servers 3", (2, 2, 3))
            self.ask(run, "7 --servers 3 --data-servers 1", (3, 3, 1))
            self.ask(run, "5 --servers 2", (2, 2, 1))
            self.ask(run, "--data-servers 2 --servers 3", (2, 3, 2))
            samples = [(e["samples"], e["each_once"]) for e in event(run.end(), "epoch")]
            self.assertEqual(samples, [(400, True)] * 60, more)

    def test_a_run_that_is_resumed_has_its_own_numbers(self):
        want = train(epochs=60)
        run = threads(2, servers=2, spares=2, epochs=60)
        self.ask(run, "6 --servers 3", (3, 3, 0))
        run.stop()
        tandem("train", "--run", run.run, "--resume", "--quiet")
        self.assertEqual(weights(run.run), weights(want))

    def test_what_cannot_be_has_a_sentence(self):
        """And leaves the run as it was."""
        want = train(epochs=60)
        run = threads(2, "--replicas", "1", "--min-workers", "2", servers=2, spares=1, epochs=60)
        for words, text in (("3", "3 ranks leave 1 worker beside 2 that serve or read, and this job needs 2; ask"),
                            ("1", "1 rank leaves 0 workers beside 2 that serve or read, and this job needs 2; ask for 4"),
                            ("4 --servers 4", "4 ranks leave 0 workers beside 4 that serve or read"),
                            ("--servers 1", "--replicas 1 needs two servers or more; ask for --servers 2 at least"),
                            ("17", "17 ranks are more than the 16 leaves of a batch; ask for at most 16"),
                            ("--servers 15", "17 ranks are more than the 16 leaves of a batch"),
                            ("--data-servers 1", "the workers of this job read for themselves, to its end")):
            self.assertIn(text, run.resize(*words.split(), expect=2), words)
        self.assertEqual(weights(run.end()), weights(want))
        self.assertEqual(event(run.run, "resized"), [])
        run = threads(3, "--replicas", "1", spares=1, epochs=60)  # all of them serve
        self.assertIn("--replicas 1 needs two servers or more, and there is no rank for a second; ask for fewer workers",
                      run.resize("--servers", "2", expect=2))
        self.ask(run, "4 --servers 2", (2, 2, 0))
        self.assertEqual(weights(run.end()), weights(want))
        run = threads(3, "--data-servers", "1", servers=1, spares=1, clock="backup:3", epochs=60)
        for words, text in (("4", "--clock backup: 3 would be waited for of 2 workers"),
                            ("--data-servers 0", "ask for --data-servers 1 or more"),
                            ("--data-servers 65", "--data-servers must be 1 to 64, not 65")):
            self.assertIn(text, run.resize(*words.split(), expect=2), words)
        self.assertEqual(event(run.stop(), "resized"), [])
        run = Run("--workers", "2", model="mlp", epochs=3000)
        self.assertIn("all ranks of this job are workers; ask for their number alone, without --servers and --data",
                      run.resize("--servers", "1", expect=2))
        run.stop()
        run = Run("--strategy", "hogwild", "--bits", "10", "--workers", "2", epochs=3000)
        self.assertIn("--strategy hogwild keeps its workers", run.resize("3", expect=2))
        run.stop()

    def test_mistakes_of_the_command(self):
        for words, text in (("x --servers", '"" is no number of servers; write 0 to 1024'),
                            ("x --servers=two", '"two" is no number of servers'),
                            ("x --data-servers -1", '"-1" is no number of data servers; write 0 to 1024'),
                            ("x 2 3", 'resize: "3" is one word too many'),
                            ("x --workers 3", "resize: --workers is no option; there are --servers and --data-servers"),
                            ("--servers 2", "say which run and how many ranks: tandem resize RUN N, or how many")):
            self.assertIn(text, tandem("resize", *words.split(), expect=2).stderr)


def processes(workers, *words, servers=0, data_servers=0, clock="bsp", spares=0, prefix=ranks, **how):
    more = ["--data-servers", str(data_servers)] if data_servers else []
    return Run(*ps(1, *words, *more, "--spares", str(spares), servers=servers, clock=clock),
               prefix=prefix(workers + servers + data_servers + spares), **how)


@unittest.skipUnless(MPIEXEC, "no MPI")
class Processes(Resizes):
    def test_in_step(self):
        want = train(epochs=60)
        run = processes(2, servers=2, spares=2, epochs=60)
        self.ask(run, "--servers 3", (2, 3, 0))
        self.ask(run, "5 --servers 2", (3, 2, 0))
        self.ask(run, "3", (1, 2, 0))
        self.ask(run, "6 --servers 3", (3, 3, 0))
        self.assertEqual(weights(run.end()), weights(want))

    @unittest.skipUnless(ULFM, "no MPI that recovers")
    def test_a_server_is_killed_afterwards(self):
        """A spare that comes takes the part that is missing by the numbers that are asked for last."""
        want = train(epochs=90)
        run = processes(2, "--replicas", "1", servers=2, spares=3, prefix=recovering, epochs=90)
        self.ask(run, "5 --servers 3", (2, 3, 0))
        for victim in (4, 3):  # the one that has come, and one that was there
            os.kill(processes_of(run.run, TANDEM)[victim], signal.SIGKILL)
            end = time.monotonic() + 60
            while not any(victim in e["died"] for e in event(run.run, "recovered")) and time.monotonic() < end:
                time.sleep(0.02)
        self.ask(run, "4", (1, 3, 0))
        self.assertEqual(weights(run.end()), weights(want))
        self.assertEqual([(e["died"], e["workers"]) for e in event(run.run, "recovered")], [([4], 5), ([3], 5)])

    def test_data_servers(self):
        """Workers and servers have no training data, and cannot read: a spare comes for one that works."""
        run = processes(2, servers=1, data_servers=1, spares=2, clock="asp", epochs=60)
        self.ask(run, "--data-servers 2", (2, 1, 2))
        self.ask(run, "5 --servers 2 --data-servers 1", (2, 2, 1))
        self.ask(run, "5 --data-servers 2", (1, 2, 2))
        self.ask(run, "4 --servers 1", (1, 1, 2))
        self.ask(run, "6 --data-servers 1", (4, 1, 1))
        samples = [(e["samples"], e["each_once"]) for e in event(run.end(), "epoch")]
        self.assertEqual(samples, [(400, True)] * 60)


class Deaths(Resizes):
    """Beside a resize, of threads at chosen points."""

    def await_stop(self, run):
        """False: it has ended instead."""
        end = time.monotonic() + 60
        while state_of(run.process.pid) not in "TZ" and time.monotonic() < end:
            time.sleep(0.005)
        return state_of(run.process.pid) == "T"

    def ask_stopped(self, run, ask):
        """Asks a run that has stopped; it goes on when it has been asked."""
        end = time.monotonic() + 60
        asker = subprocess.Popen([TANDEM, "resize", run.run, *ask.split()], text=True, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT)
        while not os.path.exists(os.path.join(run.run, "resize")) and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(0.15)  # rank 0 looks for requests every tenth of a second
        run.process.send_signal(signal.SIGCONT)
        return asker

    def resize_at(self, stop, plan, ask, *words, clock="bsp", **how):
        """The run stops in that step of rank 0 until it is asked; it changes behind it, or where all meet next. At its
        own pace rank 0 may be dealt nothing in an epoch, and has no such step then: another run."""
        for _ in range(5):
            run = threads(3, *words, servers=3, spares=6, clock=clock, epochs=4,
                          env={"TANDEM_FAKE_DEATH": f"0:{stop}:backward:stop,{plan}"}, **how)
            if self.await_stop(run):
                break
            run.end()
        asker = self.ask_stopped(run, ask)
        said = asker.communicate(timeout=100)[0]
        self.assertEqual(asker.returncode, 0, (plan, ask, said))
        self.assertIn(f"the run goes on with {ask[0]} ranks (", said)
        return run.end()

    def test_another_request_in_the_midst_of_it(self):
        """One is taken back when ranks have come for it; those that the next lacks come all the same."""
        want = train(epochs=4)
        run = threads(3, servers=3, spares=6, epochs=4,
                      env={"TANDEM_FAKE_DEATH": "0:9:backward:stop,0:9:handover:stop"})
        for ask in ("7", "9 --servers 4"):
            self.await_stop(run)
            asker = self.ask_stopped(run, ask)
            if ask == "7":
                time.sleep(0.1)  # until it stops again, with the ranks that came
                self.await_stop(run)
                asker.send_signal(signal.SIGINT)
                self.assertIn("is taken back", asker.communicate(timeout=60)[0])
        said = asker.communicate(timeout=100)[0]
        self.assertEqual(said, "the run goes on with 9 ranks (5 workers, 4 servers) from step 9\n")
        self.assertEqual(weights(run.end()), weights(want))

    def test_in_the_midst_of_it(self):
        """Whoever dies while ranks come, rows move and ranks go: the request is granted, and the bytes stay."""
        want = train(epochs=4)
        for ask, victims in (("8 --servers 4", (0, 1, 4, 6, 7)), ("6 --servers 4", (0, 2, 5)),
                             ("6 --servers 2", (0, 3, 5)), ("4 --servers 2", (0, 2, 3, 5))):
            for victim in victims:
                for more in ("",) if SHORT else ("", f",{2 if victim == 1 else 1}:9:recover"):
                    plan = f"{victim}:9:handover{more}"
                    run = self.resize_at(9, plan, ask, "--replicas", "1")
                    self.assertEqual([e["step"] for e in event(run, "recovered") + event(run, "resized")], [9, 9], plan)
                    self.assertEqual(weights(run), weights(want), plan)

    def test_in_the_midst_of_it_at_their_own_pace(self):
        for clock in ("asp",) if SHORT else ("asp", "ssp:1", "backup:2", "groups:2:1:3"):
            for ask, victims in (("8 --servers 4", (0, 4, 7)), ("4 --servers 2", (0, 2, 3, 5))):
                for victim in victims:
                    run = self.resize_at(8, f"{victim}:9:handover", ask, "--replicas", "1", "--checkpoint-every", "3",
                                         clock=clock)
                    self.assertEqual([e["step"] for e in event(run, "recovered") + event(run, "resized")], [9, 9])
                    self.assertEqual(metrics(run)[-1]["step"], 4 * 7)

    def test_in_the_midst_of_it_with_data_servers(self):
        """Where all meet, between two epochs or within one, so that each sample is learnt from once whoever dies: data
        servers are ranks 6 and 7."""
        for ask, victims in (("9 --data-servers 3", (0, 4, 7, 8)), ("6 --data-servers 1 --servers 2", (0, 3, 6, 7))):
            for victim in victims[::2] if SHORT else victims:
                for steps, more in ((-(-4000 // 64), []), (20, ["--checkpoint-every", "20"])):
                    run = self.resize_at(1, f"{victim}:{steps}:handover", ask, "--replicas", "1", "--data-servers", "2", *more,
                                         clock="asp", data=clicks(rows=4000))
                    self.assertEqual([e["step"] for e in event(run, "recovered") + event(run, "resized")], [steps] * 2)
                    samples = [(e["samples"], e["each_once"]) for e in event(run, "epoch")]
                    self.assertEqual(samples, [(4000, True)] * 4, (ask, victim, more))


def state_of(pid):
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()[0]


if __name__ == "__main__":
    main()
