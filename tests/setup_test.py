#!/usr/bin/env python3
"""setup.sh on machines that lack something: root, sudo, neither, another distribution.

    setup_test.py SETUP_SH

Runs it in an empty folder with a PATH of made-up programs: nothing is installed."""
import os
import shutil
import subprocess
import sys
import tempfile

SETUP = os.path.abspath(sys.argv[1])
BASE = ["bash", "sh", "cat", "mkdir", "mv", "rm", "dirname", "env", "test"]
passed = failed = 0


def program(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "w") as f:
        f.write("#!/bin/sh\n" + text + "\n")
    os.chmod(path, 0o755)


def machine(**programs):
    """A folder with a copy of setup.sh and a bin/ where all is well but for what `programs` says:
    name=None takes one away, name=text gives it that script."""
    top = tempfile.mkdtemp(prefix="tandem-setup-")
    bin_ = os.path.join(top, "bin")
    os.mkdir(bin_)
    shutil.copy(SETUP, os.path.join(top, "setup.sh"))
    for name in BASE:
        os.symlink(shutil.which(name), os.path.join(bin_, name))
    calls = os.path.join(top, "calls")
    all_ = {"cc": "", "make": "", "meson": "", "ninja": "", "python3": "", "pkg-config": "",
            "id": "echo 1000", "mpicc": "echo mpicc: Open MPI 5.0.11",
            "apt-get": f'echo "apt-get $*" >>{calls}', "sudo": f'echo "sudo $*" >>{calls}'}
    all_.update({name.replace("_", "-"): text for name, text in programs.items()})
    for name, text in all_.items():
        if text is not None:
            program(bin_, name, text)
    return top


def setup(top, **env):
    done = subprocess.run(["bash", os.path.join(top, "setup.sh")], stdin=subprocess.DEVNULL,
                          env={"PATH": os.path.join(top, "bin"), **env}, capture_output=True,
                          text=True)
    calls = os.path.join(top, "calls")
    done.calls = open(calls).read() if os.path.exists(calls) else ""
    mpicc = os.path.join(top, ".deps", "mpicc")
    done.mpicc = open(mpicc).read().strip() if os.path.exists(mpicc) else None
    return done


def check(name, good, done):
    global passed, failed
    if good:
        passed += 1
    else:
        failed += 1
        print(f"{name}: {done.returncode}\n{done.stdout}{done.stderr}{done.calls}{done.mpicc}")


LACKS_JANSSON = 'case "$*" in *jansson*) exit 1 ;; esac'


def main():
    tops = []

    def run(name, condition, env=None, **programs):
        tops.append(machine(**programs))
        done = setup(tops[-1], **(env or {}))
        check(name, condition(done), done)
        return tops[-1]

    top = run("nothing is missing",
              lambda d: d.returncode == 0 and not d.stdout + d.stderr and
              d.mpicc.endswith("/bin/mpicc"))
    again = setup(top)
    check("a second time", again.returncode == 0 and not again.stdout + again.stderr, again)
    run("root installs",
        lambda d: d.returncode == 0 and "apt-get install -y -qq libjansson-dev\n" in d.calls and
        "sudo" not in d.calls, id="echo 0", pkg_config=LACKS_JANSSON)
    run("a user with sudo installs",
        lambda d: d.returncode == 0 and "sudo apt-get update" in d.calls and
        "sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libjansson-dev" in d.calls,
        pkg_config=LACKS_JANSSON)
    for sudo in (None, "exit 1"):
        run("a user without sudo is told whom to ask",
            lambda d: d.returncode != 0 and not d.calls and d.stderr ==
            "setup: ask an administrator to run: apt-get install libjansson-dev\n",
            pkg_config=LACKS_JANSSON, sudo=sudo)
    run("another distribution",
        lambda d: d.returncode != 0 and
        d.stderr == "setup: install what your system calls: libjansson-dev\n",
        pkg_config=LACKS_JANSSON, apt_get=None)
    run("a wrong MPICC",
        lambda d: d.returncode != 0 and "MPICC=/nowhere/mpicc is not a program" in d.stderr and
        not d.mpicc, env={"MPICC": "/nowhere/mpicc"})
    run("an MPI that is not Open MPI 5",
        lambda d: d.returncode == 0 and "live recovery" in d.stderr and d.mpicc.endswith("mpicc"),
        env={"MPICC": "mpicc"}, mpicc="echo MPICH 4.2; exit 1")
    run("no MPI to be had",
        lambda d: d.returncode == 0 and "live recovery" in d.stderr and
        "libopenmpi-dev openmpi-bin" in d.calls and d.mpicc == "", mpicc=None,
        python3='case "$*" in *"-m venv"*) exit 1 ;; esac')
    for top in tops:
        shutil.rmtree(top)
    print(f"[  PASSED  ] {passed} test(s).")
    if failed:
        print(f"[  FAILED  ] {failed} test(s).")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
