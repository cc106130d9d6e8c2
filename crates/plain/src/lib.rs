//! Runs a plain ONNX network (or the front part of one) by rten.
