#!/bin/sh
# launch.sh PROGRAM ARGS...: runs it, with folders of its own for what Open MPI keeps of a job. What a killed
# mpiexec has left keeps a later one of the same process id from starting (exit 213), and jobs at the same time
# share memory where the 16 bits that name it happen to be the same.
own=$(mktemp -d) || exit 1
export TMPDIR="$own"
if shm=$(mktemp -d /dev/shm/tandem-test.XXXXXX 2>/dev/null); then
    export OMPI_MCA_btl_sm_backing_directory="$shm"
fi
"$@"
status=$?
rm -rf "$own" ${shm:+"$shm"}
exit $status
