//! Counts the instructions of the engine's hot paths with valgrind's callgrind and compares them with `benches/counts.json`: time
//! on a shared machine lies, instructions hardly differ from run to run or from machine to machine. `benches/counts.sh` runs it.
//!
//! ```sh
//! counts                 # every workload with every kernel that valgrind knows; fails if one needs more than it did
//! counts --bless         # writes what was counted to benches/counts.json
//! counts run WORKLOAD    # one workload; what is counted is its `counted_region`
//! ```
//!
//! Only that region counts: keys, secrets and everything else that is drawn at random is made before it, and one run that is not
//! counted comes first, since tables are built on first use. Valgrind knows no AVX-512.

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use subrosa_edge_agent::{Options, Processor};
use subrosa_fhe::{
    Encoder, EvaluationKeys, Evaluator, Galois, Kernel, KeyId, KeyShape, ParameterSpec, Parameters, Ring, RnsPoly,
    SecurityLevel, primes,
};
use subrosa_input::{Dataset, Samples};
use subrosa_network::{Scope, Substitutions};
use subrosa_owner::{Owner, ProtectRequest, Silent};
use subrosa_registry::{OwnerIdentity, Passphrase, Vault};
use subrosa_secret::SecretKey;

type Counts = BTreeMap<String, BTreeMap<String, u64>>;
type Outcome<T> = Result<T, Box<dyn Error>>;

/// A workload, run with what it is to do between its preparations and its end.
type Workload = fn() -> Outcome<()>;

const WORKLOADS: [(&str, Workload); 4] = [
    ("ntt", ntt),
    ("key-switch", key_switch),
    ("classifier-plain", || classifier(false)),
    ("classifier-encrypted", || classifier(true)),
];
const KERNELS: [Kernel; 2] = [Kernel::Avx2, Kernel::Portable];
/// Counts may differ by this share: memory lies elsewhere from run to run, and C libraries have versions.
const TOLERANCE: f64 = 0.02;
/// Has glibc copy and fill memory by its plainest routines on every machine. What it takes otherwise depends on the processor, and
/// callgrind counts each byte of a `rep movsb` as an instruction: a fifth of a whole count came and went with that.
const GLIBC_TUNABLES: &str = "glibc.cpu.hwcaps=-AVX2,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM,-SSSE3";
const CHECKED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/counts.json");
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/fixtures");

const LOG_N: u32 = 13;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => compare(),
        ["--bless"] => bless(),
        ["run", name] => run(name).map(|()| true),
        _ => Err("usage: counts [--bless | run WORKLOAD]".into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether no workload needs more instructions than the checked-in counts say.
fn compare() -> Outcome<bool> {
    let text = std::fs::read_to_string(CHECKED_IN).map_err(|e| format!("cannot read {CHECKED_IN}: {e}"))?;
    let expected: Counts = serde_json::from_str(&text)?;
    let found = count_all()?;
    let (mut good, mut better) = (true, false);
    for (kernel, counts) in &found {
        for (workload, &count) in counts {
            let Some(&before) = expected.get(kernel).and_then(|c| c.get(workload)) else {
                println!("{kernel:9} {workload:21} {count:>13}  not in counts.json");
                good = false;
                continue;
            };
            let change = count as f64 / before as f64 - 1.0;
            let verdict = match change {
                c if c > TOLERANCE => "SLOWER",
                c if c < -TOLERANCE => "faster",
                _ => "",
            };
            good &= change <= TOLERANCE;
            better |= change < -TOLERANCE;
            println!("{kernel:9} {workload:21} {count:>13}  {:+.2} %  {verdict}", change * 100.0);
        }
    }
    if !good || better {
        println!("if that is as it should be: benches/counts.sh --bless");
    }
    Ok(good)
}

fn bless() -> Outcome<bool> {
    let found = count_all()?;
    std::fs::write(CHECKED_IN, serde_json::to_string_pretty(&found)? + "\n")?;
    println!("{}", serde_json::to_string_pretty(&found)?);
    Ok(true)
}

fn count_all() -> Outcome<Counts> {
    let available = Kernel::all_available();
    let mut all = Counts::new();
    for kernel in KERNELS {
        if !available.contains(&kernel) {
            println!("{kernel} is not there on this machine: not counted");
            continue;
        }
        for (workload, _) in WORKLOADS {
            all.entry(kernel.to_string()).or_default().insert(workload.to_owned(), count(workload, kernel)?);
        }
    }
    Ok(all)
}

/// Instructions of one workload, counted in a process of its own.
fn count(workload: &str, kernel: Kernel) -> Outcome<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*counted_region*"])
        .arg(std::env::current_exe()?)
        .args(["run", workload])
        .env("SUBROSA_KERNEL", kernel.to_string())
        .env("GLIBC_TUNABLES", GLIBC_TUNABLES)
        .output()
        .map_err(|e| format!("cannot start valgrind: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match collected {
        Some(count) if output.status.success() && count > 0 => Ok(count),
        _ => Err(format!("valgrind counted nothing of {workload} with {kernel}:\n{said}").into()),
    }
}

fn run(name: &str) -> Outcome<()> {
    // This thread is the pool's only one, so that nothing is done in others, which callgrind would not count.
    rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global()?;
    let (_, workload) =
        WORKLOADS.into_iter().find(|(n, _)| *n == name).ok_or_else(|| format!("there is no workload '{name}'"))?;
    workload()
}

/// Runs the work once to build its tables, and once to be counted.
fn counted(mut work: impl FnMut() -> Outcome<()>) -> Outcome<()> {
    work()?;
    counted_region(&mut work)
}

/// What callgrind counts, by this name.
#[inline(never)]
fn counted_region(work: &mut dyn FnMut() -> Outcome<()>) -> Outcome<()> {
    black_box(work())
}

/// One limb there and back.
fn ntt() -> Outcome<()> {
    let ring = Ring::new(LOG_N, &primes::find(LOG_N, 45, 1, &[])?, Kernel::active()?)?;
    let mut poly = RnsPoly::zero(1 << LOG_N, 1);
    poly.as_mut_slice().iter_mut().zip(0..).for_each(|(word, i)| *word = i);
    counted(|| {
        ring.table(0).forward(poly.limb_mut(0));
        ring.table(0).inverse(poly.limb_mut(0));
        Ok(())
    })
}

/// A product relinearised and rescaled, and a rotation, at 4 limbs with digits of 2.
fn key_switch() -> Outcome<()> {
    let ciphertext = primes::find(LOG_N, 30, 4, &[])?;
    let special = primes::find(LOG_N, 40, 2, &ciphertext)?;
    let spec = ParameterSpec::new(LOG_N, ciphertext, special, SecurityLevel::Bits128);
    let parameters = Parameters::new(spec, Kernel::active()?)?;
    let secret = SecretKey::generate(&parameters)?;
    let shape = KeyShape { level: 4, specials: 2, digit: 2 };
    let rotation = Galois::rotation(1);
    let mut keys = EvaluationKeys::new();
    for id in [KeyId::new(Galois::IDENTITY, 2), KeyId::new(rotation, 1)] {
        keys.insert(secret.switch_key(id, shape)?.prepare(&parameters)?);
    }
    let slots: Vec<f64> = (0..parameters.slots()).map(|i| (i % 17) as f64 / 17.0).collect();
    let plain = Encoder::new(&parameters).encode_real(&slots, 25f64.exp2(), 4)?;
    let a = secret.encrypt(&plain)?.expand(&parameters)?;
    let evaluator = Evaluator::new(&parameters);
    counted(|| {
        black_box(evaluator.relinearize(&evaluator.mul(&a, &a)?, &keys, true)?);
        black_box(evaluator.rotate(&a, rotation, &keys)?);
        Ok(())
    })
}

/// The blind evaluation of the classifier 576-64-10, x^2+2x, of a CNN from `models/fixtures`.
fn classifier(encrypted_input: bool) -> Outcome<()> {
    let onnx = std::fs::read(fixture("keras-small-cnn.onnx"))?;
    let calibration = subrosa_input::read(&fixture("keras-small-cnn.input.npy").to_string_lossy(), None)?;
    let home = tempfile::tempdir()?;
    let owner = Owner::open(home.path())?;
    let vault = Vault::create_or_open_for_tests(home.path(), &Passphrase::new("counts".to_owned())?)?;
    let identity = OwnerIdentity::load_or_create(&vault)?;
    let request =
        ProtectRequest { encrypted_input, calibrate: Some(&calibration), ..ProtectRequest::new(&onnx, "counts") };
    let protected = owner.protect(&request, &vault, &Silent)?;
    let bundle = home.path().join("counts.srb");
    owner.deploy(&protected.id, &bundle, &identity)?;
    let options = Options { trust: Some(identity.signer()), threads: 1, kernel: None };
    let processor = Processor::load(&bundle, &options)?;
    let Dataset { samples: Samples::Raw { data, .. }, count, .. } = &calibration else {
        return Err("the fixture's samples are images".into());
    };
    let image = data.get(..data.len() / count.max(&1)).unwrap_or_default();
    let input = processor.prepare(&processor.features(1, image)?)?;
    counted(|| {
        black_box(processor.infer(&input)?);
        Ok(())
    })
}

fn fixture(name: &str) -> PathBuf {
    Path::new(FIXTURES).join(name)
}
