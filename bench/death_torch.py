"""What bench/death.py runs under torchrun: DDP over Gloo, a checkpoint every 10 steps, the newest one
loaded at the start. FOLDER gets `step` (made last) and `pid-RANK`."""
import os
import sys

import torch
import torch.distributed as dist

FOLDER = sys.argv[1]
CHECKPOINT = os.path.join(FOLDER, "checkpoint.pt")


def write(name, text):
    path = os.path.join(FOLDER, name)
    with open(path + ".new", "w") as f:
        f.write(str(text))
    os.replace(path + ".new", path)


# Of each start anew: the launcher's own store still has the addresses of the processes before.
store = os.path.join(FOLDER, "store-" + os.environ["TORCHELASTIC_RESTART_COUNT"])
dist.init_process_group("gloo", init_method="file://" + store, rank=int(os.environ["RANK"]),
                        world_size=int(os.environ["WORLD_SIZE"]))
rank = dist.get_rank()
write(f"pid-{rank}", os.getpid())
torch.manual_seed(3)
net = torch.nn.Sequential(torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 128),
                          torch.nn.ReLU(), torch.nn.Linear(128, 10))
ddp = torch.nn.parallel.DistributedDataParallel(net)
optimizer = torch.optim.SGD(ddp.parameters(), lr=0.01, momentum=0.9)
begin = 0
if os.path.exists(CHECKPOINT):
    kept = torch.load(CHECKPOINT)
    net.load_state_dict(kept["net"])
    optimizer.load_state_dict(kept["optimizer"])
    begin = kept["step"]
x, y = torch.rand(32, 784), torch.randint(10, (32,))
for step in range(begin, 1000000):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(ddp(x), y).backward()
    optimizer.step()
    if rank == 0:
        write("step", step + 1)
        if (step + 1) % 10 == 0:
            torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1},
                       CHECKPOINT + ".new")
            os.replace(CHECKPOINT + ".new", CHECKPOINT)
