#!/usr/bin/env python3
"""Write CIFAR-10 in its binary layout from a folder with JPEG images of all of it and exact pixels of a part.

usage: python3 cifar10_data.py CIFAR_DIR OUT_DIR        (needs: pip install pillow numpy)

CIFAR_DIR holds jpeg_q75_60000.tar.xz (split/class/name.jpg), train_exact_5085.bin and test_exact_1017.bin.
OUT_DIR gets data_batch_1.bin ... data_batch_5.bin, the 50,000 training images in a fixed shuffled order, and
test_batch.bin, the exact test images. Training images whose exact pixels are known have them in the place of the JPEG
ones. Records are one label byte and 3,072 pixel bytes, channels first.
"""
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
PIXELS = 3 * 32 * 32
BATCHES = 5
# The nearest JPEG image must be nearer than the next one by this factor, in squared distance.
CLEAR = 2.0


def read_exact(path):
    """Records of a binary file, one a row: label, pixels."""
    return np.fromfile(path, np.uint8).reshape(-1, 1 + PIXELS)


def read_jpegs(path):
    """Records of the training images in the archive, in its order."""
    rows = []
    with tarfile.open(path) as tar:
        for member in tar:
            if not member.isfile():
                continue
            split, label, _ = member.name.split("/")
            if split != "train":
                continue
            pixels = np.asarray(Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB"))
            rows.append(np.concatenate([[CLASSES.index(label)], pixels.transpose(2, 0, 1).ravel()]).astype(np.uint8))
    return np.stack(rows)


def match(exact, jpegs):
    """Row of `jpegs` for each row of `exact`, and how much nearer it is than the next one (squared distances)."""
    places = np.empty(len(exact), np.int64)
    ratios = np.empty(len(exact))
    for label in range(len(CLASSES)):
        ours = np.flatnonzero(exact[:, 0] == label)
        theirs = np.flatnonzero(jpegs[:, 0] == label)
        # Centred, so that float32 keeps small distances exact enough to order them.
        a = exact[ours, 1:].astype(np.float32) - 128
        b = jpegs[theirs, 1:].astype(np.float32) - 128
        distances = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * (a @ b.T)
        nearest = np.argpartition(distances, 1, axis=1)[:, :2]
        # The two nearest again, in whole numbers.
        two = ((exact[ours, None, 1:].astype(np.int64) - jpegs[theirs[nearest], 1:]) ** 2).sum(2)
        first = two.argmin(axis=1)
        places[ours] = theirs[nearest[np.arange(len(ours)), first]]
        ratios[ours] = two.max(axis=1) / np.maximum(two.min(axis=1), 1)
    return places, ratios


def main():
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    exact = read_exact(source / "train_exact_5085.bin")
    jpegs = read_jpegs(source / "jpeg_q75_60000.tar.xz")
    places, ratios = match(exact, jpegs)
    distinct = len(np.unique(places))
    clear = int((ratios >= CLEAR).sum())
    print(f"{len(exact)} exact images: {distinct} distinct counterparts, {clear} nearer than the next by {CLEAR} or more"
          f" (smallest ratio {ratios.min():.2f}, median {np.median(ratios):.1f})")
    if distinct < len(exact) or clear < len(exact):
        sys.exit(f"{len(exact) - min(distinct, clear)} exact images have no counterpart of their own; "
                 "is the archive of the same data set?")
    jpegs[places] = exact
    rows = jpegs[np.random.default_rng(0).permutation(len(jpegs))]
    out.mkdir(parents=True, exist_ok=True)
    for number, batch in enumerate(np.array_split(rows, BATCHES), 1):
        batch.tofile(out / f"data_batch_{number}.bin")
    test = read_exact(source / "test_exact_1017.bin")
    test.tofile(out / "test_batch.bin")
    print(f"{out}: {len(rows)} training images, {len(test)} test images")


if __name__ == "__main__":
    main()
