#!/usr/bin/env python3
"""Trains mnist-cnn.onnx, the demo network: the shape of Keras' cifar10_cnn.py example on MNIST, with x^2+2x in the hidden dense layer.

    python3 -m venv venv && venv/bin/pip install -r models/requirements-keras.txt
    venv/bin/python models/train_mnist_keras.py /path/to/mnist [--seed 1] [--epochs 6] [--out models/mnist-cnn.onnx]

The folder holds the four MNIST files *-ubyte.gz. Same seed and same package versions give the same weights on the same kind of
processor. Prints one JSON object: the accuracy of the ONNX file on the 10,000 test digits and the ranges an encrypted run has to carry.
"""
import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from keras import layers, regularizers

from model_data import MODELS, accuracy, mnist, run_onnx

Z_LIMIT = 2.5  # soft bound on the input of x^2+2x


@keras.saving.register_keras_serializable("subrosa")
def square_plus_2x(x):
    return x * x + 2.0 * x


@keras.saving.register_keras_serializable("subrosa")
class BeyondLimit(regularizers.Regularizer):
    """Punishes what leaves [-Z_LIMIT, Z_LIMIT]: a quadratic has no bound of its own, and the encrypted run has a fixed range."""

    def __call__(self, z):
        # Keras divides an activity penalty by the batch size.
        return 0.3 * tf.reduce_sum(tf.square(tf.nn.relu(tf.abs(z) - Z_LIMIT)))


def network():
    return keras.Sequential(
        [
            layers.Input((28, 28, 1), name="image"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(
                512,
                name="hidden",
                # Starts each unit at the vertex of x^2+2x = (x+1)^2-1. Started at 0, training used the linear
                # part alone (without the square the accuracy stayed the same): a run that lost it would go unnoticed.
                bias_initializer=keras.initializers.Constant(-1.0),
                kernel_regularizer=regularizers.L2(1e-6),
                activity_regularizer=BeyondLimit(),
            ),
            layers.Activation(square_plus_2x, name="square_plus_2x"),
            layers.Dropout(0.5),
            layers.Dense(10, name="logits", kernel_regularizer=regularizers.L2(5e-4)),
            layers.Softmax(name="probabilities"),
        ]
    )


def span(values):
    return [round(float(values.min()), 4), round(float(values.max()), 4)]


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("mnist")
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--epochs", type=int, default=6)
    args.add_argument("--out", default=str(MODELS / "mnist-cnn.onnx"))
    args = args.parse_args()

    keras.utils.set_random_seed(args.seed)
    tf.config.experimental.enable_op_determinism()
    train_x, train_y, test_x, test_y = mnist(args.mnist)
    train_x, test_x = train_x[..., None], test_x[..., None]

    model = network()
    batch = 100
    steps = args.epochs * len(train_x) // batch
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1.5e-3, max(steps, 1))),
        # Smoothed labels keep the logits small.
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=0.05),
        metrics=["accuracy"],
    )
    model.fit(train_x, np.eye(10, dtype=np.float32)[train_y], batch_size=batch, epochs=args.epochs, verbose=2)
    model.export(args.out, format="onnx", opset_version=15, verbose=False)

    outputs = run_onnx(args.out, test_x)
    parts = [model.get_layer(n).output for n in ("hidden", "square_plus_2x", "logits")]
    inner = keras.Model(model.inputs, [model.get_layer("hidden").input, *parts])
    features, z, hidden, logits = inner.predict(test_x, batch_size=500, verbose=0)
    top = np.sort(logits, axis=1)
    without_square = model.get_layer("logits")(2.0 * z).numpy()
    print(
        json.dumps(
            {
                "network": "mnist-cnn",
                "seed": args.seed,
                "epochs": args.epochs,
                "test_digits": len(test_y),
                "onnx_accuracy_percent": round(accuracy(outputs, test_y), 2),
                "keras_accuracy_percent": round(accuracy(logits, test_y), 2),
                "accuracy_without_the_square_percent": round(accuracy(without_square, test_y), 2),
                "accuracy_first_1000_percent": round(accuracy(outputs[:1000], test_y[:1000]), 2),
                "largest_difference_keras_onnx": float(np.abs(keras.ops.softmax(logits) - outputs).max()),
                "flattened_features": span(features),
                "features_zero_share": round(float(np.mean(features == 0)), 4),
                "hidden_z": span(z),
                "hidden_z_abs_99_9_percentile": round(float(np.quantile(np.abs(z), 0.999)), 4),
                "hidden_after_activation": span(hidden),
                "logits": span(logits),
                "smallest_top_two_gap": round(float((top[:, -1] - top[:, -2]).min()), 5),
                "hidden_weights": span(model.get_layer("hidden").kernel.numpy()),
                "logits_weights": span(model.get_layer("logits").kernel.numpy()),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
