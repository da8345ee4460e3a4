#!/bin/sh
# launch.sh PROGRAM ARGS...: runs it, with folders of its own for what Open MPI keeps of a job. What a killed
# mpiexec has left keeps a later one of the same process id from starting (exit 213), and jobs at the same time
# share memory where the 16 bits that name it happen to be the same.
#
# TEST_SHM=SIZE in the environment: with a /dev/shm of its own, no larger than that. Skipped (77) where this user
# may not make one.
if [ -n "$TEST_SHM" ]; then
    size=$TEST_SHM
    unset TEST_SHM
    mount="mount -t tmpfs -o size=$size tmpfs /dev/shm"
    if ! unshare --mount sh -ec "$mount" 2>/dev/null; then
        echo "launch.sh: a /dev/shm of $size cannot be made here" >&2
        exit 77
    fi
    exec unshare --mount sh -ec "$mount; exec \"\$@\"" sh "$0" "$@"
fi
own=$(mktemp -d) || exit 1
export TMPDIR="$own"
if shm=$(mktemp -d /dev/shm/tandem-test.XXXXXX 2>/dev/null); then
    export OMPI_MCA_btl_sm_backing_directory="$shm"
fi
"$@"
status=$?
rm -rf "$own" ${shm:+"$shm"}
exit $status
