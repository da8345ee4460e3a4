#!/usr/bin/env python3
"""How long a large table with two copies is away when one of its servers dies; TSV.

    copies.py TANDEM [ROUNDS [ROWS]]      default 3, 100000

Four workers in one process, which serve, learn an fm of rows of 17 floats and as many of Adagrad's from a
click log of ROWS lines made for it; one, by turns, dies in the midst of step 8. Prints the rows that the
table has in the end, what both copies take, and the seconds from when the death was noticed until all went on (the
event "recovered" of metrics.jsonl; rows are copied again behind that): their median and the most. Once all rows are
in memory, once each server has room for 128 MiB. Fails where at bsp a sample was not learnt from once, or the loss, or
the model of rows in memory, is not that of a run that nobody left; at other clocks a death leaves nobody who knows of
each sample."""
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile

TANDEM = os.path.abspath(sys.argv[1])
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 3
ROWS = int(sys.argv[3]) if len(sys.argv) > 3 else 100000
WORDS = ["--model", "fm", "--factors", "16", "--optimizer", "adagrad", "--lr", "0.02", "--batch", str(max(64, ROWS // 12)), "--epochs", "1",
         "--strategy", "ps", "--workers", "4", "--replicas", "1", "--seed", "1", "--eval-every", "0", "--overwrite",
         "--quiet"]


def train(folder, clock, memory, death):
    run = os.path.join(folder, "run")
    env = dict(os.environ)
    if death is not None:
        env["TANDEM_FAKE_DEATH"] = f"{death}:8:backward"
    words = [*WORDS, "--clock", clock, "--run", run, *(["--table-memory", memory] if memory else [])]
    subprocess.run([TANDEM, "train", "--data", os.path.join(folder, "clicks.tsv"), *words], env=env, check=True,
                   stderr=subprocess.DEVNULL)
    with open(os.path.join(run, "metrics.jsonl")) as f:
        events = {line["event"]: line for line in map(json.loads, f) if "event" in line}
    model = hashlib.sha256()
    for name in sorted(os.listdir(os.path.join(run, "model"))):
        with open(os.path.join(run, "model", name), "rb") as f:
            model.update(f.read() if name.endswith(".safetensors") else b"")
    return events, model.hexdigest()


def main():
    print("clock\trows in\trows\tboth copies MB\tback after s\tmost s")
    with tempfile.TemporaryDirectory(prefix="tandem-copies-") as folder:
        subprocess.run([TANDEM, "synth", "clicks", "--out", os.path.join(folder, "clicks.tsv"), "--rows", str(ROWS),
                        "--categories", "1000000", "--zipf", "0.8", "--quiet"], check=True)
        for clock in ("bsp", "ssp:2", "asp"):
            for memory in ("", "128m"):
                alone, model = train(folder, clock, memory, None)
                away = []
                for k in range(ROUNDS):
                    events, again = train(folder, clock, memory, k % 4)
                    away.append(events["recovered"]["seconds"])
                    same = clock != "bsp" or (
                        events["epoch"]["progressive_loss"] == alone["epoch"]["progressive_loss"]
                        and events["epoch"]["each_once"] and (memory or again == model))
                    if not same or events["epoch"]["each_once"] is False:
                        sys.exit(f"copies: {clock}, {memory or 'memory'}: another result than without a death")
                rows = alone["tables"]["rows"]
                print(f"{clock}\t{memory or 'memory'}\t{rows // 2}\t{rows * 34 * 4 / 1e6:.0f}\t"
                      f"{statistics.median(away):.3f}\t{max(away):.3f}", flush=True)


if __name__ == "__main__":
    main()
