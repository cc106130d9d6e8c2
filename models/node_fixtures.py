#!/usr/bin/env python3
"""Writes ONNX's own tests of single operators as networks of one input into crates/network/tests/node.

    python3 -m venv venv && venv/bin/pip install onnx==1.23.2
    venv/bin/python models/node_fixtures.py

Taken are the tests in float32 of the operators below. Their first input stays the input, all others become weights; the
data set's input and outputs are kept as the initializers `test.input` and `test.output`, which no node reads.

A network's first axis is the batch, which most of these tests do not have:
- Operators that take a batch by their definition (convolution, pooling, batch norm, Gemm, MatMul and Softmax of matrices,
  depth to space) keep their tensors; each row of the first axis is a sample.
- All others get a first axis of size 1 before the axes of the test, and axes in attributes and inputs count one further.
"""
import pathlib
import warnings

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

OUT = pathlib.Path(__file__).parent.parent / "crates/network/tests/node"
BATCHED = "Conv AveragePool MaxPool GlobalAveragePool GlobalMaxPool BatchNormalization Gemm DepthToSpace SpaceToDepth"
ELEMENTWISE = (
    "Add Sub Mul Div Sum Mean Max Neg Pow Identity Dropout Cast Relu LeakyRelu PRelu Elu Selu Celu Sigmoid HardSigmoid "
    "Tanh Softplus Softsign Gelu Swish HardSwish Mish Clip Abs Exp ThresholdedRelu"
)
AXES = (
    "MatMul ReduceMean ReduceSum Flatten Reshape Squeeze Unsqueeze Transpose Pad Concat Slice Split Gather Expand Softmax "
    "LogSoftmax"
)
# Numbers in a test's tensors; the few larger ones test nothing more.
LIMIT = 25_000


def lifted(node, inputs, rank):
    """The node with one axis more in front, and its inputs."""
    op = node.op_type
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    further = lambda axes: [int(a) + 1 if a >= 0 else int(a) for a in axes]
    inputs = dict(inputs)
    names = list(node.input)

    def given(index):
        return index < len(names) and names[index] != ""

    def shift(index):
        inputs[names[index]] = np.array(further(inputs[names[index]].reshape(-1)), dtype=np.int64)

    def add(index, value):
        while len(names) <= index:
            names.append("")
        names[index] = f"added.{index}"
        inputs[names[index]] = np.array(value, dtype=np.int64)

    if op in ("Concat", "Split", "Gather"):
        attributes["axis"] = further([attributes.get("axis", 0)])[0]
    if op == "Flatten":
        axis = attributes.get("axis", 1)
        if axis % rank != 0 or axis == rank:
            return None
        # Flattening from axis 0 on makes one row; others would merge axes into the batch.
        attributes["axis"] = 1
    if op in ("Softmax", "LogSoftmax"):
        attributes["axis"] = further([attributes.get("axis", -1)])[0]
    if op == "Transpose":
        attributes["perm"] = [0] + further(attributes.get("perm", range(rank - 1, -1, -1)))
    if op in ("Squeeze", "Unsqueeze"):
        if given(1):
            shift(1)
        else:
            add(1, [axis + 1 for axis, size in enumerate(inputs[names[0]].shape) if size == 1])
    if op in ("ReduceMean", "ReduceSum"):
        if given(1) and inputs[names[1]].size:
            shift(1)
        elif not attributes.get("noop_with_empty_axes", 0):
            add(1, range(1, rank + 1))
    if op == "Slice":
        if given(3):
            shift(3)
        else:
            add(3, range(1, len(inputs[names[1]]) + 1))
    if op == "Pad":
        if given(3):
            shift(3)
        else:
            pads = inputs[names[1]]
            inputs[names[1]] = np.concatenate([[0], pads[:rank], [0], pads[rank:]]).astype(np.int64)
    if op == "Reshape":
        inputs[names[1]] = np.concatenate([[1], inputs[names[1]]]).astype(np.int64)
    if op == "Expand":
        shape = inputs[names[1]]
        inputs[names[1]] = np.concatenate([[1] * (1 + rank - len(shape)), shape]).astype(np.int64)
    if op == "Concat":
        for name in names[1:]:
            inputs[name] = inputs[name][None]
    inputs[names[0]] = inputs[names[0]][None]
    node = helper.make_node(op, names, list(node.output), name=node.op_type, **attributes)
    return node, inputs


def convert(case):
    graph = case.model.graph
    if len(graph.node) != 1 or case.name.endswith("_expanded"):
        return None
    node = graph.node[0]
    op = node.op_type
    if op not in f"{BATCHED} {ELEMENTWISE} {AXES}".split() or not case.data_sets:
        return None
    values, outputs = case.data_sets[0]
    names = [value.name for value in graph.input]
    if len(names) != len(values) or not names or node.input[0] != names[0]:
        return None
    if not all(isinstance(v, (np.ndarray, np.generic)) for v in [*values, *outputs]):
        return None
    values, outputs = [np.asarray(v) for v in values], [np.asarray(v) for v in outputs]
    if values[0].dtype != np.float32 or any(v.dtype != np.float32 for v in outputs[:1]):
        return None
    if sum(v.size for v in [*values, *outputs]) > LIMIT:
        return None
    inputs = dict(zip(names, values))
    expected = outputs
    axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
    rows = op == "MatMul" or "Softmax" in op and axis in (-1, 1)
    batched = op in BATCHED.split() or rows and values[0].ndim == 2
    if batched:
        sample, batch = values[0].shape[1:], values[0].shape[:1]
        node = onnx.NodeProto.FromString(node.SerializeToString())
        node.name = op
    else:
        found = lifted(node, inputs, values[0].ndim)
        if found is None:
            return None
        node, inputs = found
        expected = [value[None] for value in outputs]
        if op == "Flatten":
            expected = outputs
        sample = values[0].shape
    weights = [name for name in node.input if name and name != node.input[0]]
    pieces = [numpy_helper.from_array(np.asarray(inputs[name]), name) for name in dict.fromkeys(weights)]
    pieces.append(numpy_helper.from_array(inputs[node.input[0]], "test.input"))
    kept = [k for k, name in enumerate(node.output) if name][: None if op == "Split" else 1]
    result = node.output[0]
    nodes = [node]
    if op == "Split":
        # One output: the parts in a row again.
        result = "joined"
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        nodes.append(helper.make_node("Concat", list(node.output), [result], name="Concat", axis=axis))
        expected = [np.concatenate(expected, axis=axis)]
        kept = [0]
    else:
        del node.output[1:]
    pieces.append(numpy_helper.from_array(np.asarray(expected[kept[0]]), "test.output"))
    float32 = onnx.TensorProto.FLOAT
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(node.input[0], float32, ["batch", *sample])],
        [helper.make_tensor_value_info(result, float32, None)],
        pieces,
    )
    return helper.make_model(made, opset_imports=case.model.opset_import, ir_version=8, producer_name="")


def main():
    OUT.mkdir(exist_ok=True)
    for old in OUT.glob("*.onnx"):
        old.unlink()
    count = total = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    for case in cases:
        model = convert(case)
        if model is None:
            continue
        data = model.SerializeToString()
        (OUT / f"{case.name.removeprefix('test_')}.onnx").write_bytes(data)
        count, total = count + 1, total + len(data)
    print(f"{count} tests, {total} bytes")


if __name__ == "__main__":
    main()
