#!/usr/bin/env python3
"""tandem run: what it starts, whom it asks, when it starts again and when it gives up. A script stands
for mpiexec where no rank is needed."""
import fcntl
import os
import signal
import subprocess
import sys
import time
import unittest

from harness import (DATA, MPIEXEC, SHORT, TANDEM, TOP, digest, listing, main, metrics, new_run,
                     newest_checkpoint, tandem, train)

# A job that writes down its words and does, the k-th time, what line k of `script` says.
FAKE = """#!/bin/sh
echo "$@" >> {top}/words
k=$(wc -l < {top}/words)
run={run}
mkdir -p $run
echo job > $run/job.$$ && mv $run/job.$$ $run/job.yaml
eval "$(sed -n ${{k}}p {top}/script)"
"""


ULFM = "--with-ft" in tandem("run", "--dry-run", "--", "train", "--data", "x", "--run", "y").stdout


def ranks_of(run):
    """Processes of the ranks: those that train in that folder and were not started from here."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().split(b"\0")
        except OSError:
            continue
        if words[1:2] == [b"train"] and run.encode() in words and words[0] == TANDEM.encode():
            found.append(int(pid))
    return found


class Mistakes(unittest.TestCase):
    def says(self, text, *words, code=2):
        done = tandem("run", *words, expect=code)
        self.assertIn(text, done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)

    def test_each_has_a_sentence(self):
        job = ["--", "train", "--data", DATA, "--run", new_run()]
        self.says('the job is missing: write it behind "--"')
        self.says("the job is missing", "--workers", "2", "train", "--run", "x")
        self.says('watches over "train", not "eval"', "--", "eval", "--run", "x")
        self.says("--run is missing", "--", "train", "--data", DATA)
        self.says("--data is missing", "--", "train", "--run", "x")
        self.says("did you mean --epochs?", "--", "train", "--epoch", "3")
        self.says("did you mean --hosts?", "--host", "a", *job)
        for bad, item in (("a:x", "a:x"), ("a,,b", ""), ("a:2,b:0", "b:0"), ("a:2,:3", ":3"),
                          ("-a", "-a"), ("a b", "a b"), ("a:1:2", "a:1:2"), ("a;b:2", "a;b:2")):
            self.says(f'"{item}" is not a host; write NAME or NAME:SLOTS', "--hosts", bad, *job)
        self.says("names a twice", "--hosts", "a:2,b,a:2", *job)
        self.says("--workers is for this machine", "--hosts", "a:2", "--workers", "2", *job)
        self.says("--workers 17 is more than the 16 leaves", "--workers", "17", *job)
        self.says("--spares 2 leaves no worker", "--hosts", "a,b", "--spares", "2", *job)
        self.says("--min-workers 3 is more than the 2", "--workers", "2", "--min-workers", "3", *job)
        self.says('cannot start "/no/such": No such file', "--mpiexec", "/no/such", *job)
        self.says("unexpected argument", "x", *job)
        self.assertFalse(os.path.exists(job[-1]))

    def test_hosts_that_do_not_answer_are_named_at_the_start(self):
        run = new_run()
        job = ["--", "train", "--data", DATA, "--run", run]
        began = time.monotonic()
        self.says("--hosts: nowhere1, nowhere2 do not answer", "--hosts", "nowhere1:2,localhost,nowhere2",
                  "--probe", "sleep 0.3; false", *job)
        self.says('--hosts: nowhere does not answer ("false nowhere ..." fails)', "--agent", "false",
                  "--hosts", "nowhere:2", *job)
        self.assertLess(time.monotonic() - began, 8)
        self.assertFalse(os.path.exists(run))


class Words(unittest.TestCase):
    def line(self, *words):
        done = tandem("run", "--dry-run", "--mpiexec", "mpirun -v", *words)
        self.assertEqual(done.stderr, "")
        return done.stdout.replace(" --with-ft ulfm", "")

    def test_the_command_line(self):
        run = os.path.join(TOP, "it's a run")
        job = ["--", "train", "--data", DATA, "--run", run]
        quoted = run.replace("'", "'\\''")
        tail = f"{TANDEM} train --data {DATA} --run '{quoted}'\n"

        def spare(n):  # where MPI cannot recover, they work
            return f"{tail[:-1]} --spares {n if ULFM else 0}\n"

        self.assertEqual(self.line("--workers", "3", *job),
                         f"mpirun -v --map-by :OVERSUBSCRIBE --bind-to none -n 3 {tail}")
        self.assertEqual(self.line("--workers", "3", "--spares", "1", *job),
                         f"mpirun -v --map-by :OVERSUBSCRIBE --bind-to none -n 4 {spare(1)}")
        self.assertEqual(self.line("--hosts", "a:2,b:2,c", "--spares", "1", *job),
                         "mpirun -v --host a:2,b:2,c:1 --map-by :OVERSUBSCRIBE --bind-to none -n 5 "
                         + spare(1))
        self.assertEqual(self.line("--workers", "3", "--min-workers", "2", *job),
                         f"mpirun -v --map-by :OVERSUBSCRIBE --bind-to none -n 3 {tail[:-1]} "
                         "--min-workers 2\n")
        self.assertEqual(self.line("--workers", "3", *job, "--spares", "2"),  # also behind the "--"
                         f"mpirun -v --map-by :OVERSUBSCRIBE --bind-to none -n 5 {tail[:-1]} --spares 2 "
                         f"--spares {2 if ULFM else 0}\n")
        self.assertEqual(self.line(*job, "--workers", "3"),
                         f"mpirun -v --map-by :OVERSUBSCRIBE --bind-to none -n 3 {tail[:-1]} --workers 3\n")
        self.assertEqual(self.line("--hosts", "a:20,b", "--agent", "my agent", *job),
                         "mpirun -v --prtemca plm_ssh_agent 'my agent' --host a:20,b:1 --map-by "
                         f":OVERSUBSCRIBE --bind-to none -n 16 {tail}")
        self.assertFalse(os.path.exists(run))


class Watching(unittest.TestCase):
    def setUp(self):
        self.run_folder = new_run()
        self.top = self.run_folder + ".fake"
        os.makedirs(os.path.join(self.top, "bin"))
        path = os.path.join(self.top, "bin", "mpiexec")
        with open(path, "w") as f:
            f.write(FAKE.format(top=self.top, run=self.run_folder))
        os.chmod(path, 0o755)

    def start(self, script, *words):
        with open(os.path.join(self.top, "script"), "w") as f:
            f.write("\n".join(script) + "\n")
        env = dict(os.environ, PATH=os.path.join(self.top, "bin") + ":" + os.environ["PATH"])
        return subprocess.Popen([TANDEM, "run", *words, "--", "train", "--data", DATA, "--run",
                                 self.run_folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, env=env)

    def watch(self, script, *words, expect):
        job = self.start(script, *words)
        out, err = job.communicate(timeout=60)
        self.assertEqual(job.returncode, expect, err)
        with open(os.path.join(self.top, "words")) as f:
            return err.splitlines(), f.read().replace("--with-ft ulfm ", "").splitlines()

    def test_a_job_that_ends_well_is_started_once(self):
        err, words = self.watch(["mkdir $run/model"], "--workers", "2", expect=0)
        self.assertEqual((err, len(words)), ([], 1))

    def test_a_mistake_is_not_repeated(self):
        err, words = self.watch(["exit 2"], expect=2)
        self.assertEqual(err, ["tandem: given up: the job ended by a mistake, which is told above"])
        self.assertEqual(len(words), 1)

    def test_nor_is_a_job_that_somebody_stopped(self):
        err, words = self.watch(["exit 143"], expect=143)
        self.assertEqual((err, len(words)), ([], 1))

    def test_it_is_resumed_and_given_up_without_progress(self):
        began = time.monotonic()
        err, words = self.watch(["exit 1", "kill -9 $$", "exit 1"], "--max-restarts", "2", expect=1)
        self.assertEqual(err, [
            "tandem: the job failed with status 1; restart 1 of 2 in 1 s on 1 here, from the beginning",
            "tandem: the job was ended by signal 9 (status 137); restart 2 of 2 in 2 s on 1 here, from "
            "the beginning",
            "tandem: the job failed with status 1; given up after 2 restarts without a newer checkpoint"])
        self.assertGreater(time.monotonic() - began, 3)
        self.assertTrue(words[0].endswith(f"train --data {DATA} --run {self.run_folder}"), words)
        for line in words[1:]:
            self.assertTrue(line.endswith(f"train --run {self.run_folder} --resume"), words)

    def test_progress_counts_anew(self):
        step = "mkdir -p $run/checkpoints/step-00000000{}; exit 1"
        err, words = self.watch([step.format(3), step.format(5), step.format(5), "mkdir $run/model"],
                                "--max-restarts", "1", "--workers", "2", expect=1)
        self.assertEqual([line.split("; ", 1)[1] for line in err],
                         ["restart 1 of 1 in 1 s on 2 here, from step 3",
                          "restart 1 of 1 in 1 s on 2 here, from step 5",
                          "given up after 1 restarts without a newer checkpoint"])

    def test_a_job_that_never_began_is_started_with_its_own_words(self):
        os.makedirs(self.run_folder)
        with open(os.path.join(self.run_folder, "job.yaml"), "w") as f:
            f.write("of an older run")
        err, words = self.watch(["exit 0", "mkdir $run/model"], expect=0)
        self.assertIn("the job ended without a model; restart 1", err[0])
        self.assertTrue(words[1].endswith("--resume"))
        path = os.path.join(self.top, "bin", "mpiexec")
        with open(path, "w") as f:  # that does not touch the folder
            f.write(f'#!/bin/sh\necho "$@" >> {self.top}/words\n[ -e {self.top}/again ] || '
                    f"{{ touch {self.top}/again; exit 7; }}\n")
        os.remove(os.path.join(self.top, "words"))
        err, words = self.watch([], expect=0)
        self.assertEqual(words[0], words[1])

    def test_it_goes_on_with_the_hosts_that_answer(self):
        probe = os.path.join(self.top, "probe")
        with open(probe, "w") as f:
            f.write(f"#!/bin/sh\n[ ! -e {self.top}/$1.lost ]\n")
        os.chmod(probe, 0o755)
        words = ["--hosts", "one:2,two:3,three:1", "--probe", probe, "--min-workers", "3"]
        err, lines = self.watch([f"touch {self.top}/two.lost; exit 1",
                                 f"rm {self.top}/two.lost; touch {self.top}/one.lost; exit 1",
                                 f"touch {self.top}/two.lost; exit 1"], *words, expect=1)
        self.assertEqual([line.split("; ", 1)[1] for line in err],
                         ["restart 1 of 5 in 1 s on one:2,three:1 left (two does not answer), from the "
                          "beginning",
                          "restart 2 of 5 in 2 s on two:3,three:1 left (one does not answer), from the "
                          "beginning",
                          "given up: one, two do not answer, and 1 workers are fewer than --min-workers 3"])
        hosts = [(w[w.index("--host") + 1], w[w.index("-n") + 1]) for w in map(str.split, lines)]
        self.assertEqual(hosts, [("one:2,two:3,three:1", "6"), ("one:2,three:1", "3"),
                                 ("two:3,three:1", "4")])

    def test_a_job_that_waits_for_a_lost_host_is_ended(self):
        """With what it has left, which holds its output open. A job that makes steps is let alone."""
        probe = os.path.join(self.top, "probe")
        with open(probe, "w") as f:
            f.write(f"#!/bin/sh\n[ ! -e {self.top}/$1.lost ]\n")
        os.chmod(probe, 0o755)
        stuck = f"touch {self.top}/two.lost; trap '' TERM; (trap '' TERM; sleep 1000) & sleep 1001"
        slow = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do echo $i >> $run/metrics.jsonl; sleep 0.5; done"
        err, lines = self.watch([stuck, f"{slow}; mkdir $run/model"], "--hosts", "one:2,two:3", "--probe",
                                probe, "--watch", "1", expect=0)
        self.assertEqual(len(lines), 2)
        self.assertEqual(err[0], "tandem: the job stood still and was ended; restart 1 of 5 in 1 s on one:2 "
                                 "left (two does not answer), from the beginning")

    def test_the_lock_of_a_lost_host_is_taken_away(self):
        """As where a file system keeps the locks of a host that died; here this process holds it."""
        os.makedirs(self.run_folder)
        with open(os.path.join(self.run_folder, "lock"), "w+") as f:
            f.write("tandem two.example 99 1\n")
            f.flush()
            fcntl.lockf(f, fcntl.LOCK_EX)
            err, words = self.watch([f"touch {self.top}/lost; exit 1", "mkdir $run/model"], "--hosts",
                                    "localhost:2,two.example:3", "--probe",
                                    f"test ! -e {self.top}/lost && echo", expect=0)
        self.assertIn("on localhost:2 left (two.example does not answer)", err[0])
        self.assertFalse(os.path.exists(os.path.join(self.run_folder, "lock")))

    def test_a_signal_between_two_starts_ends_it(self):
        for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
            job = self.start(["exit 1"] * 9)
            self.assertIn("restart 1", job.stderr.readline())
            job.send_signal(number)
            self.assertEqual(job.wait(10), code)
            job.communicate()

    def test_signals_reach_the_job(self):
        """The first asks it to stop by USR2; the second ends it."""
        wait = "while :; do sleep 0.05; done"
        for script, more, code, said in (
                ([f"trap 'echo usr1' USR1; trap 'echo usr2; exit 143' USR2; echo up; {wait}"], [], 130,
                 ["usr1", "usr2"]),
                ([f"trap 'echo usr2' USR2; trap 'echo term; exit 1' TERM; echo up; {wait}"],
                 [signal.SIGINT], 130, ["usr2", "term"])):
            job = self.start(script)
            self.assertEqual(job.stdout.readline(), "up\n")
            if not more:
                job.send_signal(signal.SIGUSR1)
                self.assertEqual(job.stdout.readline(), "usr1\n")
            job.send_signal(signal.SIGINT)
            self.assertEqual(job.stdout.readline(), "usr2\n")
            for number in more:
                job.send_signal(number)
            self.assertEqual(job.wait(10), code)
            job.communicate()
            os.remove(os.path.join(self.top, "words"))

    def test_nohup_holds(self):
        wait = "trap 'echo usr2; exit 143' USR2; echo up; while :; do sleep 0.05; done"
        for ignored in (False, True):
            before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
            try:
                job = self.start([wait])
            finally:
                signal.signal(signal.SIGHUP, before)
            self.assertEqual(job.stdout.readline(), "up\n")
            job.send_signal(signal.SIGHUP)
            if ignored:
                time.sleep(0.3)
                self.assertIsNone(job.poll())
                job.terminate()
            self.assertEqual(job.stdout.readline(), "usr2\n")
            self.assertEqual(job.wait(10), 143)
            job.communicate()
            os.remove(os.path.join(self.top, "words"))

    def test_what_a_launcher_left_is_ended(self):
        """A rank that was stopped, and one that takes its time."""
        stray = (f"{TANDEM} bench --steps 100000 --workers 1 > /dev/null 2>&1 & "
                 "until grep -q bench /proc/$!/cmdline; do sleep 0.01; done; ")
        err, words = self.watch([f"{stray} kill -STOP $!; {stray} exit 1", "mkdir $run/model"], expect=0)
        self.assertEqual(len(words), 2)
        left = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self.bench(pid)]
        self.assertEqual(left, [])

    def bench(self, pid):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().split(b"\0")
        except OSError:
            return False
        return words[:2] == [TANDEM.encode(), b"bench"] and b"100000" in words

    def test_nothing_outlives_it(self):
        job = self.start(["trap 'echo gone; exit' TERM; echo up; while :; do sleep 0.05; done"])
        self.assertEqual(job.stdout.readline(), "up\n")
        job.kill()
        self.assertEqual(job.stdout.readline(), "gone\n")
        job.communicate()


@unittest.skipUnless(MPIEXEC, "no MPI")
class Ranks(unittest.TestCase):
    WORDS = ["--data", DATA, "--model", "lenet", "--epochs", "40", "--steps", "24" if SHORT else "60", "--batch", "32",
             "--lr", "0.05", "--momentum", "0.9", "--checkpoint-every", "3"]

    def start(self, run, *words):  # options of the watcher; of the job, from the first that it has not
        at = words.index("--deadline") if "--deadline" in words else len(words)
        words, more = words[:at], words[at:]
        env = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")
        return subprocess.Popen([TANDEM, "run", "--mpiexec", MPIEXEC, "--workers", "2", *words, "--", "train",
                                 *self.WORDS, *more, "--run", run, "--quiet"], stderr=subprocess.PIPE,
                                text=True, env=env)

    def wait(self, run, job, step):
        path = os.path.join(run, "checkpoints", f"step-{step:09}")
        end = time.monotonic() + 60
        while not os.path.exists(path) and time.monotonic() < end and job.poll() is None:
            time.sleep(0.002)

    def test_a_killed_rank_costs_no_bit(self):
        want = digest(train(*self.WORDS[6:], model="lenet", epochs=40))
        restarted = False
        for victim in (0, 1):  # one that is left is too few
            run = new_run()
            job = self.start(run, "--min-workers", "2")
            self.wait(run, job, 3)
            pids = sorted(ranks_of(run))
            if len(pids) == 2:
                os.kill(pids[victim], signal.SIGKILL)
            err = job.communicate(timeout=100)[1]
            self.assertEqual(job.returncode, 0, err)
            self.assertEqual(digest(run), want)
            restarted = restarted or "; restart 1 of 5 in 1 s on 2 here, from step " in err
            steps = [m["step"] for m in metrics(run) if not {"eval", "event"} & set(m)]
            self.assertEqual(len(steps), len(set(steps)))
            self.assertFalse(os.path.exists(os.path.join(run, "lock")))
        self.assertTrue(restarted)

    def test_a_signal_leaves_a_checkpoint_to_go_on_from(self):
        want = digest(train(*self.WORDS[6:], model="lenet", epochs=40))
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            run = new_run()
            job = self.start(run)
            self.wait(run, job, 3)
            job.send_signal(number)
            err = job.communicate(timeout=60)[1]
            if job.returncode:
                self.assertEqual(job.returncode, code, err)
                self.assertNotIn("restart", err)
            tandem("train", "--run", run, "--resume", "--quiet")
            self.assertEqual(digest(run), want)

    @unittest.skipUnless(ULFM and not SHORT, "without failure mitigation mpiexec itself ends the job")
    def test_a_rank_that_dies_while_the_job_starts(self):
        """The others wait for it in MPI, and the job is started again."""
        run = new_run()
        dying, launcher = os.path.join(TOP, "dying"), os.path.join(TOP, "launcher")
        with open(dying, "w") as f:
            f.write('#!/bin/sh\n[ "$OMPI_COMM_WORLD_RANK" != 1 ] || { sleep 1; kill -9 $$; }\nexec "$@"\n')
        with open(launcher, "w") as f:  # puts it before the program, the first time
            f.write(f"""#!/bin/sh
[ ! -e {run}.once ] || exec {MPIEXEC} "$@"
touch {run}.once
for word; do
    shift
    [ "$word" != {TANDEM} ] || set -- "$@" {dying}
    set -- "$@" "$word"
done
exec {MPIEXEC} "$@"
""")
        for path in (dying, launcher):
            os.chmod(path, 0o755)
        done = tandem("run", "--mpiexec", launcher, "--workers", "3", "--", "train", "--data", DATA, "--model",
                      "mlp", "--epochs", "1", "--run", run, "--quiet", prefix=("env", "ASAN_OPTIONS=detect_leaks=0"))
        self.assertIn("ends, as another process has died while the job started", done.stderr)
        self.assertIn("restart 1 of 5", done.stderr)
        self.assertTrue(os.path.exists(os.path.join(run, "model")))

    @unittest.skipUnless(ULFM and not SHORT, "needs failure mitigation")
    def test_a_rank_that_hangs(self):
        """--on-hang abort: the job ends, its stopped process with it, and is started again."""
        want = digest(train(*self.WORDS[6:], model="lenet", epochs=40))
        run = new_run()
        job = self.start(run, "--deadline", "2")
        self.wait(run, job, 3)
        stopped = sorted(ranks_of(run))[0]
        os.kill(stopped, signal.SIGSTOP)
        err = job.communicate(timeout=100)[1]
        self.assertEqual(job.returncode, 0, err)
        self.assertIn("restart 1 of 5", err)
        self.assertNotIn("in use by another job", err)
        self.assertEqual(digest(run), want)

    def test_a_mistake_that_shows_in_the_ranks(self):
        run = new_run()
        done = tandem("run", "--mpiexec", MPIEXEC, "--workers", "2", "--", "train", "--data", DATA,
                      "--shift", "13", "--run", run, expect=2,
                      prefix=("env", "ASAN_OPTIONS=detect_leaks=0"))  # MPI's own
        self.assertEqual(done.stderr.count("moved by 0 to 11, not 13"), 1, done.stderr)
        self.assertIn("given up: the job ended by a mistake", done.stderr)
        self.assertFalse(os.path.exists(run))


if __name__ == "__main__":
    main()
