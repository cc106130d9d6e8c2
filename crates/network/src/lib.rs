//! What is computed: ONNX import, layer graph, polynomial activations, plaintext reference.
