//! Networks of others with ReLU, which stays as a polynomial fitted to calibration data, without any retraining.

mod common;

use common::{Home, fixture, root};
use rten_onnx::onnx::ModelProto;
use subrosa_fhe::security::SecurityLevel;
use subrosa_input::{Dataset, Preprocess, Samples, read};
use subrosa_network::Scope;
use subrosa_owner::{Prepared, ProtectRequest};

/// Digits `from..to` of those in the repository.
fn digits(from: usize, to: usize) -> Dataset {
    let path = root().join("data/mnist-test-1000-images-idx3-ubyte.gz");
    let mut all = read(path.to_str().unwrap(), Some(to)).unwrap();
    if let Samples::Pixels { height, width, channels, data } = &mut all.samples {
        data.drain(..from * *height * *width * *channels);
    }
    all.count = to - from;
    all
}

/// A network with mean pooling in the place of each MaxPool: the original to agree with, however badly it does.
fn with_mean_pooling(onnx: &[u8]) -> Vec<u8> {
    let mut model = ModelProto::parse_buf(onnx).unwrap();
    for node in &mut model.graph.as_mut().unwrap().node {
        if node.op_type.as_deref() == Some("MaxPool") {
            node.op_type = Some("AveragePool".into());
            node.attribute.retain(|a| !matches!(a.name.as_deref(), Some("dilations" | "storage_order")));
        }
    }
    model.write_buf().unwrap()
}

fn prepare(network: &str, activation: &str, calibrate: Option<&Dataset>, preprocess: &Preprocess) -> Prepared {
    let onnx = with_mean_pooling(&fixture(network).onnx);
    Home::new().owner.prepare(&request(&onnx, activation, calibrate, preprocess)).unwrap()
}

fn request<'a>(
    onnx: &'a [u8],
    activation: &str,
    calibrate: Option<&'a Dataset>,
    preprocess: &Preprocess,
) -> ProtectRequest<'a> {
    ProtectRequest {
        onnx,
        name: "foreign",
        scope: Scope::All,
        encrypted_input: true,
        substitutions: activation.parse().unwrap(),
        preprocess: Some(preprocess.clone()),
        calibrate,
        security: SecurityLevel::Bits128,
        force: false,
        fold: true,
        classes: None,
        memory_limit: None,
        costs: None,
    }
}

#[test]
fn foreign_networks_answer_as_the_originals_do() {
    let (calibration, held_out) = (digits(0, 500), digits(800, 1000));
    for (network, layout, activation) in [
        ("keras-mlp-relu", "nhwc", "relu=auto"),
        ("keras-mlp-relu", "nhwc", "relu=chebyshev:7"),
        ("keras-small-cnn", "nhwc", "relu=auto"),
        ("keras-small-cnn", "nhwc", "relu=chebyshev:9"),
        ("torch-small-cnn", "nchw", "relu=auto"),
        ("torch-residual-cnn", "nchw", "relu=auto"),
        ("torch-residual-cnn", "nchw", "relu=chebyshev:11"),
    ] {
        let preprocess: Preprocess = format!("scale=1/255 layout={layout}").parse().unwrap();
        let start = std::time::Instant::now();
        let prepared = prepare(network, activation, Some(&calibration), &preprocess);
        let seconds = start.elapsed().as_secs_f64();
        let agreement = prepared.agreement_on(&held_out, &preprocess).unwrap();
        let c = prepared.calibration();
        println!("{network} {activation}: {:?} {agreement} held out, {seconds:.1} s", c.agreement_original);
        prepared.replaced().iter().for_each(|line| println!("    {line}"));
    }
}
