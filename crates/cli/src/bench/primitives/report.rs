//! What `bench primitives` prints.

use super::measure::{ENCRYPT, MULTIPLY, ROTATE};
use crate::bench::{Conditions, peer, ratio, runs};
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;
use subrosa_fhe::Scheme;
use subrosa_terminal::{Failure, text};

/// Our operations and the peer's names for them: in CKKS, and in BFV, which has no rescaling.
const SHARED: [(&str, &str, &str); 4] = [
    ("encode", "encode", "encode"),
    (ENCRYPT, "encrypt_public_key", "encrypt_public_key"),
    (MULTIPLY, "ct_ct_relin_rescale", "ct_ct_relin"),
    (ROTATE, "rotate", "rotate"),
];

#[derive(Serialize)]
pub(super) struct PrimitivesReport {
    #[serde(flatten)]
    pub conditions: Conditions,
    pub seed: u64,
    pub rows: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Comparison>,
    /// Where the planner's costs were written.
    pub cost_model: PathBuf,
}

/// One operation at one ring degree.
#[derive(Serialize)]
pub(super) struct Row {
    pub what: &'static str,
    pub scheme: Scheme,
    pub setting: String,
    pub security_bits: u32,
    pub threads: usize,
    pub kernel: String,
    pub runs: usize,
    pub median_seconds: f64,
    pub least_seconds: f64,
    /// Of transforms: N/2 log2 N butterflies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_per_butterfly: Option<f64>,
    /// The time over that of one forward NTT of one limb of this ring.
    pub ntt_multiples: f64,
    /// Largest difference of a decrypted slot from plain arithmetic on values up to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_abs_error: Option<f64>,
    pub log_n: u32,
    /// Ciphertext primes.
    pub limbs: usize,
    /// Special primes of the keys.
    pub specials: usize,
    /// Limbs in a digit.
    pub digit: usize,
    /// log2 of the ciphertext modulus.
    pub log_q: f64,
    /// log2 of the keys' modulus, which the security table bounds.
    pub log_qp: f64,
    /// A packed ciphertext of degree 1 at the highest level.
    pub ciphertext_bytes: u64,
    /// A packed key for one switch.
    pub key_bytes: u64,
}

/// The peer's own report, and what both did.
#[derive(Serialize)]
pub(super) struct Comparison {
    peer: Value,
    rows: Vec<Compared>,
}

/// One operation by both.
#[derive(Serialize)]
struct Compared {
    what: &'static str,
    scheme: Scheme,
    /// The peer's: "ckks" or, for exact integers, "bfv".
    peer_scheme: &'static str,
    log_n: u32,
    ours_seconds: f64,
    theirs_seconds: f64,
    /// The peer's time over ours.
    ratio: f64,
    ours_log_q: f64,
    theirs_log_q: u64,
}

impl Comparison {
    /// Holds the peer's figures against ours, wherever both have them.
    pub fn new(rows: &[Row], peer: Value) -> Result<Self, Failure> {
        let mut compared = Vec::new();
        for row in rows.iter().filter(|r| peer::DEGREES.contains(&r.log_n)) {
            let Some(&(_, ckks, bfv)) = SHARED.iter().find(|(ours, ..)| *ours == row.what) else { continue };
            let degree = peer.get("degrees").and_then(|d| d.get((1u64 << row.log_n).to_string()));
            let (name, peer_scheme, report) = match row.scheme == Scheme::Bgv {
                true => (bfv, "bfv", degree.and_then(|d| d.get("bfv"))),
                false => (ckks, "ckks", degree),
            };
            let milliseconds = report.and_then(|d| d.get("median_ms")?.get(name)?.as_f64());
            let bits = degree.and_then(|d| d.get("coeff_modulus_bits")?.as_array()?.split_last());
            let (Some(milliseconds), Some((_, bits))) = (milliseconds, bits) else {
                return Err(Failure::failed(format!(
                    "the peer's report lacks its {name} or its primes at ring degree 2^{}",
                    row.log_n
                )));
            };
            let theirs_seconds = milliseconds / 1e3;
            compared.push(Compared {
                what: row.what,
                scheme: row.scheme,
                peer_scheme,
                log_n: row.log_n,
                ours_seconds: row.median_seconds,
                theirs_seconds,
                ratio: theirs_seconds / row.median_seconds,
                ours_log_q: row.log_q,
                // The last prime is the one for key switching.
                theirs_log_q: bits.iter().filter_map(Value::as_u64).sum(),
            });
        }
        Ok(Self { peer, rows: compared })
    }
}

impl fmt::Display for PrimitivesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.conditions)?;
        for degree in self.rows.chunk_by(|a, b| a.setting == b.setting) {
            let Some(first) = degree.first() else { continue };
            writeln!(
                f,
                "\n{}: log2(Q) {:.1}, {} special primes, digits of {}, log2(QP) {:.1}, {} bits of security",
                first.setting, first.log_q, first.specials, first.digit, first.log_qp, first.security_bits
            )?;
            let lines = degree.iter().map(|r| {
                let butterfly = r.ns_per_butterfly.map(|ns| format!(", {ns:.3} ns per butterfly")).unwrap_or_default();
                [
                    format!("  {}", r.what),
                    text::seconds(r.median_seconds),
                    runs(r.runs),
                    format!("least {}", text::seconds(r.least_seconds)),
                    format!("{} forward NTTs{butterfly}", ratio(r.ntt_multiples)),
                ]
            });
            f.write_str(&text::table(&lines.collect::<Vec<_>>()))?;
            let (ciphertext, key) = (text::bytes(first.ciphertext_bytes), text::bytes(first.key_bytes));
            writeln!(f, "  ciphertext {ciphertext}, key for one switch {key}")?;
        }
        if let Some(peer) = &self.peer {
            write!(f, "\n{peer}")?;
        }
        writeln!(f, "\ncosts for the planner in {}", self.cost_model.display())
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "peer: TenSEAL {} in the same run, one thread", peer::version(&self.peer))?;
        let lines = self.rows.iter().map(|r| {
            [
                format!("  N=2^{} {}", r.log_n, r.what),
                format!("TenSEAL {} {}", r.peer_scheme, text::seconds(r.theirs_seconds)),
                format!("log2(Q) {}", r.theirs_log_q),
                format!("Subrosa {} {}", r.scheme, text::seconds(r.ours_seconds)),
                format!("log2(Q) {:.0}", r.ours_log_q),
                format!("ratio {}", ratio(r.ratio)),
            ]
        });
        f.write_str(&text::table(&lines.collect::<Vec<_>>()))
    }
}
