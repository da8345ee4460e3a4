#!/usr/bin/env python3
"""The time of Gloo's collectives, by torch.distributed, as JSON lines.

    gloo_ranks.py RANKS BYTES,BYTES,...

Run by gloo.py. Ranks are processes with one thread each; results are checked."""
import json
import os
import statistics
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TURNS = 7


def calls_of(pattern, x, out, parts, gathered):
    n = dist.get_world_size()
    return {
        "all-reduce": lambda: dist.all_reduce(out),
        "broadcast": lambda: dist.broadcast(x, 0),
        "all-gather": lambda: dist.all_gather(gathered, parts[0]),
        "all-to-all": lambda: dist.all_to_all_single(out[:len(x) // n * n], x[:len(x) // n * n]),
        "reduce-scatter": lambda: dist.reduce_scatter_tensor(out[:len(x) // n], x[:len(x) // n * n]),
    }[pattern]


def turn(call, calls):
    dist.barrier()
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    t = torch.tensor([(time.perf_counter() - begin) / calls], dtype=torch.float64)
    dist.all_reduce(t, op=dist.ReduceOp.MAX)
    return t.item()


def rank_main(rank, ranks, sizes):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    for pattern in ("all-reduce", "broadcast", "all-gather", "all-to-all", "reduce-scatter"):
        for size in sizes:
            count = max(size // 4, ranks)
            x = torch.full((count,), float(rank + 1))
            out = x.clone()
            parts = [torch.full((max(count // ranks, 1),), float(rank + 1))]
            gathered = [torch.zeros_like(parts[0]) for _ in range(ranks)]
            call = calls_of(pattern, x, out, parts, gathered)
            if pattern in ("all-reduce", "reduce-scatter"):
                call()
                assert out[0] == ranks * (ranks + 1) / 2
                out.zero_()
            each = turn(call, 3)
            calls = max(1, min(2000, int(4e-3 / each)))
            seconds = statistics.median(turn(call, calls) for _ in range(TURNS))
            if rank == 0:
                print(json.dumps({"pattern": pattern, "bytes": size, "us": seconds * 1e6}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(20000 + os.getpid() % 20000))
    ranks = int(sys.argv[1])
    mp.spawn(rank_main, (ranks, [int(b) for b in sys.argv[2].split(",")]), nprocs=ranks)
