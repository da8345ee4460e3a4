#!/usr/bin/env python3
"""What models over tables learn and say of themselves, against the same computed here from their definitions."""
import json
import math
import random
import unittest
from collections import defaultdict

from harness import SHORT, area, main, tandem
from keys import clicks, event, export, place, ps, text_rows, train, write

BATCH, RATE, BIAS = 16, 0.5, 2**64 - 2


class Scores(unittest.TestCase):
    """The command eval from what predict says and from the file's labels."""

    def test_of_clicks(self):
        data = clicks(rows=2000)
        with open(data) as f:
            head, *lines = f.readlines()
        other = write("some.tsv", "".join([head, *lines[:1200]]))
        positive = [line.startswith("1\t") for line in lines[:1200]]
        for model in ("linear", "fm"):
            run = train(*ps(2, servers=1), "--optimizer", "adagrad", model=model, data=data)
            said = json.loads(tandem("eval", "--run", run, "--data", other, "--json").stdout)
            share = [float(line) for line in tandem("predict", "--run", run, "--data", other, "--proba").stdout.split()]
            self.assertEqual(len(share), len(positive))
            loss = -sum(math.log(p if y else 1 - p) for p, y in zip(share, positive)) / len(share)
            right = sum((p > 0.5) == y for p, y in zip(share, positive)) / len(share)
            for name, want, within in (("calibration", sum(share) / sum(positive), 5e-6), ("loss", loss, 5e-6),
                                       ("accuracy", right, 1e-6), ("auc", area(share, positive), 2e-4)):
                self.assertAlmostEqual(said[name], want, delta=within, msg=(model, name))


    def test_a_weight_is_so_many_samples(self):
        draw, samples = random.Random(9), drawn(300)
        weights = [draw.randrange(4) for _ in samples]
        lines = [" ".join(f"{index}:{value}" for index, value in row.items()) for _, row in samples]
        weighted = write("weighted.svm", "".join(f"{s[0]}:{w} {line}\n" for s, w, line in zip(samples, weights, lines)))
        repeated = write("repeated.svm", "".join(f"{s[0]} {line}\n" * w for s, w, line in zip(samples, weights, lines)))
        run = train(model="fm", data=repeated)
        said, want = (json.loads(tandem("eval", "--run", run, "--data", path, "--json").stdout)
                      for path in (weighted, repeated))
        for name in ("loss", "accuracy", "auc", "calibration"):
            self.assertAlmostEqual(said[name], want[name], delta=2e-6, msg=name)


def drawn(count):
    """Samples [label, {index: value}] that a plane parts, but for some."""
    draw, samples = random.Random(6), []
    plane = [draw.gauss(0, 1) for _ in range(30)]
    for _ in range(count):
        row = {index: round(draw.uniform(-2, 2), 3) for index in sorted(draw.sample(range(30), 5))}
        score = sum(plane[index] * value for index, value in row.items())
        samples.append([int(score + draw.gauss(0, 1) > 0), row])
    return samples


def learn(samples, epochs, decay=0.0, push=1, fetch=1, elastic=0.0):
    """Progressive losses and rows of one worker's linear model. A copy is drawn to the servers' rows and they to it
    where `elastic` is given, else moves ahead of them until it is fetched anew."""
    rows, copy, moved, losses, step = defaultdict(float), {}, defaultdict(float), [], 0
    for _ in range(epochs):
        loss = 0
        for at in range(0, len(samples), BATCH):
            batch, gradient = samples[at:at + BATCH], defaultdict(float)
            if not elastic and step % fetch == 0:
                copy.clear()
            for label, row in batch:
                entries = [*row.items(), (BIAS, 1)]
                for key, _ in entries:
                    copy.setdefault(key, rows[key])
                share = 1 / (1 + math.exp(-sum(copy[key] * x for key, x in entries)))
                loss -= math.log(share if label else 1 - share)
                for key, x in entries:
                    gradient[key] += (share - label) * x / len(batch)
            for key, slope in gradient.items():
                copy[key] -= RATE * (slope + decay * copy[key])
                moved[key] += slope
            step += 1
            if step % push and at + BATCH < len(samples):
                continue
            for key, slope in moved.items():
                if elastic:
                    apart = elastic * (copy[key] - rows[key])
                    copy[key] -= apart
                    rows[key] += apart
                else:
                    rows[key] -= RATE * (slope + decay * rows[key])
            moved.clear()
        losses.append(loss / len(samples))
    return losses, rows


class Steps(unittest.TestCase):
    """A linear model's, of one worker, in the order of the file."""

    def setUp(self):
        self.samples = drawn(16 * BATCH + 5)
        self.data = write("plane.svm", "".join(
            f"{label} {' '.join(f'{i}:{x}' for i, x in row.items())}\n" for label, row in self.samples))

    def same(self, way, *words, **how):
        run = train(*way, *words, "--batch", str(BATCH), "--lr", str(RATE), "--shuffle", "none", "--normalise", "none",
                    "--index-base", "-1", model="linear", data=self.data)
        losses, rows = learn(self.samples, 2, **how)
        told = [line["progressive_loss"] for line in event(run, "epoch")]
        self.assertEqual(len(told), len(losses))
        for got, want in zip(told, losses):
            self.assertAlmostEqual(got, want, delta=1e-6, msg=(way, words))
        got, _ = text_rows(export(run))
        self.assertEqual(got.keys(), rows.keys())
        for key, row in got.items():
            self.assertAlmostEqual(row[0], rows[key], delta=1e-6, msg=(way, words, key))

    def test_losses_are_of_batches_before_they_are_learnt(self):
        for way in (["--workers", "3"], ps(1), ps(1, servers=2, clock="asp")):
            self.same(way)
        self.same(ps(1, servers=1, clock="ssp:2"), "--weight-decay", "0.05", decay=0.05)

    def test_copies_that_push_and_fetch(self):
        way = ["--strategy", "downpour", *place(1, servers=1)]
        for push, fetch in ((1, 1), (2, 3), (3, 2)):
            self.same(way, "--push-every", str(push), "--fetch-every", str(fetch), "--weight-decay", "0.05", push=push,
                      fetch=fetch, decay=0.05)

    def test_copies_and_centre_are_drawn_to_each_other(self):
        way = ["--strategy", "easgd", *place(1, servers=1)]
        for push in (1, 2, 3):
            self.same(way, "--push-every", str(push), "--elastic", "0.3", push=push, elastic=0.3)
        self.same(way, "--push-every", "3", "--elastic", "0.3", "--weight-decay", "0.05", push=3, elastic=0.3,
                  decay=0.05)
        self.same(way, "--push-every", "2", push=2, elastic=0.9)

    @unittest.skipIf(SHORT, "a million rows")
    def test_a_copy_that_outgrows_its_room_loses_no_step(self):
        """It meets its centre before it is dropped: drawn there wholly, the centre is then what the copy was, and behind
        an epoch of keys that no two batches share what plain SGD comes to."""
        each, samples = 8000, 9 * BATCH  # more than 2^20 keys in all, and fewer in eight batches
        data = write("wide.svm", "".join(f"{s % 2} {' '.join(f'{i}:.02' for i in range(s * each, (s + 1) * each))}\n"
                                         for s in range(samples)))
        how = ["--batch", str(BATCH), "--lr", str(RATE), "--shuffle", "none", "--normalise", "none", "--index-base", "-1"]
        way = ["--strategy", "easgd", *place(1, servers=1), "--push-every", "1000", "--elastic", "1"]
        losses = [json.loads(tandem("eval", "--run", train(*words, *how, model="linear", data=data, epochs=1), "--data",
                                    data, "--json").stdout)["loss"] for words in ([], way)]
        self.assertLess(losses[0], 0.68)
        self.assertAlmostEqual(*losses, delta=1e-5)


if __name__ == "__main__":
    main()
