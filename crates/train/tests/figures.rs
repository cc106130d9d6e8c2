//! Figures from made-up logs: all files are there, and the tables hold what is drawn.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use subrosa_train::figures::{Column, FigureError, Series, accuracy, approximations};

/// A log of `epochs` epochs that nears `end`.
fn log(path: &Path, seed: u64, epochs: u32, end: f64) -> PathBuf {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut text = "epoch,seconds,learning_rate,loss,accuracy_train,accuracy_validation,accuracy_test\n".to_owned();
    for epoch in 1..=epochs {
        let test = end - 0.2 * (-f64::from(epoch) / 4.0).exp() + random.random_range(-0.008..0.008);
        let validation = if epoch % 2 == 0 { format!("{:.4}", test - 0.001) } else { String::new() };
        writeln!(text, "{epoch},{},0.05,0.4,{:.4},{validation},{test:.4}", 3 * epoch, test + 0.01).unwrap();
    }
    fs::write(path, text).unwrap();
    path.to_owned()
}

fn series(directory: &Path, name: &str, runs: u64, epochs: u32, end: f64) -> Series {
    let logs: Vec<PathBuf> =
        (0..runs).map(|run| log(&directory.join(format!("{end}-{run}.csv")), run, epochs, end)).collect();
    Series::read(name, Column::Test, &logs).unwrap()
}

/// The dimensions in a PNG's first chunk.
fn dots(path: &Path) -> (u32, u32) {
    let bytes = fs::read(path).unwrap();
    assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"));
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

fn rows(path: &Path) -> Vec<Vec<String>> {
    let mut table = csv::Reader::from_path(path).unwrap();
    let header = table.headers().unwrap().clone();
    std::iter::once(header)
        .chain(table.records().map(Result::unwrap))
        .map(|row| row.iter().map(str::to_owned).collect())
        .collect()
}

#[test]
fn accuracies_are_drawn_with_their_mean_and_range() {
    let directory = tempfile::tempdir().unwrap();
    // To be looked at, where it is said to.
    let out = std::env::var_os("FIGURES").map_or(directory.path().join("figures"), PathBuf::from);
    let all = [
        series(directory.path(), "ReLU", 3, 20, 0.93),
        series(directory.path(), "x² + 2x, trained", 3, 20, 0.915),
        series(directory.path(), "none, \"linear\"", 1, 16, 0.88),
        series(directory.path(), "chebyshev(relu,4,-4,4)", 2, 20, 0.921),
    ];
    let paths = accuracy("CIFAR-10: test accuracy <made up>", &all, &out.join("cifar10.v1")).unwrap();
    let names: Vec<_> = paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["cifar10.v1.svg", "cifar10.v1.png", "cifar10.v1.csv"]);
    let svg = fs::read_to_string(&paths[0]).unwrap();
    assert!(svg.contains("&lt;made up&gt;") && svg.contains("x² + 2x, trained"));
    let (width, height) = dots(&paths[1]);
    assert!(width > 1400 && height > 900);
    let rows = rows(&paths[2]);
    assert_eq!(rows[0], ["series", "epoch", "accuracy", "lowest", "highest", "runs"]);
    assert_eq!(rows.len(), 1 + 20 + 20 + 16 + 20);
    assert_eq!(&rows[45][..2], ["none, \"linear\"", "5"]);
    let number = |row: usize, column: usize| rows[row][column].parse::<f64>().unwrap();
    let runs: Vec<f64> = (0..3)
        .map(|run| {
            let text = fs::read_to_string(directory.path().join(format!("0.93-{run}.csv"))).unwrap();
            text.lines().nth(7).unwrap().rsplit(',').next().unwrap().parse().unwrap()
        })
        .collect();
    assert!((number(7, 2) - runs.iter().sum::<f64>() / 3.0).abs() < 1e-12);
    assert_eq!(number(7, 3), runs.iter().copied().fold(1.0, f64::min));
    assert_eq!(number(7, 4), runs.iter().copied().fold(0.0, f64::max));
    assert_eq!(number(7, 5), 3.0);

    // Drawn again it is the same, dot by dot.
    let again = accuracy("CIFAR-10: test accuracy <made up>", &all, &directory.path().join("again")).unwrap();
    for (path, again) in paths.iter().zip(&again) {
        assert!(fs::read(path).unwrap() == fs::read(again).unwrap());
    }
}

#[test]
fn values_that_were_not_measured_are_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(&directory.path().join("log.csv"), 1, 5, 0.99);
    let series = Series::read("validation", Column::Validation, &[&log]).unwrap();
    assert_eq!(series.epochs().iter().map(|e| e.epoch).collect::<Vec<_>>(), [2, 4]);
    // One epoch alone, and accuracies at the ends, can be drawn too.
    let many: Vec<Series> = (1..=14)
        .map(|k| {
            Series::new(
                &format!("series {k}"),
                Column::Test,
                &[(0..9).map(|e| (e, f64::from(k * e) / 150.0)).collect()],
            )
            .unwrap()
        })
        .collect();
    let out = std::env::var_os("FIGURES").map_or(directory.path().to_owned(), PathBuf::from);
    accuracy(
        "Fourteen series with a title that is much longer than what would fit over the plot alone, as titles may be",
        &many,
        &out.join("many"),
    )
    .unwrap();
    for (name, accuracies) in [("one", vec![(1, 0.5)]), ("flat", vec![(0, 1.0), (1, 1.0)]), ("low", vec![(3, 0.0)])] {
        let series = Series::new(name, Column::Test, &[accuracies]).unwrap();
        for path in accuracy(name, &[series], &directory.path().join(name)).unwrap() {
            assert!(fs::metadata(path).unwrap().len() > 40);
        }
    }
}

#[test]
fn what_is_no_log_says_where() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.csv");
    for (text, part) in [
        ("", "names no column 'epoch'"),
        ("epoch,loss\n1,2\n", "names no column 'accuracy_test'"),
        ("epoch,accuracy_test\n1,0.5\ntwo,0.6\n", "line 3: 'two' in epoch is not a number of epochs"),
        ("epoch,accuracy_test\n1,50\n", "line 2: '50' in accuracy_test is not between 0 and 1"),
        ("epoch,accuracy_test\n1,NaN\n", "line 2: 'NaN' in accuracy_test is not between 0 and 1"),
        ("epoch,accuracy_test\n1\n", "found record with 1 fields"),
        ("epoch,accuracy_test\n1,\n", "'x' has no values of accuracy_test"),
    ] {
        fs::write(&path, text).unwrap();
        let error = Series::read("x", Column::Test, &[&path]).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    let missing = Series::read("x", Column::Test, &[directory.path().join("none.csv")]).unwrap_err();
    assert!(matches!(missing, FigureError::Io { .. }));
    assert!(matches!(accuracy("title", &[], &path), Err(FigureError::Empty(_))));
    // A file where a directory should be.
    let series = Series::new("x", Column::Test, &[vec![(1, 0.5)]]).unwrap();
    assert!(matches!(accuracy("title", &[series], &path.join("stem")), Err(FigureError::Io { .. })));
}

#[test]
fn approximations_of_relu_are_drawn() {
    let directory = tempfile::tempdir().unwrap();
    let out = std::env::var_os("FIGURES").map_or(directory.path().to_owned(), PathBuf::from);
    let paths = approximations(&out).unwrap();
    assert_eq!(paths.len(), 6);
    for png in [&paths[1], &paths[4]] {
        let (width, height) = dots(png);
        assert!(width == 2000 && height >= 1000);
    }
    let curves = rows(&paths[2]);
    assert_eq!(curves[0], ["curve", "x", "y"]);
    assert_eq!(curves.len(), 1 + 401 * (2 + 4 * 3));
    let value = |curve: &str, x: &str| {
        let row = curves.iter().find(|row| row[0] == curve && row[1] == x).unwrap();
        row[2].parse::<f64>().unwrap()
    };
    assert_eq!(
        (value("relu", "-4"), value("relu", "2"), value("x2+2x", "4"), value("x2+2x", "-1")),
        (0.0, 2.0, 24.0, -1.0)
    );
    assert!((value("least-squares(relu,2,-4,4)", "0") - 0.375).abs() < 1e-12);
    assert!((value("taylor(relu,8,-4,4)", "0") - 2f64.ln()).abs() < 1e-12);
    let errors = rows(&paths[5]);
    assert_eq!(errors[0], ["curve", "method", "degree", "max_abs", "rms"]);
    assert_eq!(errors[1][..4], ["x2+2x", "", "2", "20"]);
    assert_eq!(errors.len(), 2 + 4 * 9);
}
