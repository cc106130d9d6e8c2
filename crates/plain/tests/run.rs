//! Networks run in batches and one by one, and bad ones are refused with a cure.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too

use std::cell::RefCell;

use rten_onnx::onnx::{
    DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, TypeProtoTensor, ValueInfoProto,
};
use subrosa_plain::{PlainError, PlainNetwork};

fn dimension(size: i64) -> Dimension {
    Dimension { dim_value: (size >= 0).then_some(size), dim_param: (size < 0).then(|| "batch".to_owned()) }
}

fn input(name: &str, kind: DataType, shape: &[i64]) -> ValueInfoProto {
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto {
            tensor_type: Some(TypeProtoTensor {
                elem_type: Some(kind),
                shape: Some(TensorShapeProto { dim: shape.iter().copied().map(dimension).collect() }),
            }),
            ..TypeProto::default()
        }),
    }
}

/// `y = reshape(x * 2, target)`.
fn doubling(inputs: Vec<ValueInfoProto>, target: &[i64]) -> Vec<u8> {
    let two = TensorProto {
        name: Some("two".into()),
        data_type: Some(DataType::FLOAT),
        raw_data: Some(RefCell::new(2f32.to_le_bytes().to_vec())),
        ..TensorProto::default()
    };
    let target = TensorProto {
        name: Some("target".into()),
        dims: vec![target.len() as i64],
        data_type: Some(DataType::INT64),
        int64_data: target.to_vec(),
        ..TensorProto::default()
    };
    let node = |op: &str, from: [&str; 2], to: &str| NodeProto {
        op_type: Some(op.into()),
        input: from.map(str::to_owned).to_vec(),
        output: vec![to.into()],
        ..NodeProto::default()
    };
    let graph = GraphProto {
        node: vec![node("Mul", ["x", "two"], "z"), node("Reshape", ["z", "target"], "y")],
        initializer: vec![two, target],
        input: inputs,
        output: vec![ValueInfoProto { name: Some("y".into()), r#type: None }],
        ..GraphProto::default()
    };
    let model = ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(15) }],
        ..ModelProto::default()
    };
    model.write_buf().unwrap()
}

#[test]
fn free_fixed_and_half_fixed_batches_give_the_same() {
    let data: Vec<f32> = (0..150 * 6).map(|v| v as f32).collect();
    let doubled: Vec<f32> = data.iter().map(|v| 2.0 * v).collect();
    for (batch, target) in [(-1, [-1, 6]), (1, [1, 6]), (-1, [1, 6])] {
        let onnx = doubling(vec![input("x", DataType::FLOAT, &[batch, 2, 3])], &target);
        let network = PlainNetwork::load(&onnx, 2).unwrap();
        assert_eq!((network.input_shape(), network.output_len()), (&[2, 3][..], 6));
        assert_eq!(network.run(150, &data).unwrap(), doubled);
        assert!(network.run(0, &[]).unwrap().is_empty());
        let error = network.run(2, &data[..11]).unwrap_err();
        assert!(matches!(error, PlainError::WrongLength { expected: 12, given: 11, .. }));
        assert!(network.run(usize::MAX, &data).is_err());
    }
}

#[test]
fn what_cannot_run_is_refused_with_a_cure() {
    let float = DataType::FLOAT;
    for (inputs, part) in [
        (vec![input("x", float, &[8, 2, 3])], "the batch, is fixed to 8"),
        (vec![input("x", float, &[-1, -1, 3])], "axis 1 of its input has no fixed size"),
        (vec![input("x", float, &[-1, 1 << 20, 1 << 20])], "has more than"),
        (vec![input("x", float, &[])], "declares no shape"),
        (vec![input("x", DataType::INT32, &[-1, 2, 3])], "float32 is needed"),
        (vec![input("x", float, &[-1, 6]), input("w", float, &[-1, 6])], "it has 2 inputs"),
    ] {
        let error = PlainNetwork::load(&doubling(inputs, &[-1, 6]), 1).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
    let sound = doubling(vec![input("x", float, &[-1, 6])], &[-1, 6]);
    for length in 0..sound.len() - 6 {
        assert!(PlainNetwork::load(&sound[..length], 1).is_err(), "cut to {length} bytes");
    }
    // A length field beyond the file must not be allocated.
    let mut lying = vec![0x3a, 0x0c, 0x2a, 0x0a, 0x4a];
    lying.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    assert!(matches!(PlainNetwork::load(&lying, 1), Err(PlainError::Malformed(_))));
    // Graphs in attributes of nodes of graphs, a thousand deep.
    let mut nested: Vec<u8> = vec![];
    for field in [0x32, 0x2a, 0x0a].into_iter().cycle().take(3000).chain([0x3a]) {
        let mut length = nested.len();
        let mut outer = vec![field];
        while length >= 0x80 {
            outer.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.extend(nested);
        nested = outer;
    }
    let error = PlainNetwork::load(&nested, 1).err().unwrap().to_string();
    assert!(error.contains("nest too deep"), "{error}");
}

#[test]
fn networks_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<PlainNetwork>();
}
