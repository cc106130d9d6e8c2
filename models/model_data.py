"""Reads the data sets and writes the fixtures; shared by the training scripts here (numpy only)."""
import gzip
from pathlib import Path

import numpy as np

MODELS = Path(__file__).resolve().parent
FIXTURES = MODELS / "fixtures"
SAMPLES = 20  # rows in each fixture


def read_idx(path):
    """An IDX file of bytes, gzip-packed, as an array of uint8."""
    raw = gzip.decompress(Path(path).read_bytes())
    dims = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims)]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)


def mnist(folder):
    """(train images, train labels, test images, test labels); images are float32 pixel/255, [n, 28, 28]."""
    folder = Path(folder)
    out = []
    for part in ("train", "t10k"):
        out.append(read_idx(folder / f"{part}-images-idx3-ubyte.gz").astype(np.float32) / 255)
        out.append(read_idx(folder / f"{part}-labels-idx1-ubyte.gz"))
    return out


def run_onnx(path, x, batch=500):
    """What onnxruntime gives for x, on one thread; several outputs one behind the other."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [np.concatenate(session.run(None, {name: x[i : i + batch]}), 1) for i in range(0, len(x), batch)]
    return np.concatenate(parts)


def accuracy(outputs, labels):
    """Share of rows whose largest output is the label, in percent."""
    return float(np.mean(outputs.argmax(1) == labels) * 100)


def write_fixture(path, x, labels):
    """Writes <name>.input.npy, .output.npy (by onnxruntime) and .labels.npy beside the network, from the first rows."""
    stem = Path(path).with_suffix("")
    x = np.ascontiguousarray(x[:SAMPLES], np.float32)
    np.save(f"{stem}.input.npy", x)
    np.save(f"{stem}.output.npy", run_onnx(path, x).astype(np.float32))
    np.save(f"{stem}.labels.npy", np.asarray(labels[:SAMPLES], np.uint8))
