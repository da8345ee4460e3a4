"""The peer of dlrm.py: the same DLRM in PyTorch, samples in memory.

    dlrm_torch.py SAMPLES.npz THREADS EPOCHS LR [together]

26 EmbeddingBag(sparse=True), or `together` one of all their rows. Prints a JSON line: samples a second of
all epochs but the first, and each epoch's progressive loss."""
import json
import sys
import time

import numpy
import torch

FILE, THREADS, EPOCHS, LR = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
TOGETHER = sys.argv[5:] == ["together"]
BATCH, WIDTH, FIELDS, NUMBERS = 2048, 16, 26, 13


def network(units, last_linear):
    layers = []
    for k in range(len(units) - 1):
        layers.append(torch.nn.Linear(units[k], units[k + 1]))
        if k < len(units) - 2 or not last_linear:
            layers.append(torch.nn.ReLU())
    return torch.nn.Sequential(*layers)


class Dlrm(torch.nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        sizes = [rows * FIELDS] if TOGETHER else [rows] * FIELDS
        self.tables = torch.nn.ModuleList(torch.nn.EmbeddingBag(n, WIDTH, mode="sum", sparse=True) for n in sizes)
        for table in self.tables:
            torch.nn.init.uniform_(table.weight, -0.025, 0.025)
        self.bottom = network([NUMBERS, 64, WIDTH], False)
        self.top = network([WIDTH + FIELDS * (FIELDS + 1) // 2, 128, 64, 1], True)
        self.pairs = torch.tril_indices(FIELDS + 1, FIELDS + 1, -1)

    def forward(self, numbers, ids):
        x = self.bottom(numbers)
        if TOGETHER:
            flat = (ids + self.rows * torch.arange(FIELDS)).reshape(-1)
            e = self.tables[0](flat, torch.arange(flat.numel())).view(-1, FIELDS, WIDTH)
            z = torch.cat([x[:, None], e], 1)
        else:
            bags = torch.arange(len(ids))
            z = torch.stack([x] + [t(ids[:, f].contiguous(), bags) for f, t in enumerate(self.tables)], 1)
        products = torch.bmm(z, z.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        return self.top(torch.cat([x, products], 1))[:, 0]


def main():
    torch.set_num_threads(THREADS)
    torch.manual_seed(1)
    data = numpy.load(FILE)
    clicks, numbers, ids = (torch.from_numpy(data[name]) for name in ("clicks", "numbers", "ids"))
    model = Dlrm(int(data["rows"]))
    adagrad = torch.optim.Adagrad(model.parameters(), lr=LR)
    losses, began, used = [], 0, 0
    for epoch in range(EPOCHS):
        order, total = torch.randperm(len(clicks)), 0
        if epoch == 1:
            began, used = time.monotonic(), time.process_time()
        for at in range(0, len(order), BATCH):
            rows = order[at:at + BATCH]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(numbers[rows], ids[rows]), clicks[rows])
            adagrad.zero_grad()
            loss.backward()
            adagrad.step()
            total += loss.item() * len(rows)
        losses.append(total / len(order))
    seconds = time.monotonic() - began
    rows = len(clicks) * (EPOCHS - 1)
    print(json.dumps({"samples_per_s": rows / seconds, "samples_per_core_s": rows / (time.process_time() - used),
                      "losses": losses}))


main()
