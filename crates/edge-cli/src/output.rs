//! Where results go: a results file, or signed records one after the other.

use crate::failure;
use crate::infer::InferRequest;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use subrosa_edge_agent::Processor;
use subrosa_fhe::Ciphertext;
use subrosa_fleet::{DeviceKey, SampleId, SignedResult, Statement};
use subrosa_program::container::{Access, AtomicFile};
use subrosa_program::results::ResultsWriter;
use subrosa_terminal::Failure;

/// A device that signs what it evaluates.
pub struct SigningDevice {
    id: String,
    key: DeviceKey,
}

impl SigningDevice {
    /// The device of this id, with the key in `file`, which is made if there is none.
    ///
    /// # Errors
    /// A file that cannot be read or written, or that is no key.
    pub fn load(id: String, file: &Path) -> Result<Self, Failure> {
        let key = DeviceKey::load_or_create(file).map_err(|e| Failure::of(&e))?;
        Ok(Self { id, key })
    }

    /// Its public key in hex.
    pub fn public_key(&self) -> String {
        hex::encode(self.key.public().public_key)
    }
}

/// The file that results are written to; nothing appears there before all of them are.
pub(crate) enum Output<'a> {
    Plain(Box<ResultsWriter>),
    Signed(Box<Signed<'a>>),
}

/// Signed records in the making.
pub(crate) struct Signed<'a> {
    file: AtomicFile,
    request: &'a InferRequest<'a>,
    device: &'a SigningDevice,
    /// Number of the first.
    first: u64,
    count: u64,
    bytes: u64,
}

impl<'a> Output<'a> {
    pub fn begin(processor: &Processor, request: &'a InferRequest<'a>) -> Result<Self, Failure> {
        let Some(device) = &request.signer else {
            return Ok(Self::Plain(Box::new(processor.results(request.out).map_err(failure)?)));
        };
        let file = AtomicFile::begin(request.out, Access::Shared).map_err(at(request.out))?;
        // A number that grows with every result, without state: the clock, and room for a million results a millisecond.
        Ok(Self::Signed(Box::new(Signed { file, request, device, first: now() << 20, count: 0, bytes: 0 })))
    }

    /// Appends one inference.
    pub fn push(&mut self, processor: &Processor, result: &[Ciphertext]) -> Result<(), Failure> {
        match self {
            Self::Plain(writer) => writer.push(processor.parameters(), result).map_err(|e| failure(e.into())),
            Self::Signed(signed) => signed.push(processor, result),
        }
    }

    /// Puts the file in place; its length.
    pub fn finish(self) -> Result<u64, Failure> {
        match self {
            Self::Plain(writer) => Ok(writer.finish().map_err(|e| failure(e.into()))?.bytes),
            Self::Signed(signed) => {
                signed.file.replace().map_err(at(signed.request.out))?;
                Ok(signed.bytes)
            }
        }
    }
}

impl Signed<'_> {
    fn push(&mut self, processor: &Processor, result: &[Ciphertext]) -> Result<(), Failure> {
        let mut payload = Vec::new();
        for ciphertext in result {
            payload.extend(ciphertext.to_bytes(processor.parameters()).map_err(|e| failure(e.into()))?);
        }
        let (manifest, device, first, count) = (processor.manifest(), &self.device.id, self.first, self.count);
        let statement = Statement {
            model: manifest.id.clone(),
            version: manifest.version,
            device: device.clone(),
            sequence: first + count,
            origin: device.clone(),
            sample: SampleId::of(self.request.input, &format!("{first} {count}")),
            label: label(self.request.input, count),
            taken_at: now(),
            payload_sha256: String::new(),
        };
        let signed = SignedResult::sign(&self.device.key, statement, payload).map_err(|e| Failure::of(&e))?.encode();
        self.file.write_all(&signed).map_err(at(self.request.out))?;
        self.count += 1;
        self.bytes += signed.len() as u64;
        Ok(())
    }
}

/// The sample for people: the file's name and its number, in 200 bytes.
fn label(input: &str, index: u64) -> String {
    let name = Path::new(input).file_name().map_or(input.into(), |name| name.to_string_lossy());
    let name: String = name.chars().take(40).collect();
    format!("{name} {index}")
}

fn at(path: &Path) -> impl Fn(io::Error) -> Failure + use<'_> {
    move |e| Failure::usage(format!("cannot write {}: {e}", path.display()))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
