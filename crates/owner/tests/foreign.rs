//! Networks of others with ReLU, which stays as a polynomial fitted to calibration data, without any retraining.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too

mod common;

use common::{Home, fixture, root};
use subrosa_fhe::security::SecurityLevel;
use subrosa_input::{Dataset, Preprocess, Samples, read};
use subrosa_network::Scope;
use subrosa_owner::{OwnerError, Prepared, ProtectRequest, Silent, VerifyRequest};

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

fn prepare(
    onnx: &[u8],
    activation: &str,
    calibrate: Option<&Dataset>,
    preprocess: &Preprocess,
) -> Result<Prepared, OwnerError> {
    Home::new().owner.prepare(&request(onnx, activation, calibrate, preprocess))
}

fn request<'a>(
    onnx: &'a [u8],
    activation: &str,
    calibrate: Option<&'a Dataset>,
    preprocess: &Preprocess,
) -> ProtectRequest<'a> {
    ProtectRequest {
        scope: Scope::All,
        substitutions: activation.parse().unwrap(),
        preprocess: Some(preprocess.clone()),
        calibrate,
        ..ProtectRequest::new(onnx, "foreign")
    }
}

/// The same digits as the scikit-learn set has them: 8 x 8 means of pixels, 0 to 1.
fn small(data: &Dataset) -> Dataset {
    let Samples::Pixels { data: pixels, .. } = &data.samples else { panic!("no pixels") };
    let mut means = Vec::new();
    for image in pixels.chunks(784) {
        // Of the 20 x 20 that hold the digit, a border of 2 around.
        let at = |y: usize, x: usize| f32::from(image[(y + 2) * 28 + x + 2]) / 255.0;
        let mean = |i: usize| (0..9).map(|k| at(i / 8 * 3 + k / 3, i % 8 * 3 + k % 3)).sum::<f32>() / 9.0;
        means.extend((0..64).map(mean));
    }
    let samples = Samples::Raw { shape: vec![64], data: means };
    Dataset { count: data.count, samples, labels: None, names: None }
}

/// Digits as vectors of their pixels, 0 to 1.
fn flat(data: &Dataset) -> Dataset {
    let Samples::Pixels { data: pixels, .. } = &data.samples else { panic!("no pixels") };
    let samples = Samples::Raw { shape: vec![784], data: pixels.iter().map(|&p| f32::from(p) / 255.0).collect() };
    Dataset { count: data.count, samples, labels: None, names: None }
}

#[test]
fn foreign_networks_answer_as_the_originals_do() {
    let (calibration, held_out) = (digits(0, 500), digits(800, 1000));
    let mut low = Vec::new();
    for (network, activation) in [
        ("keras-mlp-relu", "relu=auto"),
        ("keras-mlp-relu", "relu=chebyshev:15"),
        ("keras-mlp-relu", "relu=least-squares:15"),
        ("keras-small-cnn", "relu=auto"),
        ("keras-small-cnn", "relu=chebyshev:15"),
        ("torch-mlp-relu", "relu=auto"),
        ("torch-mlp-relu", "relu=chebyshev:9"),
        ("torch-mlp-relu", "relu=minimax:5x5"),
        ("torch-avgpool-cnn", "relu=auto"),
        ("torch-avgpool-cnn", "relu=chebyshev:15"),
        ("torch-mlp-tanh", "tanh=auto"),
        ("torch-mlp-tanh", "tanh=chebyshev:11"),
        ("torch-mlp-tanh", "tanh=integrated:11"),
        ("torch-mlp-sigmoid", "sigmoid=auto"),
        ("torch-mlp-sigmoid", "sigmoid=least-squares:9"),
    ] {
        let (preprocess, data): (&str, fn(&Dataset) -> Dataset) = match network {
            "torch-mlp-relu" => ("", flat),
            "torch-avgpool-cnn" => ("scale=1/255 layout=nchw", Dataset::clone),
            keras if keras.starts_with("keras") => ("scale=1/255", Dataset::clone),
            _ => ("", small),
        };
        let preprocess: Preprocess = preprocess.parse().unwrap();
        let onnx = fixture(network).onnx;
        let calibration = data(&calibration);
        let prepared = prepare(&onnx, activation, Some(&calibration), &preprocess).unwrap();
        let agreement = prepared.agreement_on(&data(&held_out), &preprocess).unwrap();
        let found = prepared.calibration();
        println!("{network} {activation}: {:?}, {agreement} of 200 held out", found.agreement_original);
        prepared.replaced().iter().for_each(|line| println!("    {line}"));
        if agreement < 0.98 {
            low.push(format!("{network} {activation}: {agreement}"));
        }
        assert_eq!(found.fits.len(), if network.ends_with("cnn") { 2 } else { 1 });
        for fit in &found.fits {
            let (seen, outside) = (fit.seen.unwrap(), fit.outside.unwrap());
            assert!(fit.interval.0 < seen.0 && seen.1 < fit.interval.1 && outside < 1e-3, "{fit}");
            assert!(fit.rms_error <= fit.max_abs_error && fit.degree >= 2, "{fit}");
        }
    }
    assert!(low.is_empty(), "less than 98 %: {low:?}");
}

#[test]
fn values_outside_an_interval_are_told_and_calibration_data_asked_for() {
    let onnx = fixture("keras-mlp-relu").onnx;
    let preprocess: Preprocess = "scale=1/255".parse().unwrap();
    let data = digits(0, 100);
    let narrow = prepare(&onnx, "relu=chebyshev:4@-2..2", Some(&data), &preprocess).unwrap();
    let [fit] = narrow.calibration().fits.as_slice() else { panic!("one fit") };
    assert!(fit.interval == (-2.0, 2.0) && fit.outside.is_some_and(|share| share > 0.05), "{fit}");
    assert!(narrow.replaced()[0].contains("% of calibration values outside"), "{:?}", narrow.replaced());

    let text = |activation: &str| prepare(&onnx, activation, None, &preprocess).err().unwrap().to_string();
    assert!(text("relu=auto").contains("relu=auto takes what layer") && text("relu=auto").contains("--calibrate FILE"));
    assert!(text("relu=chebyshev:4@-2..2").contains("what it costs in accuracy is not known"));
    assert!(text("tanh=auto").contains("--activation relu="), "{}", text("tanh=auto"));
}

#[test]
fn a_fitted_network_is_planned_protected_and_verified_without_its_calibration_data() {
    let f = fixture("torch-mlp-tanh");
    let (home, data) = (Home::new(), small(&digits(0, 100)));
    let request = request(&f.onnx, "tanh=chebyshev:3", Some(&data), &Preprocess::default());
    let report = home.owner.protect(&request, &home.vault, &Silent).unwrap();
    assert_eq!(report.settings.fitted.len(), 1);
    assert_eq!(report.settings.fitted[0].1, report.calibration.fits[0].polynomial);
    let few = small(&digits(100, 105));
    let wanted = VerifyRequest { id: &report.id, data: &few, threads: 0 };
    let found = home.owner.verify(&wanted, &home.vault, &home.identity, &Silent).unwrap();
    assert_eq!(found.agreement, 1.0, "{found:?}");
    assert!(found.max_abs_error <= report.forecast.max_abs_error, "{found:?}");
}
