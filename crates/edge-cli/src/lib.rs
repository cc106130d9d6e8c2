//! The edge machine's command line as a library: [`run`] is the whole of it, [`infer()`] the work behind `subrosa-edge infer`.
//!
//! It links only what an untrusted machine may have: no code that could decrypt, plan or import a network.

mod failure;
mod infer;
mod info;
mod output;
mod profile;
mod run;

pub use failure::failure;
pub use infer::{InferReport, InferRequest, infer};
pub use output::SigningDevice;
pub use profile::{LayerTime, Profile, StepTime};

use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use subrosa_edge_agent::Options;
use subrosa_program::container::Signer;
use subrosa_terminal::{Failure, Flags, GLOBAL, Terminal};

/// Runs encrypted networks blind: nothing on this machine can decrypt weights, encrypted inputs or results.
#[derive(Parser)]
#[command(name = "subrosa-edge", version, arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// The owner's public signing key (from `subrosa identity`); bundles of anyone else are refused
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE")]
    trust: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows what a bundle asks of this machine, and checks its signature and integrity
    Info {
        /// The bundle, from `subrosa deploy`
        bundle: PathBuf,
    },
    /// Runs the plain part and evaluates the protected part blind
    Infer {
        /// The bundle, from `subrosa deploy`
        bundle: PathBuf,
        /// Samples: .npy, IDX (.gz), CIFAR-10 .bin, .csv, .ndjson, a directory of images, or - for NDJSON on standard input
        #[arg(long, value_name = "FILE")]
        input: String,
        /// Where to write the encrypted results, for the owner to decrypt
        #[arg(long, value_name = "RESULTS")]
        out: PathBuf,
        /// Take only the first N samples
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// Times every step of the blind evaluation
        #[arg(long)]
        profile: bool,
        /// Sign each result with the device's key in this file, which is made if there is none; needs --device
        #[arg(long, value_name = "FILE", requires = "device")]
        device_key: Option<PathBuf>,
        /// The device's id, as it is enrolled
        #[arg(long, value_name = "ID", requires = "device_key")]
        device: Option<String>,
    },
    /// Runs as a service: takes the deployed network and samples from many sources, delivers encrypted results
    Run {
        /// The configuration, see docs/edge.md
        #[arg(value_name = "CONFIG")]
        config: PathBuf,
    },
}

/// Runs the command line `arguments` (the program's name first); reports go to `out`.
///
/// # Errors
/// The [`Failure`] to end with.
pub fn run(arguments: impl IntoIterator<Item = OsString>, out: &mut dyn Write) -> Result<(), Failure> {
    let Arguments { flags, trust, command } = subrosa_terminal::parse(arguments)?;
    flags.start_threads()?;
    let trust = trust.map(|path| Signer::read(&path)).transpose().map_err(|e| Failure::of(&e))?;
    let mut terminal = Terminal::new(out, flags);
    // The pool of threads begins with its first use, and a service's configuration may size it.
    let threads = if matches!(command, Command::Run { .. }) { 0 } else { terminal.flags().threads() };
    let options = Options { trust, threads, kernel: None };
    match command {
        Command::Info { bundle } => {
            let report = info::info(&bundle, options.trust.as_ref())?;
            note_owner(&terminal, &report.owner, report.trusted);
            terminal.report(&report)
        }
        Command::Infer { bundle, input, out, limit, profile, device_key, device } => {
            let signer = device.zip(device_key).map(|(device, key)| SigningDevice::load(device, &key)).transpose()?;
            let request = InferRequest { bundle: &bundle, input: &input, out: &out, limit, profile, signer, options };
            let report = infer(&request, &terminal.bars())?;
            note_owner(&terminal, &report.owner, report.trusted);
            terminal.report(&report)
        }
        Command::Run { config } => {
            if options.trust.is_some() {
                let what = "--trust: a service trusts the owner that its configuration names as backend.trust";
                return Err(Failure::usage(what));
            }
            let report = run::run(&config, terminal.flags())?;
            terminal.report(&report)
        }
    }
}

fn note_owner(terminal: &Terminal, owner: &str, trusted: bool) {
    if !trusted {
        terminal.note(format!("signed by owner {owner}, not verified: give the owner's public key with --trust FILE"));
    }
}
