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
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ, **SLOW, **env))
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
        for model in ("fm", "dlrm"):
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
        self.ask(run, "--servers 0", (2, 0, 0))
        self.assertEqual(weights(run.end()), weights(want))

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
        run = threads(2, "--data-servers", "1", "--replicas", "1", servers=2, spares=3, clock="asp", epochs=60)
        self.ask(run, "--data-servers 3", (2, 2, 3))
        self.ask(run, "7 --servers 3 --data-servers 1", (3, 3, 1))
        self.ask(run, "5 --servers 2", (2, 2, 1))
        self.ask(run, "--data-servers 2 --servers 3", (2, 3, 2))
        samples = [(e["samples"], e["each_once"]) for e in event(run.end(), "epoch")]
        self.assertEqual(samples, [(400, True)] * 60)


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

    def resize_at(self, step, plan, ask, words, spares, clock="bsp", **how):
        """The run stops in that step until it is asked, so that it changes behind it, or at the meeting there."""
        run = threads(3, *words, servers=3, spares=spares, clock=clock, epochs=4,
                      env={"TANDEM_FAKE_DEATH": f"0:{step}:backward:stop,{plan}"}, **how)
        end = time.monotonic() + 60
        while state_of(run.process.pid) != "T" and time.monotonic() < end:
            time.sleep(0.005)
        asker = subprocess.Popen([TANDEM, "resize", run.run, *ask.split()], text=True, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT)
        while not os.path.exists(os.path.join(run.run, "resize")) and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(0.15)  # rank 0 looks for requests every tenth of a second
        run.process.send_signal(signal.SIGCONT)
        said = asker.communicate(timeout=100)[0]
        self.assertEqual(asker.returncode, 0, (plan, ask, said))
        run.end()
        return run.run, said

    def test_in_the_midst_of_it(self):
        """Whoever dies while ranks come, rows move and ranks go: the request is granted, and the bytes stay."""
        want = train(epochs=4)
        for ask, victims in (("8 --servers 4", (0, 1, 4, 6, 7)), ("6 --servers 4", (0, 2, 5)), ("6 --servers 2", (0, 3, 5)),
                             ("4 --servers 2", (0, 2, 3, 5))):
            for victim in victims:
                for more in ("",) if SHORT else ("", f",{2 if victim == 1 else 1}:9:recover"):
                    plan = f"{victim}:9:handover{more}"
                    run, said = self.resize_at(9, plan, ask, ["--replicas", "1"], 6)
                    self.assertIn(f"the run goes on with {ask[0]} ranks (", said)
                    self.assertEqual([e["step"] for e in event(run, "recovered") + event(run, "resized")], [9, 9], plan)
                    self.assertEqual(weights(run), weights(want), plan)


def state_of(pid):
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()[0]


if __name__ == "__main__":
    main()
