#!/usr/bin/env python3
"""Times the training of the paper's network by TensorFlow or PyTorch on this machine, as the peer of `subrosa train bench --peer NAME`.

    python3 -m venv venv && venv/bin/pip install tensorflow-cpu        (or Debian's python3-torch)
    venv/bin/python models/peer_training.py tensorflow|torch [--samples 3200] [--batch 64] [--threads 1]

The network is Keras' cifar10_cnn.py with batch norm before each activation, as `--arch keras-cnn` builds it: with ReLU and max pooling, and with a learned
a x^2 + b x for each channel and mean pooling. Cross entropy, Adam with decoupled weight decay, gradients clipped to norm 1; samples are random and
are not varied. Prints one JSON object: for each network the samples a second of the second epoch, the first one being for compilation.
"""
import argparse
import json
import os
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("peer", choices=["tensorflow", "torch"])
parser.add_argument("--samples", type=int, default=3200)
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--threads", type=int, default=1)
args = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(args.threads)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np  # noqa: E402  after the number of threads is set

random = np.random.default_rng(0)
images = random.random((args.samples, 32, 32, 3), np.float32)
labels = random.integers(0, 10, args.samples)


def tensorflow(quadratic):
    import keras
    import tensorflow as tf
    from keras import layers

    class Quadratic(layers.Layer):
        def build(self, shape):
            channels = (shape[-1],)
            self.a = self.add_weight(shape=channels, initializer=keras.initializers.Constant(0.1))
            self.b = self.add_weight(shape=channels, initializer=keras.initializers.Constant(0.5))

        def call(self, x):
            return x * (self.a * x + self.b)

    def activated(model, layer):
        for part in (layer, layers.BatchNormalization(), Quadratic() if quadratic else layers.Activation("relu")):
            model.add(part)

    model = keras.Sequential([keras.Input((32, 32, 3))])
    for filters in (32, 64):
        activated(model, layers.Conv2D(filters, 3, padding="same", use_bias=False))
        activated(model, layers.Conv2D(filters, 3, use_bias=False))
        model.add(layers.AveragePooling2D(2) if quadratic else layers.MaxPooling2D(2))
    model.add(layers.Flatten())
    activated(model, layers.Dense(512, use_bias=False))
    model.add(layers.Dense(10))
    model.compile(
        keras.optimizers.AdamW(1e-3, weight_decay=0.01, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(args.batch, drop_remainder=True)
    model.fit(data, verbose=0)
    started = time.perf_counter()
    model.fit(data, verbose=0)
    return time.perf_counter() - started


def torch(quadratic):
    import torch
    from torch import nn

    torch.set_num_threads(args.threads)

    class Quadratic(nn.Module):
        def __init__(self, channels, flat):
            super().__init__()
            shape = (channels,) if flat else (channels, 1, 1)
            self.a = nn.Parameter(torch.full(shape, 0.1))
            self.b = nn.Parameter(torch.full(shape, 0.5))

        def forward(self, x):
            return x * (self.a * x + self.b)

    def activated(layer, channels, flat=False):
        norm = nn.BatchNorm1d(channels) if flat else nn.BatchNorm2d(channels)
        return [layer, norm, Quadratic(channels, flat) if quadratic else nn.ReLU()]

    parts = []
    for before, filters in ((3, 32), (32, 64)):
        parts += activated(nn.Conv2d(before, filters, 3, padding=1, bias=False), filters)
        parts += activated(nn.Conv2d(filters, filters, 3, bias=False), filters)
        parts.append(nn.AvgPool2d(2) if quadratic else nn.MaxPool2d(2))
    parts += [nn.Flatten(), *activated(nn.Linear(2304, 512, bias=False), 512, True), nn.Linear(512, 10)]
    model = nn.Sequential(*parts)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01)
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    y = torch.from_numpy(labels)

    def epoch():
        for at in range(0, args.samples - args.batch + 1, args.batch):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(x[at : at + args.batch]), y[at : at + args.batch])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            loss.item()

    epoch()
    started = time.perf_counter()
    epoch()
    return time.perf_counter() - started


try:
    if args.peer == "tensorflow":
        import tensorflow as tf_module

        tf_module.config.threading.set_intra_op_parallelism_threads(args.threads)
        tf_module.config.threading.set_inter_op_parallelism_threads(1)
        version, train = tf_module.__version__, tensorflow
    else:
        import torch as torch_module

        version, train = torch_module.__version__, torch
except ImportError as error:
    print(json.dumps({"error": f"{args.peer} is missing ({error})"}))
    sys.exit(1)

count = args.samples // args.batch * args.batch
rows = {name: count / train(quadratic) for name, quadratic in (("relu, max", False), ("quadratic, mean", True))}
print(json.dumps({"peer": args.peer, "version": version, "threads": args.threads, "samples_per_second": rows}))
