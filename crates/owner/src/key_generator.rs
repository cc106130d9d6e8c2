//! The Key Generator: one key pair for each protected network, and the evaluation keys its program needs.

use rayon::prelude::*;
use subrosa_fhe::{FheError, Parameters};
use subrosa_program::Program;
use subrosa_secret::SecretKey;

/// A network's keys: the secret one for the vault, the packed public ones for the bundle.
pub(crate) struct Keys {
    pub secret: SecretKey,
    /// Packed public key; empty if the input is plain.
    pub public: Vec<u8>,
    /// Packed evaluation keys in the program's order.
    pub evaluation: Vec<Vec<u8>>,
}

/// Generates all keys of a program, evaluation keys on all cores. `done` is told of every finished one.
pub(crate) fn generate(parameters: &Parameters, program: &Program, done: &(dyn Fn() + Sync)) -> Result<Keys, FheError> {
    let secret = SecretKey::generate(parameters)?;
    let public = if program.input.encrypted {
        secret.public_key(program.input.level)?.to_bytes(parameters)?
    } else {
        Vec::new()
    };
    let evaluation: Result<_, FheError> = program
        .keys
        .par_iter()
        .map(|k| {
            let packed = secret.switch_key(k.id, k.shape)?.to_bytes(parameters);
            done();
            packed
        })
        .collect();
    Ok(Keys { secret, public, evaluation: evaluation? })
}
