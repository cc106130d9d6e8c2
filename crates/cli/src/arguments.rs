//! Commands and flags.

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use std::ffi::OsString;
use std::path::PathBuf;
use subrosa_fhe::{Scheme, SecurityLevel};
use subrosa_input::Preprocess;
use subrosa_network::{Polynomial, Scope, Substitutions};
use subrosa_owner::Reveal;
use subrosa_owner::release::Flooding;
use subrosa_plan::{FixedPoint, Prefer};
use subrosa_program::container::Signer;
use subrosa_terminal::{Flags, GLOBAL};

/// Protects trained neural networks by homomorphic encryption, so that machines you do not trust can run them
#[derive(Parser)]
#[command(name = "subrosa", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub flags: Flags,
    #[command(flatten)]
    pub home: HomeFlags,
    #[command(subcommand)]
    pub command: Command,
}

/// Where the owner's state lives and what opens it.
#[derive(Args)]
pub(crate) struct HomeFlags {
    /// The home directory: registry, key vault, encrypted networks [default: in the platform's data directory]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "DIR", env = "SUBROSA_HOME", hide_env_values = true)]
    pub home: Option<PathBuf>,
    /// File with the vault's passphrase; else the variable SUBROSA_PASSPHRASE, else you are asked
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Trains a network that is made to be protected, or adapts one that is trained already (a program of its own: subrosa-train)
    #[command(disable_help_flag = true)]
    Train {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Serves models, devices, deployments and decrypted results over HTTP (a program of its own: subrosa-serve)
    #[command(disable_help_flag = true)]
    Serve {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Shows a network's layers, what can be protected, what must be approximated and why
    Inspect(Box<InspectFlags>),
    /// Generates keys, encrypts the network's weights and registers it
    Protect(Box<ProtectFlags>),
    /// Lists the protected networks
    Models,
    /// Shows what is known about a protected network
    Show {
        /// Its id, the beginning of it, its name or NAME@VERSION
        id: String,
    },
    /// Removes a protected network and its secret key: results of its deployments can never be decrypted again
    Remove {
        /// Its id, the beginning of it, its name or NAME@VERSION
        id: String,
    },
    /// Writes the signed bundle of a protected network, for an edge machine
    Deploy {
        /// Its id, the beginning of it, its name or NAME@VERSION
        id: String,
        /// The bundle to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Decrypts results that came back from an edge machine, as the release policy permits
    Decrypt(DecryptFlags),
    /// Shows the audit log: what was decrypted, refused and let in, here and by `subrosa serve`
    Audit {
        #[command(subcommand)]
        command: Option<Audit>,
        /// Show only the last N entries
        #[arg(long, value_name = "N", default_value_t = 20)]
        last: u64,
    },
    /// Runs the original, the approximated and the encrypted network side by side
    Verify {
        /// Its id, the beginning of it, its name or NAME@VERSION
        id: String,
        /// Samples
        #[arg(long, value_name = "FILE")]
        input: String,
        /// Their classes, for accuracies
        #[arg(long, value_name = "FILE")]
        labels: Option<String>,
        /// Take only the first N samples
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// Measure the noise budget after every step of the first sample's evaluation (--scheme bgv)
        #[arg(long)]
        trace: bool,
    },
    /// Shows the whole life cycle on real images, in a temporary home
    Demo {
        /// The network
        #[arg(long, value_enum, default_value_t = DemoModel::Mnist)]
        model: DemoModel,
        /// Images to classify, as many as there are [default: 200 digits, 50 images of CIFAR-10]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
        images: Option<u16>,
        /// A backend and two edge agents on loopback: digits and sensor rows stream in, labels come out (needs subrosa-serve and
        /// subrosa-edge)
        #[arg(long, conflicts_with = "model")]
        fleet: bool,
    },
    /// Backs up and restores the key vault, changes its passphrase
    Keys {
        #[command(subcommand)]
        command: Keys,
    },
    /// Shows the owner's public signing key, for edge machines to trust
    Identity {
        /// Write it to this file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Measures this machine, on one thread unless --threads says otherwise
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
}

#[derive(Args)]
pub(crate) struct DecryptFlags {
    /// The results file, from `subrosa-edge infer`
    pub results: PathBuf,
    /// What to reveal: label, top:K or scores (all outputs, for your own eyes)
    #[arg(long, default_value = "label")]
    pub reveal: Reveal,
    /// Write the predictions to this JSON file
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// A device whose signed results are accepted besides those enrolled at `subrosa serve`, and its public key in hex; may be repeated
    #[arg(long = "device", value_name = "ID=KEY", value_parser = device)]
    pub devices: Vec<(String, Signer)>,
    /// What is printed is for others: `top:K` and `scores` get the noise that release.json in the home says (`flooding`)
    #[arg(long)]
    pub outside: bool,
    /// Decrypt signed results again that were decrypted before, instead of refusing them as replays
    #[arg(long)]
    pub again: bool,
}

#[derive(Subcommand)]
pub(crate) enum Audit {
    /// Checks the log's hash chain from its first entry to its last
    Verify {
        /// The hash of an entry that was noted elsewhere: it must still be in the log
        #[arg(long, value_name = "HASH")]
        noted: Option<String>,
    },
    /// Lets a device in again that was suspended for results no honest device sends
    LetIn {
        /// Its id
        device: String,
    },
}

#[derive(Args)]
pub(crate) struct InspectFlags {
    /// The network, an ONNX file
    pub model: PathBuf,
    /// Plan its protection and execute the plan on plain samples with the noise that encryption will bring: how accurate will it be?
    #[arg(long, requires = "calibrate")]
    pub simulate: bool,
    /// Samples to execute the plan on [default: those of --calibrate]
    #[arg(long, value_name = "FILE", requires = "simulate")]
    pub samples: Option<String>,
    /// Take only the first N samples
    #[arg(long, value_name = "N", default_value_t = 64, requires = "simulate")]
    pub limit: usize,
    #[command(flatten)]
    pub how: HowFlags,
}

#[derive(Args)]
pub(crate) struct ProtectFlags {
    /// The network, an ONNX file
    pub model: PathBuf,
    /// Its name in the registry; a name that exists gets a new version
    #[arg(long)]
    pub name: String,
    #[command(flatten)]
    pub how: HowFlags,
    /// The encryption scheme: ckks (approximate numbers) or bgv (exact integers; chains of fully connected layers with activations of
    /// degree 2 or none)
    #[arg(long, default_value_t)]
    pub scheme: Scheme,
    /// With --scheme bgv: what the features and each layer's weights are multiplied by before they are rounded to integers, as in
    /// input=16,weights=128/64 [default: found so that the answers stay the same]
    #[arg(long, value_name = "FACTORS")]
    pub fixed_point: Option<FixedPoint>,
    /// Print the plan: steps, their predicted times, keys, forecast, and what else was considered
    #[arg(long)]
    pub explain: bool,
    /// Text file with the names of the classes, one a line; they stay with the owner
    #[arg(long, value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// Plan only, store nothing
    #[arg(long, requires = "explain")]
    pub dry_run: bool,
}

/// How a network is to be protected.
#[derive(Args)]
pub(crate) struct HowFlags {
    /// What to encrypt: last, classifier, all or from:LAYER
    #[arg(long, default_value_t)]
    pub scope: Scope,
    /// Whether the edge encrypts what enters the protected part
    #[arg(long, value_enum, default_value_t = InputMode::Encrypted)]
    pub input: InputMode,
    /// Whether the weights are encrypted; plain weights are for those who protect the input only
    #[arg(long, value_enum, default_value_t = InputMode::Encrypted)]
    pub weights: InputMode,
    /// A polynomial in the place of an activation, as in relu=x2+2x; may be repeated
    ///
    /// The polynomial is none (x), square, x2+2x, a sum like 0.5x^2+x-1, poly:c0,c1,c2,… (lowest power first), or a fit:
    /// METHOD(FUNCTION,DEGREE,LO,HI), as in relu=chebyshev(relu,4,-4,4). Without FUNCTION it is the activation itself
    /// that is fitted: relu=chebyshev(4,-4,4). The polynomial is near the function from LO to HI only: these should be
    /// the values that the activation gets. Methods: taylor (around the middle), chebyshev, least-squares, normal (least
    /// squares for values that are distributed normally, four standard deviations from the middle to HI), integral (of the
    /// derivative's least squares). Functions: relu, relu6, leakyrelu or leakyrelu:SLOPE, elu, selu, celu, softplus,
    /// softsign, sigmoid, hardsigmoid, tanh, gelu, swish, hardswish, mish, thresholdedrelu, abs, exp. Degrees: 1 to 32.
    /// METHOD:DEGREE, as in relu=chebyshev:7, fits each layer by itself, on the values that --calibrate brings there and a
    /// fifth beyond; METHOD:DEGREE@LO..HI on an interval of your own. A further method then is observed: least squares
    /// weighted by the values that calibration brings. relu=auto takes it with the lowest degree with which 99 % of the
    /// answers stay the same
    #[arg(long = "activation", value_name = "ACTIVATION=POLYNOMIAL")]
    pub activations: Vec<Substitutions>,
    /// Samples to take the ranges from, and to measure what replaced activations cost
    #[arg(long, value_name = "FILE")]
    pub calibrate: Option<String>,
    /// The classes of the calibration samples
    #[arg(long, value_name = "FILE", requires = "calibrate")]
    pub labels: Option<String>,
    /// How pixels become the network's input, as in 'scale=1/255 layout=nchw resize=28x28'
    #[arg(long)]
    pub preprocess: Option<Preprocess>,
    /// Bits of security: 128, 192 or 256
    #[arg(long, default_value = "128", value_parser = security)]
    pub security: SecurityLevel,
    /// Replace activations even where the cost is not known
    #[arg(long)]
    pub force: bool,
    /// Most memory that keys and weights may take on the edge, as in 64MB or 2GB [default: 20GB]
    #[arg(long, value_name = "BYTES", value_parser = memory)]
    pub memory_limit: Option<u64>,
    /// What to be best in: speed (time of one sample), memory (that keys and weights take on the edge) or bundle (its size)
    #[arg(long, value_name = "WHAT", default_value_t)]
    pub prefer: Prefer,
    /// Plan so precisely that scores can be given to others with noise that covers that of the ciphertexts: everything revealed is
    /// within 2^-BITS of what says nothing about the key, for RESULTS results
    #[arg(long, value_name = "BITS:RESULTS")]
    pub flooding: Option<Flooding>,
    /// Evaluate layers without an activation between them one by one, as the paper did, instead of folding them into one
    #[arg(long)]
    pub unfolded: bool,
}

/// How something is handed out.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InputMode {
    Plain,
    Encrypted,
}

impl InputMode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Encrypted => "encrypted",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DemoModel {
    /// The classifier of an MNIST CNN, with plain and with encrypted input
    Mnist,
    /// The paper's CNN on CIFAR-10, all of it
    Cifar10,
}

#[derive(Subcommand)]
pub(crate) enum Keys {
    /// Writes an encrypted copy of all keys to a new file
    Backup {
        /// The file, which must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Restores a backup into the vault
    Restore {
        /// The backup
        file: PathBuf,
        /// Overwrite different keys of the same names
        #[arg(long)]
        force: bool,
        /// File with the backup's passphrase, if it is not the vault's
        #[arg(long, value_name = "FILE")]
        backup_passphrase_file: Option<PathBuf>,
    },
    /// Changes the vault's passphrase
    Passphrase {
        /// File with the new passphrase; else you are asked
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// The engine's operations: transforms, encoding, encryption, products, key switching, rotations
    Primitives(PrimitivesFlags),
    /// A classifier of fully connected layers with random weights, with plain and with encrypted input
    Classifier(ClassifierFlags),
    /// Whole networks, every layer encrypted, each step in a process of its own
    Cnn(CnnFlags),
    /// The paper's experiment, each step in a process of its own, beside the paper's Tables 2 to 5
    Paper(PaperFlags),
    /// The edge's command line, as a process that `paper` and `cnn` measure
    #[command(hide = true)]
    Edge {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Plain inference one sample at a time, as a process that `paper` measures
    #[command(hide = true)]
    Plain {
        /// The network, an ONNX file
        model: PathBuf,
        /// Samples
        #[arg(long, value_name = "FILE")]
        input: String,
    },
}

#[derive(Args)]
pub(crate) struct PrimitivesFlags {
    /// Times that each operation is measured
    #[arg(long, value_name = "N", default_value_t = 31, value_parser = clap::value_parser!(u16).range(1..))]
    pub runs: u16,
    /// Ring degrees as log2 N: one of 13 to 16, a list as in 14,15 or a range as in 13..16
    #[arg(long, value_name = "LOG_N", default_value = "13..16")]
    pub log_n: LogNs,
    /// Time another library in the same run, at 2^14 and 2^15
    #[arg(long, value_enum)]
    pub peer: Option<Peer>,
    /// Keep the report in benches/results of the source tree
    #[arg(long)]
    pub archive: bool,
}

#[derive(Args)]
pub(crate) struct ClassifierFlags {
    /// Blind evaluations to time, each with an input of its own
    #[arg(long, value_name = "N", default_value_t = 21, value_parser = clap::value_parser!(u16).range(1..))]
    pub runs: u16,
    /// Bits of security: 128, 192 or 256
    #[arg(long, default_value = "128", value_parser = security)]
    pub security: SecurityLevel,
    /// Inputs, then outputs of each layer
    #[arg(long, default_value = "2304-512-10")]
    pub shape: Shape,
    /// The activation between layers
    #[arg(long, default_value = "x2+2x")]
    pub activation: Polynomial,
    /// The encryption scheme: ckks or bgv
    #[arg(long, default_value_t)]
    pub scheme: Scheme,
    /// Evaluate layers without an activation between them one by one, as the paper did, instead of folding them into one
    #[arg(long)]
    pub unfolded: bool,
    /// Time another library in the same run
    #[arg(long, value_enum)]
    pub peer: Option<Peer>,
    /// Keep the report in benches/results of the source tree
    #[arg(long)]
    pub archive: bool,
}

#[derive(Args)]
pub(crate) struct CnnFlags {
    /// Blind evaluations to time, each of a sample of its own as far as there are any
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    pub runs: u16,
    /// Networks of Subrosa's own, several with commas [default: all of them]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub network: Vec<CnnNetwork>,
    /// A network of yours instead, an ONNX file
    #[arg(long, value_name = "FILE", conflicts_with = "network")]
    pub model: Option<PathBuf>,
    /// Its samples: up to 50 to calibrate, others to evaluate [default: random values from 0 to 1]
    #[arg(long, value_name = "FILE", requires = "model")]
    pub samples: Option<String>,
    /// How pixels become its input, as in 'scale=1/255 layout=nchw resize=28x28'
    #[arg(long, requires = "samples")]
    pub preprocess: Option<Preprocess>,
    /// A polynomial in the place of one of its activations, as for protect; may be repeated
    #[arg(long = "activation", value_name = "ACTIVATION=POLYNOMIAL", requires = "model")]
    pub activations: Vec<Substitutions>,
    /// Whether the edge encrypts what it hands in, both with a comma
    #[arg(long, value_enum, value_delimiter = ',', default_value = "encrypted")]
    pub input: Vec<InputMode>,
    /// Whether the weights are encrypted, both with a comma; plain weights are measured with encrypted input only
    #[arg(long, value_enum, value_delimiter = ',', default_value = "encrypted")]
    pub weights: Vec<InputMode>,
    /// Bits of security: 128, 192 or 256, several with commas
    #[arg(long, value_delimiter = ',', default_value = "128", value_parser = security)]
    pub security: Vec<SecurityLevel>,
    /// Most memory that keys and weights may take on the edge, as in 64MB or 2GB [default: 20GB]
    #[arg(long, value_name = "BYTES", value_parser = memory)]
    pub memory_limit: Option<u64>,
    /// Keep the report in benches/results of the source tree
    #[arg(long)]
    pub archive: bool,
}

/// A whole network of the repository.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CnnNetwork {
    /// The paper's CNN on CIFAR-10, everything polynomial
    Cifar,
    /// The same in the shape of MNIST
    Mnist,
    /// A network like CryptoNets' on MNIST
    Cryptonets,
    /// Three fully connected layers on AI4I 2020
    Ai4i,
}

#[derive(Args)]
pub(crate) struct PaperFlags {
    /// Times that the experiment is repeated; figures are means
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub runs: u16,
    /// The network, by the size of its images
    #[arg(long, value_enum, default_value_t = PaperNetworks::All)]
    pub network: PaperNetworks,
    /// Bits of security: 128, 192 or 256, several with commas
    #[arg(long, value_delimiter = ',', default_value = "128,192,256", value_parser = security)]
    pub security: Vec<SecurityLevel>,
    /// What is encrypted, several with commas [default: all of them]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub setting: Vec<PaperSetting>,
    /// The encryption scheme: ckks, or bgv, which is the paper's
    #[arg(long, default_value_t)]
    pub scheme: Scheme,
    /// Draw the times of the CIFAR-10 network beside the paper's
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Keep the report in benches/results of the source tree
    #[arg(long)]
    pub archive: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PaperNetworks {
    Cifar,
    Mnist,
    All,
}

/// A network of the paper.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PaperNetwork {
    Cifar,
    Mnist,
}

impl PaperNetworks {
    pub fn each(self) -> &'static [PaperNetwork] {
        match self {
            Self::Cifar => &[PaperNetwork::Cifar],
            Self::Mnist => &[PaperNetwork::Mnist],
            Self::All => &[PaperNetwork::Cifar, PaperNetwork::Mnist],
        }
    }
}

/// What is encrypted of a network of the paper.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PaperSetting {
    /// The classifier, with x^2+2x as its activation
    Square,
    /// The classifier without activation, layer by layer as the paper computed it
    None,
    /// The same with its two layers folded into one, which is what `protect` does unless it is told not to
    NoneFolded,
    /// The last layer alone
    Last,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    Tenseal,
}

/// Numbers of values between the layers of a classifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape(pub Vec<usize>);

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sizes: Option<Vec<usize>> =
            text.split('-').map(|s| s.parse().ok().filter(|n| (1..=65536).contains(n))).collect();
        match sizes {
            Some(sizes) if (2..=9).contains(&sizes.len()) => Ok(Self(sizes)),
            _ => Err("write 2 to 9 sizes of 1 to 65536, as in 2304-512-10".into()),
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("-"))
    }
}

/// A number of bytes, alone or with a decimal unit.
fn memory(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default().to_ascii_uppercase().as_str() {
        "" | "B" => 1.0,
        "K" | "KB" => 1e3,
        "M" | "MB" => 1e6,
        "G" | "GB" => 1e9,
        _ => 0.0,
    };
    let bytes = digits.trim().parse::<f64>().unwrap_or(0.0) * unit;
    if (1.0..1e18).contains(&bytes) {
        Ok(bytes as u64)
    } else {
        Err("write a number of bytes, as in 64MB or 2GB".into())
    }
}

/// Ring degrees to measure, as log2 N, rising.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogNs(pub Vec<u32>);

impl std::str::FromStr for LogNs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let one = |s: &str| s.trim().parse().ok().filter(|n| (13..=16u32).contains(n));
        let all: Option<Vec<u32>> = match text.split_once("..") {
            Some((first, last)) => one(first).zip(one(last)).map(|(first, last)| (first..=last).collect()),
            None => text.split(',').map(one).collect(),
        };
        let mut all = all.unwrap_or_default();
        all.sort_unstable();
        all.dedup();
        if all.is_empty() {
            return Err("write one of 13 to 16, a list as in 14,15 or a range as in 13..16".into());
        }
        Ok(Self(all))
    }
}

/// ID=KEY, the key being 64 hex digits.
fn device(text: &str) -> Result<(String, Signer), String> {
    let parsed = text.split_once('=').and_then(|(id, key)| {
        let mut public_key = [0; 32];
        hex::decode_to_slice(key, &mut public_key).ok()?;
        (!id.is_empty()).then(|| (id.to_owned(), Signer { public_key }))
    });
    parsed.ok_or_else(|| {
        "it is not ID=KEY with the 64 hex digits that `subrosa-edge infer --device-key` shows".to_owned()
    })
}

fn security(text: &str) -> Result<SecurityLevel, String> {
    let level = text.parse().ok().and_then(|bits| SecurityLevel::from_bits(bits).ok());
    level.ok_or_else(|| "choose 128, 192 or 256".into())
}
