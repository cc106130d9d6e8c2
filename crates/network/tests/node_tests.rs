//! ONNX's own tests of single operators (tests/node), and the table of them in docs/operators.md.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too

use std::collections::BTreeMap;
use std::path::Path;

use rten_onnx::onnx::{ModelProto, TensorProto};
use subrosa_network::{Network, NetworkError, Scope, Substitutions};

/// Shape and values of an initializer that no node reads.
fn data(model: &ModelProto, name: &str) -> (Vec<usize>, Vec<f32>) {
    let graph = model.graph.as_ref().unwrap();
    let tensor: &TensorProto = graph.initializer.iter().find(|t| t.name.as_deref() == Some(name)).unwrap();
    let shape = tensor.dims.iter().map(|&d| d as usize).collect();
    let values = match &tensor.raw_data {
        Some(raw) => raw.borrow().as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect(),
        None => tensor.float_data.clone(),
    };
    (shape, values)
}

enum Outcome {
    Passed { function: bool },
    Refused(String),
}

fn run(name: &str, onnx: &[u8]) -> Outcome {
    let refused = |error: NetworkError| {
        Outcome::Refused(match error {
            NetworkError::Operator { why, .. } => why,
            NetworkError::Plain(error) => format!("the runtime: {error}"),
            other => other.to_string(),
        })
    };
    let model = ModelProto::parse_buf(onnx).unwrap();
    let network = match Network::from_onnx(onnx) {
        Ok(network) => network,
        Err(error) => return refused(error),
    };
    let circuit = match network.circuit(&Scope::All, &Substitutions::none()) {
        Ok(split) => split.circuit,
        Err(error) => return refused(error),
    };
    let (input_shape, input) = data(&model, "test.input");
    let (output_shape, output) = data(&model, "test.output");
    let batch = input_shape[0];
    assert_eq!(output_shape[0], batch, "{name}");
    let (inputs, outputs) = (input.len() / batch, output.len() / batch);
    assert_eq!((circuit.inputs(), circuit.outputs()), (inputs, outputs), "{name}");
    for (row, expected) in input.chunks(inputs).zip(output.chunks(outputs)) {
        let row: Vec<f64> = row.iter().map(|&v| v.into()).collect();
        let mut scores = circuit.eval(&row);
        // A final Softmax is left to the owner.
        if name.contains("softmax") {
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
            let log = name.contains("logsoftmax");
            scores.iter_mut().for_each(|s| *s = if log { *s - largest - sum.ln() } else { (*s - largest).exp() / sum });
        }
        for (score, &expected) in scores.iter().zip(expected) {
            let near = (score - f64::from(expected)).abs() <= 1e-3 * (1.0 + f64::from(expected).abs());
            if !near && score.is_nan() && circuit.functions().count() > 0 {
                return Outcome::Refused("function with parameters of its own".into());
            }
            assert!(near, "{name}: {score} instead of {expected}");
        }
    }
    Outcome::Passed { function: circuit.functions().count() > 0 }
}

#[derive(Default)]
struct Row {
    passed: Vec<String>,
    function: bool,
    refused: BTreeMap<String, Vec<String>>,
}

fn table() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "onnx")) {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let onnx = std::fs::read(file).unwrap();
        let operator = ModelProto::parse_buf(&onnx).unwrap().graph.unwrap().node[0].op_type.clone().unwrap();
        let row = rows.entry(operator).or_default();
        match run(&name, &onnx) {
            Outcome::Passed { function } => {
                row.function |= function;
                row.passed.push(name);
            }
            Outcome::Refused(why) => row.refused.entry(why).or_default().push(name),
        }
    }
    let mut text = String::from("| Operator | Passed | Tests passed | Tests refused, and why |\n|---|---|---|---|\n");
    let (mut passed, mut total) = (0, 0);
    for (operator, row) in &rows {
        let refused: usize = row.refused.values().map(Vec::len).sum();
        passed += row.passed.len();
        total += row.passed.len() + refused;
        let why: Vec<String> = row.refused.iter().map(|(why, names)| format!("{}: {why}", names.join(", "))).collect();
        let star = if row.function { " \\*" } else { "" };
        let count = format!("{} of {}", row.passed.len(), row.passed.len() + refused);
        text += &format!("| {operator}{star} | {count} | {} | {} |\n", row.passed.join(", "), why.join("<br>"));
    }
    text + &format!("\n{passed} of {total} tests pass.\n")
}

#[test]
fn the_table_of_operators_is_what_the_tests_give() {
    let table = table();
    println!("{table}");
    let docs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operators.md")).unwrap();
    assert!(docs.contains(&table), "put the table above into docs/operators.md");
}
