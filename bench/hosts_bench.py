#!/usr/bin/env python3
"""Collectives over several hosts beside MPI's own: bench/coll_bench on pretended hosts
(tests/hosts/hosts.py), first with links as fast as they go, then at 1 Gbit/s.

    bench/hosts_bench.py BUILD [PATTERN [LEAST [MOST]]] [--hosts 3] [--ranks 2] [--rate 1gbit]
    bench/hosts_bench.py BUILD --overlap ...   bench/work_bench over the hosts

Default: all-reduce, 64 KiB to 16 MiB. Prints coll_bench's table with two columns more where links
are limited: the bound in microseconds, and the share of it that we reach. With h hosts no
all-reduce ends before each has sent 2 (h - 1)/h of the bytes, no broadcast before one has sent them
once, headers not counted."""
import argparse
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "hosts"))
from hosts import SKIP, Hosts, Unavailable  # noqa: E402

BITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


def bound_us(pattern, size, hosts, rate):
    number, unit = re.fullmatch(r"([\d.]+)([kmg]bit)", rate).groups()
    share = {"all-reduce": 2 * (hosts - 1) / hosts, "broadcast": 1.0}.get(pattern)
    return share and share * size * 8 / (float(number) * BITS[unit]) * 1e6


def measure(args, rate):
    words = [os.path.join(os.path.abspath(args.build), "bench", "coll_bench"), args.pattern,
             args.least, args.most]
    print(f"# {args.hosts} hosts of {args.ranks} ranks, {rate or 'unlimited'}", flush=True)
    with Hosts(args.hosts, rate) as hosts:
        text = hosts.mpiexec(words, args.ranks, stdout=subprocess.PIPE, text=True, check=True).stdout
    for line in text.splitlines():
        field = line.split("\t")
        if rate and field[0] == "pattern":
            line += "\tbound us\tbound/ours"
        elif rate and len(field) == 7:
            bound = bound_us(field[0], float(field[1]), args.hosts, rate)
            if bound:
                line += f"\t{bound:.2f}\t{bound / float(field[2]):.2f}"
        print(line, flush=True)


def overlap(args):
    words = [os.path.join(os.path.abspath(args.build), "bench", "work_bench"), "0",
             str(args.most / 1e6)]
    print(f"# {args.hosts} hosts of {args.ranks} ranks, {args.rate}", flush=True)
    with Hosts(args.hosts, args.rate) as hosts:
        print(hosts.mpiexec(words, args.ranks, stdout=subprocess.PIPE, text=True, check=True).stdout,
              end="", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("build")
    parser.add_argument("pattern", nargs="?", default="all-reduce")
    parser.add_argument("least", nargs="?", type=int, default=64 << 10)
    parser.add_argument("most", nargs="?", type=int, default=16 << 20)
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rate", default="1gbit")
    parser.add_argument("--overlap", action="store_true",
                        help="instead: how much of an all-reduce of MOST bytes its rank computes through")
    args = parser.parse_args()
    try:
        for rate in () if args.overlap else (None, args.rate):
            measure(args, rate)
        if args.overlap:
            overlap(args)
    except Unavailable as e:
        print(f"hosts_bench: {e}", file=sys.stderr)
        return SKIP
    return 0


if __name__ == "__main__":
    sys.exit(main())
