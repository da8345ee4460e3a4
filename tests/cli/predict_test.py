#!/usr/bin/env python3
"""Evaluation and prediction, by any number of ranks, with labels and without."""
import gzip
import json
import os
import struct
import unittest

from harness import DATA, MPIEXEC, SIDE, TEST, TOP, main, new_run, ranks, tandem, train


class Predictions(unittest.TestCase):
    """Any number of ranks answers once; labels are not needed."""

    def ask(self, command, run, data, *words, prefix=(), expect=0):
        return tandem(command, "--run", run, "--data", data, *words, prefix=prefix, expect=expect).stdout

    def test_ranks_share_the_work(self):
        run = train()
        ways = [(["--workers", "3"], ())] + ([([], ranks(3))] if MPIEXEC else [])
        for command, flags in (("eval", []), ("eval", ["--json"]), ("predict", ["--proba"]),
                               ("predict", ["--json"])):
            want = self.ask(command, run, DATA, "--split", "train", *flags)
            for words, prefix in ways:
                got = self.ask(command, run, DATA, "--split", "train", *flags, *words, prefix=prefix)
                self.assertEqual(got.replace("\r", ""), want, (command, flags, words))

    def test_json(self):
        run = train()
        plain = self.ask("predict", run, DATA).split()
        rows = [json.loads(line) for line in self.ask("predict", run, DATA, "--json", "--proba").splitlines()]
        self.assertEqual([str(row["class"]) for row in rows], plain)
        for row in rows:
            self.assertEqual(row["proba"][row["class"]], max(row["proba"]))
        path = os.path.join(TOP, "numbers.csv")
        with open(path, "w") as f:
            f.writelines(f"{i}.5,{i},{i % 7}\n" for i in range(50))
        run = new_run()
        tandem("train", "--data", path, "--label", "0", "--model", "dense:0", "--run", run, "--quiet")
        values = [json.loads(line)["value"] for line in self.ask("predict", run, path, "--json").splitlines()]
        self.assertEqual(values, [float(v) for v in self.ask("predict", run, path).split()])

    def test_images_alone(self):
        run = train()
        want = self.ask("predict", run, DATA)
        bare = os.path.join(TOP, "bare")
        os.makedirs(bare)
        name = "t10k-images-idx3-ubyte.gz"
        os.link(os.path.join(DATA, name), os.path.join(bare, name))
        self.assertEqual(self.ask("predict", run, bare), want)
        self.assertEqual(self.ask("predict", run, os.path.join(bare, name)), want)
        with gzip.open(os.path.join(bare, name)) as f:
            pixels = f.read()[16:]
        head = "{'descr': '|u1', 'fortran_order': False, 'shape': (%d, %d, %d), }" % (TEST, SIDE, SIDE)
        head = head.ljust(117) + "\n"
        with open(os.path.join(bare, "x.npy"), "wb") as f:
            f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + pixels)
        self.assertEqual(self.ask("predict", run, os.path.join(bare, "x.npy")), want)
        self.ask("eval", run, os.path.join(bare, "x.npy"), expect=2)

    def test_lines_without_labels(self):
        path = os.path.join(TOP, "known.svm")
        with open(path, "w") as f:
            f.writelines(f"{i % 2} 1:{1 + i % 2} {2 + i % 5}:1\n" for i in range(80))
        run = new_run()
        tandem("train", "--data", path, "--model", "softmax", "--run", run, "--quiet")
        want = self.ask("predict", run, path, "--proba")
        with open(path) as f:
            lines = f.read().splitlines()
        new = os.path.join(TOP, "new.svm")
        with open(new, "w") as f:
            f.writelines(f"{'7' if i % 3 else '?'} {line[2:]}\n" for i, line in enumerate(lines))
        self.assertEqual(self.ask("predict", run, new, "--proba"), want)
        self.ask("eval", run, new, expect=2)
        with open(new, "w") as f:
            f.writelines(f"{line[2:]}\n" for line in lines)
        done = tandem("predict", "--run", run, "--data", new, expect=2)
        self.assertIn("set label to none for the one, to 0 for the other", done.stderr)
        self.assertEqual(self.ask("predict", run, new, "--proba", "--label", "none"), want)
        with open(new, "w") as f:
            f.writelines(f"{line[0]}:2{line[1:]}\n" for line in lines)
        self.assertEqual(self.ask("predict", run, new, "--proba", "--label", "0"), want)

    def test_tables_without_the_label_column(self):
        path, new = os.path.join(TOP, "with.csv"), os.path.join(TOP, "without.csv")
        rows = [(("red", "blue")[i % 2], i % 7, ("no", "yes")[i % 3 > 0], 1 + i % 2) for i in range(90)]

        def write(name, columns, head=True, answer=None):
            with open(name, "w") as f:
                for row in ([("colour", "size", "answer", "w")] if head else []) + rows:
                    row = (*row[:2], answer if answer and row[2] != "answer" else row[2], row[3])
                    f.write(",".join(str(row[c]) for c in columns) + "\n")

        write(path, (0, 1, 2, 3))
        run = new_run()
        tandem("train", "--data", path, "--label", "answer", "--weights", "w", "--model", "softmax",
               "--run", run, "--quiet")
        want = self.ask("predict", run, path, "--proba")
        for columns, head, answer in (((0, 1), True, None), ((0, 1), False, None), ((0, 1, 2), True, None),
                                      ((0, 1, 3), True, None), ((0, 2, 1), True, "perhaps")):
            write(new, columns, head, answer)
            self.assertEqual(self.ask("predict", run, new, "--proba"), want, (columns, head))

    @unittest.skipUnless(MPIEXEC, "no MPI")
    def test_what_has_no_ranks_runs_once(self):
        run = train()
        for words in (("inspect", run), ("help", "train"), ("version",)):
            want = tandem(*words).stdout
            self.assertEqual(tandem(*words, prefix=ranks(2)).stdout.replace("\r", ""), want)
        done = tandem("eval", "--run", run, "--data", "/no/such", prefix=ranks(3), expect=2)
        self.assertEqual(done.stderr.count("/no/such"), 1, done.stderr)
        plain = tandem("train", "--data", DATA, "--model", "softmax", "--run", new_run(), prefix=ranks(2))
        self.assertNotIn("\033[K", plain.stdout)

    def test_flags_that_would_do_nothing_are_refused(self):
        for command in ("eval", "predict"):
            for flag in ("--batch", "--threads", "--quiet"):
                self.assertIn("unknown option", tandem(command, flag, "3", expect=2).stderr)


if __name__ == "__main__":
    main()
