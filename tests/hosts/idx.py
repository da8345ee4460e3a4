"""Made-up images in IDX files, for tests that need a data set but not what is in it."""
import os
import random
import struct


def make_data(folder, samples=160, side=6):
    """Noise, of three classes in turn."""
    rng = random.Random(1)
    for prefix in ("train", "t10k"):
        with open(os.path.join(folder, prefix + "-images-idx3-ubyte"), "wb") as f:
            f.write(struct.pack(">IIII", 2051, samples, side, side))
            f.write(bytes(rng.randrange(256) for _ in range(samples * side * side)))
        with open(os.path.join(folder, prefix + "-labels-idx1-ubyte"), "wb") as f:
            f.write(struct.pack(">II", 2049, samples) + bytes(k % 3 for k in range(samples)))
