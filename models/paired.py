#!/usr/bin/env python3
"""Compares networks in pairs on the same CIFAR-10 images: how many images the second wins and loses against the first.

    pip install onnxruntime numpy
    python models/paired.py TEST_BIN FIRST.onnx SECOND.onnx [FIRST.onnx SECOND.onnx ...]

TEST_BIN is in CIFAR-10's binary form: rows of a label and 3 x 32 x 32 bytes. The networks take them times 1/255. Several pairs (one
a seed, say) are pooled as well.

A pair that loses b images and wins c of n differs by (c - b) / n with a standard error of sqrt(b + c - (c - b)^2 / n) / n (McNemar's).
Pooled, the mean of the pairs' differences is taken for each image first: pairs are tested on the same images, so they aren't n new
ones each. Both errors are of the choice of test images, given the networks. Prints points (hundredths of n).
"""
import sys

import numpy as np
import onnxruntime


def right(path, images, labels):
    """Whether the network gives each image its label."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    if given.shape[1:] != [3, 32, 32]:
        sys.exit(f"{path}: takes {given.shape}, not 3 x 32 x 32")
    parts = [images[k : k + 64] for k in range(0, len(images), 64)]
    return np.concatenate([session.run(None, {given.name: part})[0].argmax(1) for part in parts]) == labels


def line(name, first, second):
    """Prints the comparison; rows are images, columns pairs."""
    won, lost = np.sum(second & ~first), np.sum(first & ~second)
    each = np.mean(second.astype(float) - first, axis=1)
    error = each.std() / np.sqrt(len(each))
    print(
        f"{name:40} {100 * first.mean():6.2f} % {100 * second.mean():6.2f} %  "
        f"{100 * each.mean():+5.2f} points +- {100 * error:.2f}  won {won}, lost {lost}"
    )


def main():
    if len(sys.argv) < 4 or len(sys.argv) % 2:
        sys.exit(__doc__)
    rows = np.fromfile(sys.argv[1], np.uint8).reshape(-1, 3073)
    labels = rows[:, 0]
    images = rows[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 255
    print(f"{len(labels)} images")
    pairs = list(zip(sys.argv[2::2], sys.argv[3::2]))
    first = np.stack([right(a, images, labels) for a, _ in pairs], axis=1)
    second = np.stack([right(b, images, labels) for _, b in pairs], axis=1)
    for k, (a, b) in enumerate(pairs):
        names = " ".join(path.rsplit("/", 1)[-1].removesuffix(".onnx") for path in (a, b))
        line(names, first[:, [k]], second[:, [k]])
    if len(pairs) > 1:
        line("all", first, second)


if __name__ == "__main__":
    main()
