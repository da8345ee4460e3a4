#!/usr/bin/env python3
"""Holds every #include of src/ against LAYERS, and compiles every header alone."""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Whose the public headers are.
PUBLIC = {"status": "base", "slot": "base", "data": "data", "comm": "comm", "keyed": "comm", "recover": "comm", "net": "nn",
          "optim": "optim", "kv": "ps", "train": "train"}
MPI_MODULE = "src/comm/transport/mpi"  # is compiled with MPI's flags
INCLUDE = re.compile(r'\s*#\s*include\s*([<"])([^>"]+)[>"]')


def allowed():
    table = {}
    with open(os.path.join(ROOT, "LAYERS")) as f:
        for line in f:
            if line.strip() and not line.startswith("#"):
                folder, others = line.split(":")
                table[folder.strip()] = {folder.strip(), *others.split()}
    return table


def sources():
    for folder, _, names in sorted(os.walk(os.path.join(ROOT, "src"))):
        for name in sorted(names):
            if name.endswith((".c", ".h")):
                yield os.path.relpath(os.path.join(folder, name), ROOT)


def includes(path):
    with open(os.path.join(ROOT, path)) as f:
        for number, line in enumerate(f, 1):
            match = INCLUDE.match(line)
            if match:
                yield number, match[1] == "<", match[2]


def check_file(path, table):
    own, problems, first = path.split("/")[1], [], None
    if own not in table:
        problems.append(f"{path}:1: folder {own} is not in LAYERS")
    for number, system, name in includes(path):
        first = first or name
        if name == "mpi.h" and not path.startswith(MPI_MODULE):
            problems.append(f"{path}:{number}: only {MPI_MODULE}* may include mpi.h")
        if system:
            continue
        if name.startswith("tandem/"):
            owner = PUBLIC.get(name[len("tandem/"):-2])
            if owner is None:
                problems.append(f"{path}:{number}: {name} is of no folder that is known here")
            elif owner != "base" and owner not in table.get(own, ()):
                problems.append(f"{path}:{number}: {own} may not include {name}")
            continue
        if not os.path.exists(os.path.join(ROOT, "src", name)):
            problems.append(f"{path}:{number}: {name} is not a path from src/")
        elif name.split("/")[0] not in table.get(own, ()):
            problems.append(f"{path}:{number}: {own} may not include {name.split('/')[0]}")
    header = path[len("src/"):-2] + ".h"
    if path.endswith(".c") and os.path.exists(os.path.join(ROOT, "src", header)) and first != header:
        problems.append(f"{path}:1: its own header {header} must come first")
    return problems


def compiles(command, path):
    done = subprocess.run(command + [path], cwd=ROOT, capture_output=True, text=True)
    return [] if done.returncode == 0 else [f"{path}: does not compile alone: {done.stderr[:300]}"]


def main():
    table, results = allowed(), []
    cc = os.environ.get("CC", "cc")
    for path in sources():
        results.append(check_file(path, table))
        if path.endswith(".h") and not path.startswith(MPI_MODULE):
            results.append(compiles([cc, "-fsyntax-only", "-std=gnu11", "-D_GNU_SOURCE", "-Iinclude",
                                     "-Isrc", "-DTD_ISA=portable", "-x", "c"], path))
    for name in sorted(os.listdir(os.path.join(ROOT, "include", "tandem"))):
        path = "include/tandem/" + name
        results.append(compiles([cc, "-fsyntax-only", "-std=c99", "-Iinclude", "-x", "c"], path))
        results.append(compiles([cc, "-fsyntax-only", "-Iinclude", "-x", "c++"], path))
    for problem in (p for problems in results for p in problems):
        print(problem)
    failed = sum(bool(problems) for problems in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
