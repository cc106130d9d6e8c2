#!/usr/bin/env python3
"""Checks the networks here with onnxruntime: the demo's accuracy, and that every fixture gives its recorded outputs.

    pip install onnxruntime numpy
    python models/evaluate.py                      # on the 1,000 MNIST test digits in data/
    python models/evaluate.py /path/to/mnist       # on all 10,000 (t10k-*-ubyte.gz in that folder)

Exits with 1 when the demo is below 98.5 % or a fixture differs by more than 1e-4.
"""
import sys
from pathlib import Path

import numpy as np

from model_data import FIXTURES, MODELS, accuracy, read_idx, run_onnx

DATA = MODELS.parent / "data"


def main():
    folder, stem = (Path(sys.argv[1]), "t10k") if len(sys.argv) > 1 else (DATA, "mnist-test-1000")
    images = read_idx(folder / f"{stem}-images-idx3-ubyte.gz").astype(np.float32)[..., None] / 255
    labels = read_idx(folder / f"{stem}-labels-idx1-ubyte.gz")
    demo = accuracy(run_onnx(MODELS / "mnist-cnn.onnx", images), labels)
    print(f"mnist-cnn: {demo:.2f} % of {len(labels)} test digits")
    failed = demo < 98.5
    for path in sorted(FIXTURES.glob("*.onnx")):
        stem = path.with_suffix("")
        outputs = run_onnx(path, np.load(f"{stem}.input.npy"))
        difference = float(np.abs(outputs - np.load(f"{stem}.output.npy")).max())
        right = "no labels"
        if Path(f"{stem}.labels.npy").exists():
            right = f"{int(np.sum(outputs.argmax(1) == np.load(f'{stem}.labels.npy')))} of {len(outputs)} right"
        print(f"{path.stem}: {right}, largest difference from the recorded outputs {difference:.1e}")
        failed = failed or not difference <= 1e-4
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
