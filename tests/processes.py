"""The processes of a job's ranks, those in the process numbers of pretended hosts among them."""
import os
import re


def processes_of(run, program):
    """{rank: process} of those that live; program: as it was started."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().split(b"\0")
            if words[0] != program.encode() or run.encode() not in words:
                continue
            with open(f"/proc/{pid}/environ", "rb") as f:
                rank = re.search(rb"\0OMPI_COMM_WORLD_RANK=(\d+)\0", f.read())
        except OSError:
            continue
        if rank:
            found[int(rank[1])] = int(pid)
    return found
