#!/usr/bin/env python3
"""Every test: the release build, the sanitizer builds, the fuzzers, the layers. Closes with a count.

    tests/run.py [release|asan|tsan|fuzz|layers ...]    some of them; default all
"""
import json
import os
import re
import subprocess
import sys
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ENV = dict(os.environ, OMPI_MCA_osc="^ucx", TSAN_OPTIONS="halt_on_error=1",
           UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1")
if os.getuid() == 0:
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "PRTE_ALLOW_RUN_AS_ROOT"):
        ENV[name] = ENV[name + "_CONFIRM"] = "1"

INSTRUMENTED = ["-Db_lundef=false", "--buildtype=debugoptimized", "-Dc_args=-g1"]
# Tests wait for each other's ranks more than they compute.
AT_ONCE = str((os.cpu_count() or 1) * 5 // 2)
# name: (build folder, meson options, compiler, suites, names of tests or all of the suites)
STEPS = {
    "release": ("build", [], None, ["unit", "mpi", "hosts", "cli", "docs"], []),
    "asan": ("build-asan", ["-Db_sanitize=address,undefined", *INSTRUMENTED, "-Doptimization=1"], None,
             ["unit", "mpi", "cli"], []),
    "tsan": ("build-tsan", ["-Db_sanitize=thread", *INSTRUMENTED, "-Dmpi=disabled"], None, ["unit"],
             ["base/pool", "comm/comm", "comm/collective", "comm/work", "comm/misuse",
              "comm/algorithms", "comm/keyed", "comm/recover", "comm/registered", "comm/resize", "comm/treesum",
              "data/loader", "models/net", "models/revive", "ps/balance", "ps/bulk", "ps/copies", "ps/giver", "ps/parts", "ps/range",
              "ps/recover", "ps/sharded",
              "chaos/counters", "strategy/allreduce", "train/train", "train/checkpoint", "train/rows_feed",
              "train/rows_files", "train/rows_roles"]),
    "fuzz": ("build-fuzz", ["-Dfuzz=true", "-Dmpi=disabled", "-Db_lundef=false"], "clang",
             ["fuzz"], []),
}


def run(command, env=None):
    done = subprocess.run(command, cwd=ROOT, env=env or ENV, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, errors="replace")
    return done.returncode, done.stdout


def configure(folder, options, compiler, prefix):
    if os.path.exists(os.path.join(ROOT, folder, "build.ninja")):
        return 0, ""
    with open(os.path.join(ROOT, ".deps", "mpicc")) as f:
        mpicc = f.read().strip()
    env = dict(ENV, CC=compiler) if compiler else ENV
    return run([*prefix, "meson", "setup", folder, "-Dmpicc=" + mpicc] + options, env)


def programs(name):
    """What that step's tests need, as ninja's targets; none: all there is."""
    folder, suites, names = STEPS[name][0], *STEPS[name][3:]
    if "cli" in suites:
        return []
    told = subprocess.run(["meson", "introspect", "--tests", folder], cwd=ROOT, env=ENV, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL).stdout
    try:
        tests = [test for test in json.loads(told) if test["name"] in names or not names]
    except ValueError:
        return []
    inside = os.path.join(ROOT, folder, "")
    return sorted({test["cmd"][0].removeprefix(inside) for test in tests
                   if test["cmd"][0].startswith(inside) and any(s.endswith(":" + suite) for s in test["suite"] for suite in suites)})


class Builds(threading.Thread):
    """Of all steps, one after the other: a later one's goes on in what the tests of those before leave of
    the cores, as tests wait more than they compute."""

    def __init__(self, names):
        super().__init__(daemon=True)
        self.names = names
        self.result = {}
        self.done = {name: threading.Event() for name in names}
        self.start()

    def run(self):
        for k, name in enumerate(self.names):
            try:
                self.result[name] = self.build(name, ["nice", "-n", "19"] if k else [])
            except OSError as e:
                self.result[name] = 1, str(e)
            self.done[name].set()

    def build(self, name, prefix):
        folder, options, compiler = STEPS[name][:3]
        code, text = configure(folder, options, compiler, prefix)
        return run([*prefix, "ninja", "-C", folder, *programs(name)]) if code == 0 else (code, text)

    def of(self, name):
        self.done[name].wait()
        return self.result[name]


def count(test):
    """(passed, failed, skipped) of one entry of Meson's log: cmocka's own counts where it has."""
    text = test.get("stdout", "") + test.get("stderr", "")
    passed = sum(int(n) for n in re.findall(r"\[  PASSED  \] (\d+) test", text))
    failed = sum(int(n) for n in re.findall(r"\[  FAILED  \] (\d+) test", text))
    skipped = sum(int(n) for n in re.findall(r"\[  SKIPPED \] (\d+) test", text))
    bad = test["result"] not in ("OK", "SKIP")
    if test["result"] == "SKIP":
        return 0, 0, 1
    if passed + failed + skipped == 0:
        return (0, 1, 0) if bad else (1, 0, 0)
    return passed, failed if failed or not bad else 1, skipped


def last_words(test):
    """The end of what a failed test printed, for who sees but the end of all this."""
    text = (test.get("stdout", "") + test.get("stderr", "")).strip().splitlines()
    said = [line for line in text if line.strip(" -=") and not re.match(r"\[  (PASSED|SKIPPED)", line)]
    return [f"{test['name']}: {test['result']}", *("    " + line[:300] for line in said[-10:])]


def meson_step(name, builds):
    folder, suites, names = STEPS[name][0], *STEPS[name][3:]
    code, text = builds.of(name)
    if code != 0:
        print(text[-4000:])
        print(f"{name}: the build failed")
        return 0, 1, 0, []
    command = ["meson", "test", "--no-rebuild", "-C", folder, "--print-errorlogs", "--num-processes", AT_ONCE]
    for suite in suites:
        command += ["--suite", suite]
    code, listed = run(command[:5] + ["--list"] + command[8:])
    there = [n for n in names if any(line.strip().endswith(n) for line in listed.splitlines())]
    code, text = run(command + there, dict(ENV, TANDEM_TEST_SHORT="1") if name != "release" else ENV)
    log = os.path.join(ROOT, folder, "meson-logs", "testlog.json")
    totals, failures = [0, 0, 0], []
    if os.path.exists(log) and "No tests" not in text:
        with open(log, errors="replace") as f:
            for test in map(json.loads, f):
                counts = count(test)
                totals = [a + b for a, b in zip(totals, counts)]
                failures += last_words(test) if counts[1] else []
    if code != 0:
        print(text[-12000:])
        totals[1] = max(totals[1], 1)
    return *totals, failures


def layers_step():
    code, text = run([sys.executable, "tests/layers_test.py"])
    print(text, end="") if code else None
    match = re.search(r"(\d+) passed, (\d+) failed", text)
    if not match:
        return 0, 1, 0, []
    return int(match[1]), int(match[2]), 0, []


def main():
    wanted = sys.argv[1:] or list(STEPS) + ["layers"]
    totals, failures = [0, 0, 0], []
    builds = Builds([name for name in wanted if name != "layers"])
    for name in wanted:
        got = layers_step() if name == "layers" else meson_step(name, builds)
        print(f"{name}: {got[0]} passed, {got[1]} failed, {got[2]} skipped", flush=True)
        totals = [a + b for a, b in zip(totals, got)]
        failures += got[3]
    print("\n".join(["", *failures]))
    print(f"{totals[0]} passed, {totals[1]} failed, {totals[2]} skipped")
    return 1 if totals[1] or not totals[0] else 0


if __name__ == "__main__":
    sys.exit(main())
