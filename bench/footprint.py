#!/usr/bin/env python3
"""Memory of the four-worker demo: the peak of the whole process, in MB. Ends with status 1 above 400.

    footprint.py TANDEM DATA"""
import resource
import subprocess
import sys
import tempfile

TANDEM, DATA = sys.argv[1:3]
with tempfile.TemporaryDirectory() as top:
    subprocess.run([TANDEM, "train", "--data", DATA, "--model", "lenet", "--workers", "4",
                    "--threads", "1", "--steps", "60", "--batch", "128", "--optimizer", "sgd",
                    "--lr", "0.05", "--momentum", "0.9", "--run", top + "/run", "--quiet"], check=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(f"lenet, 4 workers, peak MB\t{peak:.0f}")
sys.exit(peak > 400)
