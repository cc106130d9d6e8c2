//! `bench primitives`: the engine's operations, for each ring degree at the longest chain of primes that 128-bit security leaves
//! room for beside its special primes.

mod chain;
mod measure;
mod messages;
mod report;

use super::archive::{Archive, today};
use super::{Conditions, finish, kernel, peer};
use crate::arguments::{HomeFlags, Peer, PrimitivesFlags};
use crate::failure::io;
use report::PrimitivesReport;
use std::path::PathBuf;
use subrosa_fhe::{Kernel, Scheme};
use subrosa_owner::COST_MODEL_FILE;
use subrosa_plan::CostModel;
use subrosa_terminal::{Failure, Terminal};

/// All messages come from it. Secrets and errors don't: they are the operating system's randomness, as always.
const SEED: u64 = 20_190_502;

pub(crate) fn primitives(terminal: &mut Terminal, home: &HomeFlags, wanted: &PrimitivesFlags) -> Result<(), Failure> {
    let archive =
        Archive::find(wanted.archive, if wanted.peer.is_some() { "primitives-with-tenseal" } else { "primitives" })?;
    let degrees: Vec<u32> = wanted.log_n.0.iter().copied().filter(|n| peer::DEGREES.contains(n)).collect();
    if wanted.peer.is_some() && degrees.is_empty() {
        return Err(Failure::usage(
            "the peer is timed at 2^14 and 2^15: give --log-n 14, 15 or both, or leave --peer out",
        ));
    }
    let kernel = kernel()?;
    let threads = terminal.flags().threads();
    let conditions = Conditions::now(kernel, threads)?;
    // First, since it may not be there.
    let peer = match wanted.peer {
        Some(Peer::Tenseal) => Some(peer::report(&degrees)?),
        None => None,
    };
    let mut rows = Vec::new();
    for &log_n in &wanted.log_n.0 {
        for scheme in [Scheme::Ckks, Scheme::Bgv] {
            rows.extend(measure::measure(scheme, log_n, usize::from(wanted.runs), threads, kernel)?);
        }
    }
    let peer = peer.map(|peer| report::Comparison::new(&rows, peer)).transpose()?;
    let cost_model = save_cost_model(home, kernel)?;
    finish(terminal, archive, &PrimitivesReport { conditions, seed: SEED, rows, peer, cost_model })
}

/// Measures the planner's costs and writes them to the owner's home, which is made if there is none; gives the file's path.
fn save_cost_model(home: &HomeFlags, kernel: Kernel) -> Result<PathBuf, Failure> {
    let model = CostModel { date: Some(today()), ..CostModel::measure(kernel).map_err(Failure::failed)? };
    let directory = home.directory()?;
    std::fs::create_dir_all(&directory).map_err(io("create", &directory))?;
    let path = directory.join(COST_MODEL_FILE);
    model.save(&path).map_err(Failure::failed)?;
    Ok(path)
}
