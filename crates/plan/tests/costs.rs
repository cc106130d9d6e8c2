//! The cost model: its file, its measurement, and what it predicts.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::PathBuf;
use subrosa_fhe::Kernel;
use subrosa_plan::{CostModel, CostModelError};

/// A file of this test that is removed when it ends.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("subrosa-{}-{name}.json", std::process::id())))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_cost_model_is_read_back_as_it_was_written() {
    let file = File::new("good");
    for kernel in [Kernel::Avx512Ifma, Kernel::Avx2, Kernel::Portable] {
        let model = CostModel::builtin(kernel);
        model.save(&file.0).unwrap();
        let read = CostModel::load(&file.0).unwrap();
        assert_eq!(read, model);
        assert!(read.is_for(kernel) && Kernel::all_available().iter().all(|&k| read.is_for(k) == (k == kernel)));
    }
}

#[test]
fn a_missing_broken_or_impossible_cost_model_is_refused_by_name() {
    let file = File::new("bad");
    let load = || CostModel::load(&file.0).err().unwrap();
    assert!(matches!(load(), CostModelError::Io { action: "read", .. }));
    let good = serde_json::to_value(CostModel::builtin(Kernel::Portable)).unwrap();
    let text = good.to_string();
    let mut quoted = good.clone();
    quoted["encode"] = "2.4".into();
    for broken in ["", "{}", &text[..text.len() / 2], &text.replace("encode", "encoding"), &quoted.to_string()] {
        std::fs::write(&file.0, broken).unwrap();
        let error = load();
        assert!(matches!(error, CostModelError::Format { .. }), "{broken}: {error}");
        assert!(error.to_string().contains("subrosa bench primitives"), "{error}");
    }
    for value in [0.0, -1.0, 1e300] {
        let mut bad = good.clone();
        bad["keys"]["byte"] = value.into();
        std::fs::write(&file.0, bad.to_string()).unwrap();
        assert!(matches!(load(), CostModelError::Implausible { what: "keys.byte", .. }));
    }
}

#[test]
fn every_kernel_of_this_machine_can_be_measured_and_the_result_is_plausible() {
    let file = File::new("measured");
    for kernel in Kernel::all_available() {
        let model = CostModel::measure(kernel).unwrap();
        model.save(&file.0).unwrap();
        // Reading checks every figure.
        assert_eq!(CostModel::load(&file.0).unwrap(), model);
        assert!(model.is_for(kernel) && !model.machine.is_empty());
    }
}
