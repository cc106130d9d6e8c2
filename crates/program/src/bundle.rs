//! The bundle: everything an edge machine gets, in one signed file.
//!
//! Sections (docs/format.md): `manifest` (JSON), `program` (JSON), `front` (ONNX, empty if there is no plain part), `public-key`
//! (empty unless the input is encrypted), `keys` (packed key-switching keys in the order of the program), `weights` (packed seeded
//! ciphertexts, group after group). The owner's stored copy has the same sections, another kind and no signature.

use crate::container::{Container, ContainerError, ContainerWriter, FileInfo, SignFn, Signer, WINDOW};
use crate::program::{ConstantGroup, KeyRequirement, Program};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::Path;
use subrosa_fhe::{
    EvaluationKeys, FheError, Kernel, KeyBank, KeyId, KeySwitchKey, Parameters, Plaintext, PublicKey, SeededCiphertext,
    wire,
};

/// Kind of a deployed bundle.
pub const BUNDLE_KIND: [u8; 8] = *b"SRBUNDLE";
/// Kind of the owner's stored copy of a protected network.
pub const PROTECTED_KIND: [u8; 8] = *b"SRPROTEC";

const MANIFEST: &str = "manifest";
const PROGRAM: &str = "program";
const FRONT: &str = "front";
const PUBLIC_KEY: &str = "public-key";
const KEYS: &str = "keys";
const WEIGHTS: &str = "weights";

/// What the network is, in words and numbers anyone may know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The network's id in its owner's registry.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its version; 0 in a stored copy that was never deployed.
    pub version: u32,
    /// "ckks" or "bgv".
    pub scheme: String,
    /// 128, 192 or 256.
    pub security_bits: u32,
    /// Which part is encrypted: "last", "classifier", ...
    pub scope: String,
    /// "plain" or "encrypted": how the features enter the encrypted part.
    pub input: String,
    /// "encrypted" or "plain": how the weights of that part are carried.
    #[serde(default = "encrypted")]
    pub weights: String,
    /// Shape of one sample of the whole network, without the batch.
    pub input_shape: Vec<usize>,
    /// Declared preprocessing of pixels, in the notation of `protect --preprocess`; absent if none was declared.
    pub preprocess: Option<String>,
    /// Layers that run in plaintext on the edge.
    pub layers_plain: usize,
    /// Layers whose weights are encrypted.
    pub layers_encrypted: usize,
    /// Outputs of the network.
    pub outputs: usize,
    /// How long the evaluation will take, as the owner's planner predicts; absent in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<PredictedTimes>,
}

/// What is predicted of an evaluation on one thread of the machine that the owner's cost model is of, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PredictedTimes {
    /// An NTT of one limb on that machine: other machines are compared by it.
    pub ntt: u64,
    /// Each step of the program, those of all channels together.
    pub steps: Vec<u64>,
}

/// What is wrong with a bundle or a results file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file itself.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A section that does not hold what it should.
    #[error(
        "{file}: section '{section}' cannot be used ({reason}): it was written by another version or by faulty software; get a new file"
    )]
    Section {
        /// The file.
        file: String,
        /// The section.
        section: &'static str,
        /// What is wrong.
        reason: String,
    },
}

fn encrypted() -> String {
    "encrypted".into()
}

/// A weight or bias as a program carries it.
#[derive(Debug, Clone)]
pub enum PackedConstant {
    /// Encrypted by the owner.
    Encrypted(SeededCiphertext),
    /// Encoded only.
    Plain(Plaintext),
}

impl PackedConstant {
    fn to_bytes(&self, parameters: &Parameters) -> Result<Vec<u8>, FheError> {
        match self {
            Self::Encrypted(c) => c.to_bytes(parameters),
            Self::Plain(p) => p.to_bytes(parameters),
        }
    }
}

/// An open bundle or stored copy: structure and signature checked, every section's hash verified, program validated.
pub struct Bundle {
    container: Container,
    file: String,
    /// What the network is.
    pub manifest: Manifest,
    /// What to execute.
    pub program: Program,
    /// Those of all channels.
    groups: Vec<ConstantGroup>,
}

impl Bundle {
    /// Opens and checks a file of this kind completely.
    ///
    /// # Errors
    /// Damaged, truncated, foreign or newer files; a program that is not well formed.
    pub fn open(path: &Path, kind: [u8; 8]) -> Result<Self, FileError> {
        let container = Container::open(path, kind)?;
        container.verify_all()?;
        let file = path.display().to_string();
        let manifest = json(&container, &file, MANIFEST)?;
        let program: Program = json(&container, &file, PROGRAM)?;
        program.validate().map_err(|reason| FileError::Section { file: file.clone(), section: PROGRAM, reason })?;
        Ok(Self { container, file, manifest, groups: program.groups(), program })
    }

    /// Takes what was read of the file out of the process's memory; see [`Container::release`].
    pub fn release(&self) {
        self.container.release();
    }

    /// Who signed the file; `None` for a stored copy.
    pub fn signer(&self) -> Option<&Signer> {
        self.container.signer()
    }

    /// The ONNX file of the plain part; `None` if there is none.
    pub fn front(&self) -> Result<Option<&[u8]>, FileError> {
        let front = self.container.section(FRONT)?;
        Ok((!front.is_empty()).then_some(front))
    }

    /// Checked parameters for a kernel.
    pub fn parameters(&self, kernel: Kernel) -> Result<Parameters, FileError> {
        Parameters::new(self.program.parameters.clone(), kernel).map_err(self.unusable(PROGRAM))
    }

    /// The network's public key; `None` if the input is plain.
    pub fn public_key(&self, parameters: &Parameters) -> Result<Option<PublicKey>, FileError> {
        let bytes = self.container.section(PUBLIC_KEY)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        PublicKey::from_bytes(parameters, bytes).map(Some).map_err(self.unusable(PUBLIC_KEY))
    }

    /// All evaluation keys of the program, prepared for products on all threads of the pool.
    pub fn keys(&self, parameters: &Parameters) -> Result<EvaluationKeys, FileError> {
        let mut rest = self.container.section(KEYS)?;
        let mut packed = Vec::with_capacity(self.program.keys.len());
        for needed in &self.program.keys {
            packed.push((needed, self.take(&mut rest, wire::switch_key_len(parameters, needed.shape), KEYS)?));
        }
        if !rest.is_empty() {
            return Err(self.unusable(KEYS)("there are keys that the program does not name"));
        }
        let expand = |&(needed, bytes): &(&KeyRequirement, &[u8])| {
            let key = KeySwitchKey::from_bytes(parameters, bytes).map_err(self.unusable(KEYS))?;
            if key.id() != needed.id || key.shape() != needed.shape {
                return Err(self.unusable(KEYS)("a key is not the one the program names"));
            }
            key.expand(parameters).map_err(self.unusable(KEYS))
        };
        let prepare = |keys: &Vec<(&KeyRequirement, &[u8])>| {
            let Some((first, _)) = keys.first() else { return Ok(Vec::new()) };
            let mut bank = KeyBank::new(parameters, first.shape, keys.len()).map_err(self.unusable(KEYS))?;
            for batch in keys.chunks(rayon::current_num_threads()) {
                for key in batch.par_iter().map(expand).collect::<Result<Vec<_>, _>>()? {
                    bank.push(&key).map_err(self.unusable(KEYS))?;
                }
            }
            Ok(bank.finish())
        };
        let banks = banks(packed, &self.program.key_sums());
        let prepared: Vec<_> = banks.par_iter().map(prepare).collect::<Result<_, FileError>>()?;
        Ok(prepared.into_iter().flatten().collect())
    }

    /// The packed constants of each group, in order; channel after channel ([`Program::groups`]).
    pub fn constants(&self, parameters: &Parameters) -> Result<Vec<Vec<&[u8]>>, FileError> {
        let mut rest = self.container.section(WEIGHTS)?;
        let mut out = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let length = packed_len(parameters, group);
            let packed: Result<Vec<_>, _> = (0..group.count).map(|_| self.take(&mut rest, length, WEIGHTS)).collect();
            out.push(packed?);
        }
        if rest.is_empty() { Ok(out) } else { Err(self.unusable(WEIGHTS)("there is more than the program names")) }
    }

    /// Reads one packed encrypted constant and checks that it has the level and scale of its group.
    pub fn constant(
        &self,
        parameters: &Parameters,
        group: usize,
        packed: &[u8],
    ) -> Result<SeededCiphertext, FileError> {
        let constant = SeededCiphertext::from_bytes(parameters, packed).map_err(self.unusable(WEIGHTS))?;
        self.check_constant(group, constant.level(), constant.scale)?;
        Ok(constant)
    }

    /// The same of a constant that is not encrypted.
    pub fn plain_constant(&self, parameters: &Parameters, group: usize, packed: &[u8]) -> Result<Plaintext, FileError> {
        let constant = Plaintext::from_bytes(parameters, packed).map_err(self.unusable(WEIGHTS))?;
        self.check_constant(group, constant.level, constant.scale)?;
        Ok(constant)
    }

    fn check_constant(&self, group: usize, level: usize, scale: f64) -> Result<(), FileError> {
        match self.groups.get(group) {
            Some(g) if g.level == level && g.scale == scale => Ok(()),
            _ => Err(self.unusable(WEIGHTS)("a constant has another level or scale than its group")),
        }
    }

    /// Sizes of the sections with the model (weights), and of the keys (public and evaluation).
    pub fn sizes(&self) -> Result<(u64, u64), FileError> {
        let length = |name| self.container.section(name).map(|s| s.len() as u64);
        Ok((length(WEIGHTS)?, length(KEYS)? + length(PUBLIC_KEY)?))
    }

    /// Writes a signed bundle with the sections of this stored copy and the given version.
    pub fn deploy(&self, path: &Path, version: u32, signer: (&[u8; 32], SignFn)) -> Result<FileInfo, FileError> {
        let mut out = ContainerWriter::create(path, BUNDLE_KIND)?;
        let manifest = Manifest { version, ..self.manifest.clone() };
        out.add_section(MANIFEST, &to_json(&self.file, MANIFEST, &manifest)?)?;
        for name in [PROGRAM, FRONT, PUBLIC_KEY, KEYS, WEIGHTS] {
            out.begin_section(name)?;
            for part in self.container.section(name)?.chunks(WINDOW) {
                out.write(part)?;
                self.release();
            }
            out.end_section()?;
        }
        Ok(out.finish(Some(signer))?)
    }

    fn take<'b>(&self, rest: &mut &'b [u8], length: usize, section: &'static str) -> Result<&'b [u8], FileError> {
        let (bytes, left) = rest.split_at_checked(length).ok_or_else(|| self.unusable(section)("it is too short"))?;
        *rest = left;
        Ok(bytes)
    }

    fn unusable<E: std::fmt::Display>(&self, section: &'static str) -> impl Fn(E) -> FileError + use<'_, E> {
        move |reason| FileError::Section { file: self.file.clone(), section, reason: reason.to_string() }
    }
}

/// Keys that lie in memory together: those of one sum and shape in the order of the sum, each other key alone.
fn banks<'a>(
    mut keys: Vec<(&'a KeyRequirement, &'a [u8])>,
    sums: &[Vec<KeyId>],
) -> Vec<Vec<(&'a KeyRequirement, &'a [u8])>> {
    let mut banks = Vec::new();
    for sum in sums {
        let place = |id: KeyId| sum.iter().position(|&member| member == id);
        let mut of_sum: Vec<_> = keys.extract_if(.., |(needed, _)| place(needed.id).is_some()).collect();
        of_sum.sort_by_key(|(needed, _)| place(needed.id));
        while let Some(&(first, _)) = of_sum.first() {
            banks.push(of_sum.extract_if(.., |(needed, _)| needed.shape == first.shape).collect());
        }
    }
    banks.extend(keys.into_iter().map(|key| vec![key]));
    banks
}

/// Writes the owner's stored copy of a protected network, its many ciphertexts streamed.
pub struct ProtectedWriter {
    out: ContainerWriter,
    file: String,
}

impl ProtectedWriter {
    /// Begins the file with everything but the ciphertexts. `front` and `public_key` may be empty; `keys` are packed, in the
    /// program's order.
    pub fn create(
        path: &Path,
        manifest: &Manifest,
        program: &Program,
        front: &[u8],
        public_key: &[u8],
        keys: &[Vec<u8>],
    ) -> Result<Self, FileError> {
        let file = path.display().to_string();
        let mut out = ContainerWriter::create(path, PROTECTED_KIND)?;
        out.add_section(MANIFEST, &to_json(&file, MANIFEST, manifest)?)?;
        out.add_section(PROGRAM, &to_json(&file, PROGRAM, program)?)?;
        out.add_section(FRONT, front)?;
        out.add_section(PUBLIC_KEY, public_key)?;
        out.begin_section(KEYS)?;
        for key in keys {
            out.write(key)?;
        }
        out.end_section()?;
        out.begin_section(WEIGHTS)?;
        Ok(Self { out, file })
    }

    /// Appends the next constant.
    pub fn constant(&mut self, parameters: &Parameters, constant: &PackedConstant) -> Result<(), FileError> {
        let bytes = constant.to_bytes(parameters).map_err(|e: FheError| FileError::Section {
            file: self.file.clone(),
            section: WEIGHTS,
            reason: e.to_string(),
        })?;
        Ok(self.out.write(&bytes)?)
    }

    /// Puts the file in place.
    pub fn finish(mut self) -> Result<FileInfo, FileError> {
        self.out.end_section()?;
        Ok(self.out.finish(None)?)
    }
}

/// Bytes of a packed constant of this group.
pub fn packed_len(parameters: &Parameters, group: &ConstantGroup) -> usize {
    if group.plain { wire::plaintext_len(parameters, group.level) } else { wire::seeded_len(parameters, group.level) }
}

/// Reads a JSON section.
pub(crate) fn json<T: for<'de> Deserialize<'de>>(
    c: &Container,
    file: &str,
    section: &'static str,
) -> Result<T, FileError> {
    serde_json::from_slice(c.section(section)?).map_err(|e| FileError::Section {
        file: file.into(),
        section,
        reason: e.to_string(),
    })
}

/// Makes a JSON section.
pub(crate) fn to_json<T: Serialize>(file: &str, section: &'static str, value: &T) -> Result<Vec<u8>, FileError> {
    serde_json::to_vec(value).map_err(|e| FileError::Section { file: file.into(), section, reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use subrosa_fhe::{Galois, KeyShape};

    #[test]
    fn keys_of_one_sum_and_shape_lie_together_in_its_order() {
        let id = |rotation| KeyId::new(Galois::rotation(rotation), 1);
        let (high, low) = (KeyShape { level: 3, specials: 2, digit: 3 }, KeyShape { level: 2, specials: 2, digit: 2 });
        let key = |rotation, shape| KeyRequirement { id: id(rotation), shape };
        let keys = [
            key(1, high),
            key(2, high),
            key(3, low),
            key(4, high),
            key(8, high),
            key(8, low),
            key(16, high),
            key(32, high),
        ];
        let sums = [vec![id(16), id(0), id(8), id(4)], vec![id(4), id(2), id(8)], vec![id(64)]];
        let banks = banks(keys.iter().map(|key| (key, &[][..])).collect(), &sums);
        let found: Vec<Vec<KeyRequirement>> =
            banks.iter().map(|bank| bank.iter().map(|(key, _)| **key).collect()).collect();
        let expected = [
            vec![key(16, high), key(8, high), key(4, high)],
            vec![key(8, low)],
            vec![key(2, high)],
            vec![key(1, high)],
            vec![key(3, low)],
            vec![key(32, high)],
        ];
        assert_eq!(found, expected);
    }
}
