#!/bin/sh
# launch.sh MPIEXEC ARGS...: runs it; a second time where mpiexec could not start itself (exit 213: when several
# start at once, now and then its listener's thread does not come up). The programs that it starts never end so.
"$@"
status=$?
[ $status -eq 213 ] || exit $status
exec "$@"
