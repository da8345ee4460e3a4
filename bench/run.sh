#!/usr/bin/env bash
# Every benchmark, peers in the same run. Usage: bench/run.sh BUILD
set -eu
cd "$(dirname "$0")/.."
build=${1:-build}
if [ ! -x .deps/torch/bin/python ]; then
    echo "bench: fetching the peers (several GB)" >&2
    rm -rf .deps/torch.part
    python3 -m venv .deps/torch.part
    .deps/torch.part/bin/python -m pip install -q --disable-pip-version-check -r bench/requirements.txt
    mv .deps/torch.part .deps/torch
fi
if [ ! -x .deps/vw/bin/python ]; then
    rm -rf .deps/vw.part
    python3 -m venv .deps/vw.part
    .deps/vw.part/bin/python -m pip install -q --disable-pip-version-check -r bench/requirements-vw.txt
    mv .deps/vw.part .deps/vw
fi
python3 bench/train.py "$build/tandem" .deps/torch/bin/python "${ROUNDS:-5}"

if [ -x "$build/bench/onednn_bench" ]; then
    echo
    echo "# layers beside oneDNN, and its bits"
    "$build/bench/onednn_bench"
fi

echo
echo "# reading, one thread"
"$build/bench/read_bench"

[ -n "${ADULT:-}" ] && [ -n "${KDD99:-}" ] ||
    echo "bench: without ADULT=FOLDER KDD99=FILE what is measured on those data is left out" >&2
if [ -n "${ADULT:-}" ]; then # a folder with a9a, a9a.t, adult-train.csv, adult-test.csv; KDD99: its 10 % file
    echo
    echo "# logistic regression"
    python3 bench/linear.py "$build/tandem" .deps/torch/bin/python "$ADULT" ${KDD99:+"$KDD99"}
fi

if [ -n "${KDD99:-}" ]; then
    echo
    echo "# a linear model beside Vowpal Wabbit"
    python3 bench/vw.py "$build/tandem" .deps/vw/bin/python "$KDD99" "${ROUNDS:-5}"
fi
echo
echo "# what models over hashed features learn"
python3 bench/quality.py "$build/tandem" .deps/torch/bin/python "${ADULT:--}" "${KDD99:--}"

echo
echo "# DLRM beside PyTorch"
python3 bench/dlrm.py "$build/tandem" .deps/torch/bin/python "${ROUNDS:-3}"

echo
echo "# clocks, with a slow worker; a second copy of every row"
python3 bench/clocks.py "$build/tandem" "${ROUNDS:-3}"
python3 bench/replicas.py "$build/tandem" "${ROUNDS:-5}"

echo
echo "# a server of a large table dies"
python3 bench/copies.py "$build/tandem" "${ROUNDS:-3}"

echo
echo "# a server's sparse table, one core"
"$build/bench/table_bench"

if [ -x "$build/bench/cold_bench" ]; then
    echo
    echo "# 30 million rows of 1e9 keys in 1 GiB of memory"
    rm -rf "$build/cold-rows"
    "$build/bench/cold_bench" 30 1024 "$build/cold-rows"
    rm -rf "$build/cold-rows"
fi

echo
echo "# operations beside their rank, and the record"
"$build/bench/work_bench" 2
"$build/bench/work_bench" 4

echo
echo "# checkpoints"
mpiexec=-
if [ -x "$build/bench/coll_bench" ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export TANDEM_MPI_MODULE=$build/src/comm/tandem-mpi.so
    mpiexec=$(dirname "$(cat .deps/mpicc)")/mpiexec
fi
python3 bench/checkpoint_bench.py "$build/tandem" /usr/share/datasets/fashion-mnist "$mpiexec"

echo
echo "# from a fresh clone to the demo's first line of progress"
python3 bench/fresh.py

echo
echo "# memory"
python3 bench/footprint.py "$build/tandem" /usr/share/datasets/fashion-mnist
if [ "$mpiexec" != - ] && [ -x "$build/bench/cold_bench" ]; then
    echo
    echo "# training over 30 million rows of 1e9 keys, with 1 GiB of memory for them"
    python3 bench/cold_train.py "$build/tandem" "$mpiexec" "$build/cold-train"
fi

if [ "$mpiexec" != - ]; then
    echo
    echo "# how far apart two cores are, which change places meanwhile"
    "$build/bench/cores_bench" || [ $? = 77 ]
    echo
    echo "# collectives beside MPI's own"
    python3 bench/collectives.py "$build" "$mpiexec" "${ROUNDS:-5}"
    echo
    echo "# dense values and a sparse table over servers: threads, processes"
    for n in 1 2; do
        "$build/bench/cores_bench" 3 || [ $? = 77 ]
        "$build/bench/ps_bench" $n $n
        "$mpiexec" --map-by :OVERSUBSCRIBE --mca osc ^ucx -n $((2 * n)) "$build/bench/ps_bench" $n $n
    done
    echo
    echo "# threads beside processes"
    python3 bench/transports.py "$build/tandem" "$mpiexec" "${ROUNDS:-3}"
    echo
    echo "# collectives beside Gloo"
    python3 bench/gloo.py "$build/tandem" .deps/torch/bin/python "$mpiexec" "${ROUNDS:-3}"
    echo
    echo "# a worker that is killed, the cost of being ready, a worker at half speed"
    python3 bench/death.py "$build/tandem" "$mpiexec" .deps/torch/bin/python "${ROUNDS:-5}"
    python3 bench/ready.py "$build/tandem" "$mpiexec" /usr/share/datasets/fashion-mnist
    python3 bench/balance.py "$build/tandem" /usr/share/datasets/fashion-mnist
    echo
    echo "# several hosts on this machine"
    for pattern in all-reduce broadcast all-gather reduce-scatter; do
        python3 bench/hosts_bench.py "$build" $pattern || [ $? = 77 ]
    done
    python3 bench/hosts_bench.py "$build" --hosts 2 --ranks 1 --overlap || [ $? = 77 ]
fi
