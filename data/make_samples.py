#!/usr/bin/env python3
"""Cuts the small samples in this folder out of the full data sets (standard library only).

    python3 data/make_samples.py /path/to/full/data

The folder given holds mnist/t10k-*-ubyte.gz, cifar10/test_exact_1017.bin (CIFAR-10 binary layout)
and ai4i2020/ai4i2020.csv. The output is the same bytes each time (README.md lists the sha256).
"""
import gzip
import struct
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MNIST_DIGITS = 1000
CIFAR_IMAGES = 100
CIFAR_RECORD = 1 + 3 * 32 * 32  # label byte, then the red, green and blue planes
AI4I_FIRST, AI4I_MORE_FAILURES, AI4I_MORE_GOOD = 500, 84, 416
AI4I_FAILURE_COLUMN = 8  # "Machine failure"


def write_gzip(path, payload):
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write(payload)


def mnist(source):
    images = gzip.decompress((source / "t10k-images-idx3-ubyte.gz").read_bytes())
    magic, _, rows, columns = struct.unpack(">IIII", images[:16])
    pixels = images[16 : 16 + MNIST_DIGITS * rows * columns]
    header = struct.pack(">IIII", magic, MNIST_DIGITS, rows, columns)
    write_gzip(HERE / "mnist-test-1000-images-idx3-ubyte.gz", header + pixels)
    labels = gzip.decompress((source / "t10k-labels-idx1-ubyte.gz").read_bytes())
    header = struct.pack(">II", struct.unpack(">I", labels[:4])[0], MNIST_DIGITS)
    write_gzip(HERE / "mnist-test-1000-labels-idx1-ubyte.gz", header + labels[8 : 8 + MNIST_DIGITS])


def cifar(source):
    records = (source / "test_exact_1017.bin").read_bytes()
    (HERE / "cifar10-test-100.bin").write_bytes(records[: CIFAR_IMAGES * CIFAR_RECORD])


def ai4i(source):
    lines = (source / "ai4i2020.csv").read_bytes().splitlines(keepends=True)
    head, rows = lines[0], lines[1:]
    fails = lambda row: row.split(b",")[AI4I_FAILURE_COLUMN] == b"1"
    chosen = rows[:AI4I_FIRST]
    left = {True: AI4I_MORE_FAILURES, False: AI4I_MORE_GOOD}
    for row in rows[AI4I_FIRST:]:
        if left[fails(row)] > 0:
            left[fails(row)] -= 1
            chosen.append(row)
    (HERE / "ai4i2020-1000.csv").write_bytes(head + b"".join(chosen))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    full = Path(sys.argv[1])
    mnist(full / "mnist")
    cifar(full / "cifar10")
    ai4i(full / "ai4i2020")
