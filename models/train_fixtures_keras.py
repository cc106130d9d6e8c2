#!/usr/bin/env python3
"""Trains the Keras fixtures (fixtures/keras-*.onnx) on MNIST and writes their sample inputs, outputs and labels.

    python3 -m venv venv && venv/bin/pip install -r models/requirements-keras.txt
    venv/bin/python models/train_fixtures_keras.py /path/to/mnist [name ...]

The folder holds the four MNIST files *-ubyte.gz. Seeded as train_mnist_keras.py is. Prints one JSON object a network.
"""
import json
import sys

# First: it sets TensorFlow's log level and registers the activation and the penalty.
from train_mnist_keras import BeyondLimit, keras, layers, np, span, square_plus_2x, tf
from model_data import FIXTURES, accuracy, mnist, run_onnx, write_fixture

SEED = 1


def small_cnn():
    return keras.Sequential(
        [
            layers.Input((28, 28, 1), name="image"),
            layers.Conv2D(8, 5, strides=2, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            # After a ReLU the exporter can't fold it into a convolution.
            layers.BatchNormalization(),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(64, name="hidden", activity_regularizer=BeyondLimit()),
            layers.Activation(square_plus_2x),
            layers.Dense(10, name="logits"),
            layers.Softmax(),
        ]
    )


def mlp_relu():
    return keras.Sequential(
        [
            layers.Input((28, 28, 1), name="image"),
            layers.Flatten(),
            layers.Dense(128, name="hidden"),
            layers.ReLU(),
            layers.Dense(10, name="logits"),
            layers.Softmax(),
        ]
    )


def produce(name, build, epochs, rate, data):
    keras.utils.set_random_seed(SEED)
    train_x, train_y, test_x, test_y = data
    model = build()
    batch = 100
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, epochs * len(train_x) // batch)),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=0.05),
    )
    model.fit(train_x, np.eye(10, dtype=np.float32)[train_y], batch_size=batch, epochs=epochs, verbose=0)
    path = FIXTURES / f"{name}.onnx"
    model.export(str(path), format="onnx", opset_version=15, verbose=False)
    write_fixture(path, test_x, test_y)
    outputs = run_onnx(path, test_x)
    inner = keras.Model(model.inputs, [model.get_layer(n).output for n in ("hidden", "logits")])
    z, logits = inner.predict(test_x, batch_size=500, verbose=0)
    report = {
        "network": name,
        "test_rows": len(test_y),
        "onnx_accuracy_percent": round(accuracy(outputs, test_y), 2),
        "largest_difference_keras_onnx": float(np.abs(keras.ops.softmax(logits) - outputs).max()),
        "pre_activation_ranges": [span(z)],
        "logits": span(logits),
        "bytes": path.stat().st_size,
    }
    print(json.dumps(report), flush=True)


def main():
    tf.config.experimental.enable_op_determinism()
    train_x, train_y, test_x, test_y = mnist(sys.argv[1])
    data = train_x[..., None], train_y, test_x[..., None], test_y
    networks = {
        "keras-small-cnn": lambda name: produce(name, small_cnn, 4, 3e-3, data),
        "keras-mlp-relu": lambda name: produce(name, mlp_relu, 4, 2e-3, data),
    }
    for name in sys.argv[2:] or networks:
        networks[name](name)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main()
