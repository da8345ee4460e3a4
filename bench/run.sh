#!/usr/bin/env bash
# Every benchmark, peers in the same run. Usage: bench/run.sh BUILD
set -eu
cd "$(dirname "$0")/.."
build=${1:-build}
if [ ! -x .deps/torch/bin/python ]; then
    echo "bench: fetching the peers (several GB)" >&2
    python3 -m venv .deps/torch
    .deps/torch/bin/pip install -q --disable-pip-version-check -r bench/requirements.txt
fi
python3 bench/train.py "$build/tandem" .deps/torch/bin/python "${ROUNDS:-5}"
