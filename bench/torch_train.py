#!/usr/bin/env python3
"""The peer: PyTorch on the same network, batch and random data in memory; one JSON line.

    torch_train.py MODEL THREADS STEPS              one process
    torch_train.py MODEL 1 STEPS --ddp PROCESSES    DistributedDataParallel over Gloo
"""
import argparse
import json
import os
import time

import torch
from torch import nn
import torch.distributed as dist
import torch.multiprocessing as mp

BATCH, SAMPLES, WARM_UP = 128, 8192, 10


def network(name):
    if name == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128),
                             nn.ReLU(), nn.Linear(128, 10))
    return nn.Sequential(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10))


def measure(net, batch, steps):
    torch.manual_seed(1)
    x = torch.rand(SAMPLES, 1, 28, 28)
    y = torch.randint(0, 10, (SAMPLES,))
    rule = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    loss_of = nn.CrossEntropyLoss()
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            begin = time.perf_counter()
        at = step * batch % (SAMPLES - batch)
        rule.zero_grad(set_to_none=True)
        loss = loss_of(net(x[at:at + batch]), y[at:at + batch])
        loss.backward()
        rule.step()
    seconds = time.perf_counter() - begin
    assert abs(float(loss) - 2.3) < 0.5, "the labels are noise: the loss stays near ln 10"
    return seconds


def ddp_rank(rank, size, model, steps, port, out):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size)
    net = nn.parallel.DistributedDataParallel(network(model))
    seconds = measure(net, BATCH // size, steps)
    if rank == 0:
        out.put(seconds)
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=["mlp", "lenet"])
    parser.add_argument("threads", type=int)
    parser.add_argument("steps", type=int)
    parser.add_argument("--ddp", type=int, default=0)
    a = parser.parse_args()
    if a.ddp:
        context = mp.get_context("spawn")
        out = context.SimpleQueue()
        ranks = mp.spawn(ddp_rank, (a.ddp, a.model, a.steps, 29500 + os.getpid() % 1000, out),
                         a.ddp, join=False)
        seconds = out.get()
        ranks.join()
    else:
        torch.set_num_threads(a.threads)
        seconds = measure(network(a.model), BATCH, a.steps)
    print(json.dumps({"samples_per_s": a.steps * BATCH / seconds}))


if __name__ == "__main__":
    main()
