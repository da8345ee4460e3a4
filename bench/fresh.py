#!/usr/bin/env python3
"""Seconds from a fresh clone with nothing fetched or built to the demo's first line of progress.

    fresh.py [SOURCE]           default: this repository

`make demo` runs in a clone in a temporary folder, and is ended when the line has come. What the system's
package manager has installed already stays: only what goes into .deps and the build folder is new. Ends
with status 1 above 180 seconds."""
import os
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main():
    with tempfile.TemporaryDirectory() as top:
        clone = os.path.join(top, "tandem")
        began = time.monotonic()
        subprocess.run(["git", "clone", "-q", sys.argv[1] if len(sys.argv) > 1 else HERE, clone], check=True)
        demo = subprocess.Popen(["make", "demo"], cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, start_new_session=True)
        seconds, said = None, []
        for line in demo.stdout:
            said.append(line)
            if line.startswith("epoch 1/"):
                seconds = time.monotonic() - began
                break
        os.killpg(demo.pid, signal.SIGTERM)
        demo.communicate()
        if seconds is None:
            raise SystemExit("fresh.py: no progress\n" + "".join(said))
    print(f"fresh clone to the demo's first line of progress, s\t{seconds:.0f}")
    return seconds > 180


if __name__ == "__main__":
    sys.exit(main())
