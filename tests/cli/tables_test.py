#!/usr/bin/env python3
"""Tables with names, categories and missing values."""
import json
import math
import os
import random
import unittest

from harness import TOP, area, main, new_run, tandem


class Tables(unittest.TestCase):
    """A model reads new tables by what it holds; the training file may be gone."""

    def table(self, name, lines, head="size,colour,shape,label\n", encoding="utf-8"):
        path = os.path.join(TOP, name)
        with open(path, "w", encoding=encoding) as f:
            f.write(head + "".join(lines))
        return path

    def rows(self, n, begin=0):
        colours, shapes = ["red", "green", "blue, dark", "\u00e9cru"], ["round", "?"]
        labels = ["no", "yes", "maybe"]
        for i in range(begin, begin + n):
            colour = colours[i % 4]
            yield (f'{i % 7 if i % 5 else "?"},"{colour}",{shapes[i % 3 == 1]},'
                   f"{labels[(i * i + i // 3) % 3]}\n")

    def train(self, path, *words):
        run = new_run()
        tandem("train", "--data", path, "--model", "dense:8 bn relu dense:0", "--epochs", "1", "--batch",
               "16", "--lr", "0.1", "--run", run, "--quiet", *words)
        return run

    def ask(self, run, path, *words):
        return (tandem("eval", "--run", run, "--data", path, *[w for w in words if w != "--proba"]).stdout,
                tandem("predict", "--run", run, "--data", path, *words).stdout)

    def test_the_training_file_may_be_gone(self):
        for encoding in ("utf-8", "latin-1"):
            path = self.table("train.csv", self.rows(200), encoding=encoding)
            test = self.table("new.csv", self.rows(40, 1000), encoding=encoding)
            run = self.train(path, "--label", "label")
            want = self.ask(run, test, "--proba")
            self.assertEqual(self.ask(run, path)[0], self.ask(run, path)[0])
            os.remove(path)
            self.assertEqual(self.ask(run, test, "--proba"), want)
            self.assertLessEqual(set(self.ask(run, test)[1].split()), {"no", "yes", "maybe"})

    def test_an_older_manifest_reads_the_training_file_again(self):
        path = self.table("older.csv", self.rows(200))
        test = self.table("new.csv", self.rows(3, 1000))  # not all of the categories and classes
        run = self.train(path, "--label", "label")
        want = self.ask(run, test, "--proba")
        manifest = os.path.join(run, "model", "manifest.json")
        with open(manifest) as f:
            content = json.load(f)
        schema = content["state"].pop("schema")
        del content["xxh64"]
        self.assertEqual([c["name"] for c in schema["columns"]], ["size", "colour", "shape"])
        self.assertEqual(schema["columns"][1]["categories"], ["blue, dark", "green", "red", "\u00e9cru"])
        self.assertEqual(schema["class_names"], ["maybe", "no", "yes"])
        with open(manifest, "w") as f:
            json.dump(content, f)
        self.assertEqual(self.ask(run, test, "--proba"), want)
        os.remove(path)
        self.assertNotEqual(tandem("predict", "--run", run, "--data", path, expect=2).stderr, "")

    def test_what_training_never_saw(self):
        run = self.train(self.table("train.csv", self.rows(200)), "--label", "label")
        known = self.table("known.csv", ["1,?,round,no\n", "2,red,round,yes\n"])
        other = self.table("other.csv", ["1,mauve,round,no\n", "2,red,round,yes\n"])
        self.assertEqual(self.ask(run, other, "--proba"), self.ask(run, known, "--proba"))
        wrong = self.table("wrong.csv", ["1,red,round,perhaps\n"])
        done = tandem("eval", "--run", run, "--data", wrong, expect=2)
        self.assertIn("wrong.csv:2: class \"perhaps\" is not one of the training set's 3 classes", done.stderr)
        narrow = self.table("narrow.csv", ["1,red,no\n"], head="size,colour,label\n")
        done = tandem("eval", "--run", run, "--data", narrow, expect=2)
        self.assertIn("2 feature columns where the training set", done.stderr)
        renamed = self.table("renamed.csv", ["1,red,round,no\n"], head="size,color,shape,label\n")
        self.assertIn("\"color=", tandem("eval", "--run", run, "--data", renamed, expect=2).stderr)

    def test_new_rows_need_no_label_and_no_header(self):
        run = self.train(self.table("train.csv", self.rows(200)), "--label", "label")
        labelled = self.table("labelled.csv", ["3,red,round,no\n"])
        want = tandem("predict", "--run", run, "--data", labelled, "--proba").stdout
        for head in ("size,colour,shape\n", ""):
            bare = self.table("bare.csv", ["3,red,round\n"], head=head)
            got = tandem("predict", "--run", run, "--data", bare, "--label", "none", "--proba").stdout
            self.assertEqual(got, want)

    def test_missing_texts_and_numbered_classes_are_kept(self):
        path = self.table("odd.csv", [f"{(-1) ** i},{i % 9 if i % 4 else '--'},NA\n" if i % 3 else
                                      f"{(-1) ** i},{i % 9},b\n" for i in range(100)], head="")
        run = self.train(path, "--missing", "--")  # NA is a category then
        with open(os.path.join(run, "model", "manifest.json")) as f:
            state = json.load(f)["state"]
        self.assertEqual(state["data"]["data.missing"], "--")
        self.assertEqual(state["schema"]["columns"], [{}, {"categories": ["NA", "b"]}])
        self.assertEqual(state["schema"]["class_values"], [-1, 1])
        want = self.ask(run, path, "--proba")
        new = self.table("new.csv", ["1,--,NA\n", "1,5,b\n"], head="")
        os.rename(path, path + ".moved")
        self.assertEqual(self.ask(run, path + ".moved", "--proba", "--format", "csv"), want)
        self.assertLessEqual(set(self.ask(run, new)[1].split()), {"-1", "1"})

    def test_indices_of_sparse_files_count_as_in_training(self):
        path = os.path.join(TOP, "zero.svm")
        with open(path, "w") as f:
            f.writelines(f"{i % 2} 0:{1 + i % 2} {2 + i % 5}:1\n" for i in range(80))
        run = self.train(path)
        os.remove(path)
        with open(path, "w") as f:
            f.write("0 2:1\n1 2:1 5:1\n")  # no index 0: would count from 1 by itself
        zeros = os.path.join(TOP, "zeros.svm")
        with open(zeros, "w") as f:
            f.write("0 0:0 2:1\n1 0:0 2:1 5:1\n")
        self.assertEqual(self.ask(run, path, "--proba"), self.ask(run, zeros, "--proba"))
        with open(path, "w") as f:
            f.write("0 7:1\n")
        self.assertIn("index 7 is beyond the 7 features", tandem("eval", "--run", run, "--data", path,
                                                               expect=2).stderr)

    def test_two_classes_have_an_area_under_the_curve(self):
        draw = random.Random(5)
        drawn = [(draw.gauss(0, 1), draw.choice("abc")) for _ in range(900)]
        lines = [f"{x:.3f},{c},{'yes' if x + (c == 'b') + draw.gauss(0, 2) > 0 else 'no'}\n" for x, c in drawn]
        path = self.table("train.csv", lines[:500], head="x,c,label\n")
        test = self.table("test.csv", lines[500:], head="x,c,label\n")
        positive = [line.endswith("yes\n") for line in lines[500:]]
        for loss, at in (("softmax", 1), ("binary", 0)):
            run = self.train(path, "--label", "label", "--loss", loss, "--holdout", "0.2")
            done = tandem("eval", "--run", run, "--data", test)
            value = dict(line.split()[:2] for line in done.stdout.splitlines())["auc"]
            asked = tandem("predict", "--run", run, "--data", test, "--proba").stdout.splitlines()
            scores = [float(line.split()[at]) for line in asked]
            self.assertAlmostEqual(float(value), area(scores, positive), delta=2e-4)
            self.assertEqual(tandem("eval", "--run", run, "--data", test, "--workers", "3").stdout, done.stdout)
            self.assertEqual(json.loads(tandem("eval", "--run", run, "--data", test, "--json").stdout)["auc"],
                             float(value))
            with open(os.path.join(run, "metrics.jsonl")) as f:
                self.assertTrue(all("auc" in row for row in map(json.loads, f) if "eval" in row))

    def test_losses_by_name(self):
        draw = random.Random(7)
        lines = []
        for _ in range(600):
            x = draw.uniform(-1, 1)
            count = sum(draw.random() < math.exp(1 + x) / 100 for _ in range(100))
            lines.append(f"{x:.4f},{count}\n")
        path = self.table("counts.csv", lines, head="x,label\n")
        words = ("--label", "label", "--label-kind", "value", "--model", "dense:1", "--epochs", "40",
                 "--batch", "100", "--lr", "0.05")
        run = self.train(path, *words, "--loss", "poisson")
        rates = [float(line) for line in tandem("predict", "--run", run, "--data", path).stdout.split()]
        counts = [int(line.split(",")[1]) for line in lines]
        self.assertAlmostEqual(sum(rates) / sum(counts), 1, delta=0.02)  # as at the optimum
        self.assertLess(min(rates), max(rates) / 4)                      # e^2 were it exact
        lines[3] = "0.5,-1\n"
        done = tandem("train", "--data", self.table("counts.csv", lines, head="x,label\n"), *words,
                      "--loss", "poisson", "--run", new_run(), expect=2)
        self.assertIn("counts.csv:5: label -1, where counts, which poisson is for, are 0 or more", done.stderr)
        self.table("two.csv", [f"{x},{'yes' if x > 3 else 'no'}\n" for x in range(7)] * 20, head="x,label\n")
        two = os.path.join(TOP, "two.csv")
        run = self.train(two, "--model", "dense:1", "--loss", "hinge", "--epochs", "30")
        self.assertRegex(tandem("eval", "--run", run, "--data", two).stdout, r"(?m)^accuracy 1.0000 loss ")
        self.assertEqual(set(tandem("predict", "--run", run, "--data", two).stdout.split()), {"yes", "no"})
        done = tandem("train", "--data", self.table("three.csv", self.rows(30)), "--label", "label",
                      "--model", "dense:1", "--loss", "hinge", "--run", new_run(), expect=2)
        self.assertIn("--loss hinge needs two classes, and ", done.stderr)

    def test_labels_that_are_perhaps_something_else(self):
        words = ("--model", "dense:0", "--steps", "1", "--quiet", "--label", "label")
        lines = [f"{i},{i % 2}\n" for i in range(40)]
        for odd, says in (("500", "labels run from 0 to 500, but 498 of these 501 classes have no sample"),
                          ("-1", "labels are whole numbers from -1 to 1 and are taken for values"),
                          ("1", None)):
            path = self.table("odd.csv", lines[:7] + [f"7,{odd}\n"] + lines[8:], head="x,label\n")
            done = tandem("train", "--data", path, *words, "--run", new_run())
            self.assertEqual(done.stderr.count("tandem: "), bool(says), done.stderr)
            self.assertIn(says or "", done.stderr)
        path = self.table("odd.csv", ["1,-1\n", "2,0\n"], head="x,label\n")
        run = new_run()
        done = tandem("train", "--data", path, *words, "--label-kind", "value", "--run", run)
        self.assertEqual(done.stderr, "")
        self.assertRegex(tandem("eval", "--run", run, "--data", path).stdout, r"\Aloss \d+\.\d+\n\Z")
        self.assertEqual(set(json.loads(tandem("eval", "--run", run, "--data", path, "--json").stdout)),
                         {"loss", "samples"})


if __name__ == "__main__":
    main()
