#!/usr/bin/env python3
"""Trains the PyTorch fixtures (fixtures/torch-*.onnx) and writes their sample inputs, outputs and labels.

    apt-get install python3-torch && /usr/bin/python3 -m venv --system-site-packages venv
    venv/bin/pip install -r models/requirements-torch.txt
    venv/bin/python models/train_fixtures_torch.py /path/to/data [name ...]

The folder holds mnist/*-ubyte.gz and ai4i2020/ai4i2020.csv; the other sets come with scikit-learn. Seeded, one thread: the same
versions give the same weights on the same kind of processor. Prints one JSON object a network.
"""
import csv
import json
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn import datasets, model_selection
from torch import nn

from model_data import FIXTURES, MODELS, SAMPLES, accuracy, mnist, run_onnx, write_fixture

SEED = 1
Z_LIMIT = 2.5  # soft bound on what goes into a quadratic
OPSET = 13


class Watched(nn.Module):
    """An activation that keeps its last input, for the range penalty and the report."""

    z = None

    def forward(self, x):
        self.z = x
        return self.curve(x)


class Square(Watched):
    def curve(self, x):
        return x * x


class SquarePlus2x(Watched):
    def curve(self, x):
        return x * x + 2.0 * x


class Quadratic(Watched):
    """0.1 + 0.5 x + 0.25 x^2, written out term by term: Pow, Mul, Add in the file."""

    def curve(self, x):
        return 0.1 + 0.5 * x + 0.25 * x**2


class Tanh(Watched):
    def curve(self, x):
        return torch.tanh(x)


class Sigmoid(Watched):
    def curve(self, x):
        return torch.sigmoid(x)


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


class Heads(nn.Module):
    """Two outputs from one trunk: the digit's scores, and how much ink it has (the mean of its pixels)."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 24), SquarePlus2x())
        self.digit, self.ink = nn.Linear(24, 10), nn.Linear(24, 1)

    def forward(self, x):
        hidden = self.trunk(x)
        return self.digit(hidden), self.ink(hidden)


class Standardise(nn.Module):
    """(x - mean) / deviation inside the file, so that it takes raw columns: Sub and Div."""

    def __init__(self, x):
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(x.mean(0)))
        self.register_buffer("deviation", torch.from_numpy(x.std(0)))

    def forward(self, x):
        return (x - self.mean) / self.deviation


def mnist_data(folder, shape):
    train_x, train_y, test_x, test_y = mnist(folder / "mnist")
    return train_x.reshape(-1, *shape), train_y, test_x.reshape(-1, *shape), test_y


def split(x, y):
    """Four fifths to train on, one fifth to test on, same split each time."""
    parts = model_selection.train_test_split(x.astype(np.float32), y, test_size=0.2, random_state=SEED, stratify=y)
    return parts[0], parts[2], parts[1], parts[3]


def digits_data():
    x, y = datasets.load_digits(return_X_y=True)
    return split(x / 16, y)


def cancer_data():
    x, y = datasets.load_breast_cancer(return_X_y=True)
    train_x, train_y, test_x, test_y = split(x, y)
    mean, deviation = train_x.mean(0), train_x.std(0)
    return (train_x - mean) / deviation, train_y, (test_x - mean) / deviation, test_y


def ai4i_rows(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = ["Air temperature [K]", "Process temperature [K]", "Rotational speed [rpm]", "Torque [Nm]", "Tool wear [min]"]
    x = [[float(r[n]) for n in numbers] + [float(r["Type"] == t) for t in "LMH"] for r in rows]
    return [r["UDI"] for r in rows], np.array(x, np.float32), np.array([int(r["Machine failure"]) for r in rows])


def ai4i_data(folder):
    """Trained on the 9,000 rows that are not in data/ai4i2020-1000.csv, tested on those 1,000."""
    sample_ids, test_x, test_y = ai4i_rows(MODELS.parent / "data" / "ai4i2020-1000.csv")
    ids, x, y = ai4i_rows(folder / "ai4i2020" / "ai4i2020.csv")
    keep = ~np.isin(ids, sample_ids)
    return x[keep], y[keep], test_x, test_y


def body(model):
    """The network without a softmax at its end."""
    return model[:-1] if isinstance(model[-1], nn.Softmax) else model


def fit(model, train_x, train_y, epochs, rate, batch=128, decay=1e-4, class_weights=None):
    torch.manual_seed(SEED)
    for layer in model.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    x, y = torch.from_numpy(train_x), torch.from_numpy(train_y.astype(np.int64))
    weights = None if class_weights is None else torch.tensor(class_weights)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05, weight=weights)
    logits_of = body(model)
    optimiser = torch.optim.Adam(model.parameters(), weight_decay=decay)
    steps = epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for part in order.split(batch):
            loss = loss_of(logits_of(x[part]), y[part])
            for layer in model.modules():
                if isinstance(layer, Watched):
                    loss = loss + torch.relu(layer.z.abs() - Z_LIMIT).square().sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    model.eval()


def span(values):
    return [round(float(values.min()), 4), round(float(values.max()), 4)]


def produce(name, model, data, rows=slice(SAMPLES), **how):
    train_x, train_y, test_x, test_y = data
    fit(model, train_x, train_y, **how)
    path = FIXTURES / f"{name}.onnx"
    with torch.no_grad():
        reference = model(torch.from_numpy(test_x)).numpy()
        logits = body(model)(torch.from_numpy(test_x)).numpy()
        ranges = [span(layer.z) for layer in model.modules() if isinstance(layer, Watched)]
    torch.onnx.export(
        model,
        torch.from_numpy(test_x[:2]),
        str(path),
        opset_version=OPSET,
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
    )
    write_fixture(path, test_x[rows], test_y[rows])
    outputs = run_onnx(path, test_x)
    report = {
        "network": name,
        "test_rows": len(test_y),
        "onnx_accuracy_percent": round(accuracy(outputs, test_y), 2),
        "largest_difference_torch_onnx": float(np.abs(outputs - reference).max()),
        "pre_activation_ranges": ranges,
        "logits": span(logits),
        "bytes": path.stat().st_size,
    }
    if logits.shape[1] == 2:
        hit = outputs.argmax(1)
        report["recall_percent"] = [round(float(np.mean(hit[test_y == c] == c) * 100), 2) for c in (0, 1)]
    print(json.dumps(report), flush=True)


def regress(name, model, train, loss_of, epochs, rate, outputs):
    """Trains and writes a network that is not (only) a classifier; its fixture has no labels."""
    torch.manual_seed(SEED)
    for layer in model.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    x, y = (torch.from_numpy(np.asarray(a, np.float32)) for a in train)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=1e-5)
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(64):
            loss = loss_of(model(x[part]), y[part])
            for layer in model.modules():
                if isinstance(layer, Watched):
                    loss = loss + torch.relu(layer.z.abs() - Z_LIMIT).square().sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.eval()
    path = FIXTURES / f"{name}.onnx"
    rows = x[-SAMPLES:]
    axes = {"input": {0: "batch"}, **{output: {0: "batch"} for output in outputs}}
    torch.onnx.export(model, rows[:2], str(path), opset_version=OPSET, input_names=["input"], output_names=outputs, dynamic_axes=axes)
    with torch.no_grad():
        found = model(rows)
        found = torch.cat(found, 1) if isinstance(found, tuple) else found
        loss = float(loss_of(model(x), y))
    np.save(f"{path.with_suffix('')}.input.npy", rows.numpy())
    np.save(f"{path.with_suffix('')}.output.npy", found.numpy())
    print(json.dumps({"network": name, "loss": loss, "bytes": path.stat().st_size}), flush=True)


def power(folder):
    """AI4I 2020: what the machine's power [kW] and its excess temperature [K] follow from."""
    _, x, _ = ai4i_rows(folder / "ai4i2020" / "ai4i2020.csv")
    x = x[:, :5]
    kilowatts = x[:, 2] * x[:, 3] * 2 * np.pi / 60 / 1000
    return x, np.stack([kilowatts, x[:, 1] - x[:, 0]], 1)


def heads_loss(found, wanted):
    digit, ink = found
    return nn.functional.cross_entropy(digit, wanted[:, 0].long()) + 100 * (ink[:, 0] - wanted[:, 1]).square().mean()


def main():
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    image = lambda: mnist_data(folder, (1, 28, 28))
    networks = {
        "torch-mlp-poly": lambda name: produce(
            name,
            nn.Sequential(nn.Linear(64, 37), Quadratic(), nn.Linear(37, 19), Square(), nn.Linear(19, 10)),
            digits_data(), epochs=80, rate=5e-3, batch=32,
        ),
        "torch-tabular": lambda name: produce(
            name,
            nn.Sequential(nn.Linear(30, 16), SquarePlus2x(), nn.Linear(16, 2)),
            cancer_data(), epochs=60, rate=3e-3, batch=32, decay=1e-3,
        ),
        "torch-ai4i": lambda name: produce(
            name,
            nn.Sequential(Standardise(ai4i_data(folder)[0]), nn.Linear(8, 32), SquarePlus2x(), nn.Linear(32, 16), Square(), nn.Linear(16, 2), nn.Softmax(1)),
            ai4i_data(folder), epochs=100, rate=2e-2, batch=256, class_weights=[1.0, 10.0], decay=0.0,
            rows=np.r_[:10, -10:0],  # the first rows run well, the last ones all fail
        ),
        "torch-mlp-tanh": lambda name: produce(
            name,
            nn.Sequential(nn.Linear(64, 32), Tanh(), nn.Linear(32, 10)),
            digits_data(), epochs=40, rate=1e-2, batch=32,
        ),
        "torch-mlp-sigmoid": lambda name: produce(
            name,
            nn.Sequential(nn.Linear(64, 32), Sigmoid(), nn.Linear(32, 10)),
            digits_data(), epochs=40, rate=1e-2, batch=32,
        ),
        "torch-mlp-noact": lambda name: produce(
            name,
            nn.Sequential(nn.Linear(784, 100), nn.BatchNorm1d(100), nn.Linear(100, 10)),
            mnist_data(folder, (784,)), epochs=3, rate=2e-3,
        ),
        "torch-small-cnn": lambda name: produce(
            name,
            nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
                # Batch norm after the ReLU: the exporter can't fold it into the convolution.
                nn.Conv2d(8, 16, 3), nn.ReLU(), nn.BatchNorm2d(16), nn.MaxPool2d(2),
                nn.Flatten(), nn.Linear(576, 48), Square(), nn.Linear(48, 10),
            ),
            image(), epochs=2, rate=4e-3,
        ),
        # ReLU throughout, for fits without retraining: batch norm and weight decay keep what goes into it near one size.
        "torch-mlp-relu": lambda name: produce(
            name,
            nn.Sequential(nn.Linear(784, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)),
            mnist_data(folder, (784,)), epochs=6, rate=4e-3, decay=1e-4,
        ),
        "torch-avgpool-cnn": lambda name: produce(
            name,
            nn.Sequential(
                nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2),
                nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(2),
                nn.Flatten(), nn.Linear(144, 10),
            ),
            image(), epochs=6, rate=8e-3, decay=1e-4,
        ),
        "torch-residual-cnn": lambda name: produce(
            name,
            nn.Sequential(
                nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), Residual(16), nn.MaxPool2d(2), Residual(16),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 32), SquarePlus2x(), nn.Linear(32, 10),
            ),
            image(), epochs=2, rate=8e-3,
        ),
    }
    networks["torch-regression"] = lambda name: regress(
        name, nn.Sequential(Standardise(power(folder)[0]), nn.Linear(5, 16), Square(), nn.Linear(16, 2)),
        power(folder), nn.functional.mse_loss, epochs=15, rate=3e-3, outputs=["power and excess"],
    )
    digits = digits_data()
    networks["torch-two-heads"] = lambda name: regress(
        name, Heads(), (digits[0], np.stack([digits[1], digits[0].mean(1)], 1)), heads_loss, epochs=40, rate=5e-3, outputs=["digit", "ink"],
    )
    for name in sys.argv[2:] or networks:
        networks[name](name)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main()
