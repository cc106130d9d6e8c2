//! Bytes on the wire and in bundles. Little endian; residues bit-packed to the width of their prime.
//!
//! ```text
//! Ciphertext         SeededCiphertext   PublicKey          KeySwitchKey
//!  0  "SRFC"          0  "SRFS"          0  "SRFP"          0  "SRFK"
//!  4  version = 1     4  version = 1     4  version = 1     4  version = 1
//!  5  log2 N          5  log2 N          5  log2 N          5  log2 N
//!  6  level           6  level           6  level           6  level
//!  7  degree          7  0               7  0               7  specials
//!  8  scale, f64      8  scale, f64      8  seed, 32 bytes  8  digit
//! 16  c_0 .. c_deg   16  seed, 32 bytes 40  body            9  power
//!                    48  body                              10  conjugate, 0 or 1
//!                                                          11  0
//!                                                          12  rotation, u32
//!                                                          16  seed, 32 bytes
//!                                                          48  one body per digit
//! ```
//! A `Plaintext` ("SRFT") has the header of a ciphertext, with 0 for the degree, and one polynomial.
//!
//! A polynomial is its limbs in order (those of its level, for keys then `p_0 .. p_{specials-1}`); a limb is N residues in NTT
//! form and orbit order, each of `bits(p)` bits, packed least significant bit first (N is a multiple of 8: whole bytes).
//! The primes are not repeated here: they are the parameters', which travel beside. Readers check every length, residue,
//! level and scale, and reject trailing bytes.

use crate::parameters::KeyShape;
use crate::rlwe::{MAX_DEGREE, check_poly, check_scale};
use crate::{Ciphertext, FheError, KeyId, KeySwitchKey, Parameters, Plaintext, PublicKey, SeededCiphertext};
use subrosa_ring::{Galois, Modulus, Ring, RnsPoly, bitpack};

/// Format version written and read.
pub const VERSION: u8 = 1;

const CIPHERTEXT: Kind = Kind { what: "ciphertext", magic: *b"SRFC", header: 16 };
const PLAINTEXT: Kind = Kind { what: "plaintext", magic: *b"SRFT", header: 16 };
const SEEDED: Kind = Kind { what: "seeded ciphertext", magic: *b"SRFS", header: 48 };
const PUBLIC_KEY: Kind = Kind { what: "public key", magic: *b"SRFP", header: 40 };
const SWITCH_KEY: Kind = Kind { what: "key-switching key", magic: *b"SRFK", header: 48 };

/// Bytes of a packed [`Ciphertext`].
pub fn ciphertext_len(parameters: &Parameters, level: usize, degree: usize) -> usize {
    CIPHERTEXT.header + (degree + 1) * poly_len(parameters, level, 0)
}

/// Bytes of a packed [`Plaintext`].
pub fn plaintext_len(parameters: &Parameters, level: usize) -> usize {
    PLAINTEXT.header + poly_len(parameters, level, 0)
}

/// Bytes of a packed [`SeededCiphertext`].
pub fn seeded_len(parameters: &Parameters, level: usize) -> usize {
    SEEDED.header + poly_len(parameters, level, 0)
}

/// Bytes of a packed [`PublicKey`].
pub fn public_key_len(parameters: &Parameters, level: usize) -> usize {
    PUBLIC_KEY.header + poly_len(parameters, level, 0)
}

/// Bytes of a packed [`KeySwitchKey`].
pub fn switch_key_len(parameters: &Parameters, shape: KeyShape) -> usize {
    SWITCH_KEY.header + parameters.digits(shape) * poly_len(parameters, shape.level, shape.specials)
}

/// Bytes of a packed polynomial over the primes of `level` (beyond the last: of the last) and the first `specials` special primes.
fn poly_len(parameters: &Parameters, level: usize, specials: usize) -> usize {
    let all = parameters.pool();
    let own = parameters.level_limbs(level.min(parameters.levels())).iter().copied();
    let limbs = own.chain(all..all + specials.min(parameters.specials()));
    limbs.map(|i| bitpack::packed_len(parameters.n(), parameters.ring().modulus(i).bits())).sum()
}

impl Ciphertext {
    /// Packs the ciphertext; an error if it does not belong to the parameters.
    pub fn to_bytes(&self, parameters: &Parameters) -> Result<Vec<u8>, FheError> {
        self.check(parameters)?;
        let mut out = Vec::with_capacity(ciphertext_len(parameters, self.level(), self.degree()));
        CIPHERTEXT.write(&mut out, parameters, [self.level() as u8, self.degree() as u8]);
        out.extend_from_slice(&self.scale.to_le_bytes());
        for component in &self.components {
            write_poly(&mut out, parameters.ring_of(self.level)?, component);
        }
        Ok(out)
    }

    /// Reads exactly one packed ciphertext.
    pub fn from_bytes(parameters: &Parameters, bytes: &[u8]) -> Result<Self, FheError> {
        let mut reader = Reader::new(CIPHERTEXT, parameters, bytes)?;
        let [level, degree] = reader.array()?;
        let (level, degree) = (reader.level(level)?, usize::from(degree));
        if degree > MAX_DEGREE {
            return reader.bad(format!("degree {degree}, at most {MAX_DEGREE} is possible"));
        }
        let scale = reader.scale()?;
        reader.expect_len(ciphertext_len(parameters, level, degree))?;
        let components = (0..=degree).map(|_| reader.poly(parameters.ring_of(level)?)).collect::<Result<_, _>>()?;
        Ok(Self { components, scale, level })
    }
}

impl Plaintext {
    /// Packs the plaintext; an error if it does not belong to the parameters.
    pub fn to_bytes(&self, parameters: &Parameters) -> Result<Vec<u8>, FheError> {
        check_poly(PLAINTEXT.what, &self.poly, self.level, parameters)?;
        check_scale(PLAINTEXT.what, self.scale)?;
        let mut out = Vec::with_capacity(plaintext_len(parameters, self.level));
        PLAINTEXT.write(&mut out, parameters, [self.level as u8, 0]);
        out.extend_from_slice(&self.scale.to_le_bytes());
        write_poly(&mut out, parameters.ring_of(self.level)?, &self.poly);
        Ok(out)
    }

    /// Reads exactly one packed plaintext.
    pub fn from_bytes(parameters: &Parameters, bytes: &[u8]) -> Result<Self, FheError> {
        let mut reader = Reader::new(PLAINTEXT, parameters, bytes)?;
        let [level, zero] = reader.array()?;
        reader.zero(zero)?;
        let level = reader.level(level)?;
        let scale = reader.scale()?;
        reader.expect_len(plaintext_len(parameters, level))?;
        Ok(Self { poly: reader.poly(parameters.ring_of(level)?)?, scale, level })
    }
}

impl SeededCiphertext {
    /// Packs the ciphertext; an error if it does not belong to the parameters.
    pub fn to_bytes(&self, parameters: &Parameters) -> Result<Vec<u8>, FheError> {
        check_poly(SEEDED.what, &self.body, self.level(), parameters)?;
        check_scale(SEEDED.what, self.scale)?;
        let mut out = Vec::with_capacity(seeded_len(parameters, self.level()));
        SEEDED.write(&mut out, parameters, [self.level() as u8, 0]);
        out.extend_from_slice(&self.scale.to_le_bytes());
        out.extend_from_slice(&self.seed);
        write_poly(&mut out, parameters.ring_of(self.level)?, &self.body);
        Ok(out)
    }

    /// Reads exactly one packed seeded ciphertext.
    pub fn from_bytes(parameters: &Parameters, bytes: &[u8]) -> Result<Self, FheError> {
        let mut reader = Reader::new(SEEDED, parameters, bytes)?;
        let [level, zero] = reader.array()?;
        reader.zero(zero)?;
        let level = reader.level(level)?;
        let scale = reader.scale()?;
        let seed = reader.array()?;
        reader.expect_len(seeded_len(parameters, level))?;
        Ok(Self { body: reader.poly(parameters.ring_of(level)?)?, seed, scale, level })
    }
}

impl PublicKey {
    /// Packs the key; an error if it does not belong to the parameters.
    pub fn to_bytes(&self, parameters: &Parameters) -> Result<Vec<u8>, FheError> {
        check_poly(PUBLIC_KEY.what, self.body(), self.level(), parameters)?;
        let mut out = Vec::with_capacity(public_key_len(parameters, self.level()));
        PUBLIC_KEY.write(&mut out, parameters, [self.level() as u8, 0]);
        out.extend_from_slice(self.seed());
        write_poly(&mut out, parameters.ring_of(self.level())?, self.body());
        Ok(out)
    }

    /// Reads exactly one packed public key and expands its uniform half.
    pub fn from_bytes(parameters: &Parameters, bytes: &[u8]) -> Result<Self, FheError> {
        let mut reader = Reader::new(PUBLIC_KEY, parameters, bytes)?;
        let [level, zero] = reader.array()?;
        reader.zero(zero)?;
        let level = reader.level(level)?;
        let seed = reader.array()?;
        reader.expect_len(public_key_len(parameters, level))?;
        let body = reader.poly(parameters.ring_of(level)?)?;
        Self::from_parts(parameters, level, body, seed)
    }
}

impl KeySwitchKey {
    /// Packs the key; an error if it does not belong to the parameters.
    pub fn to_bytes(&self, parameters: &Parameters) -> Result<Vec<u8>, FheError> {
        let (id, shape) = (self.id(), self.shape());
        let ring = Self::ring(parameters, shape)?;
        if self.body().iter().any(|b| b.n() != parameters.n()) {
            return Err(FheError::UnfitKey { id, reason: "it belongs to another ring".into() });
        }
        let mut out = Vec::with_capacity(switch_key_len(parameters, shape));
        SWITCH_KEY.write(&mut out, parameters, [shape.level as u8, shape.specials as u8]);
        out.extend_from_slice(&[shape.digit as u8, id.power, u8::from(id.galois.conjugate), 0]);
        out.extend_from_slice(&id.galois.rotation.to_le_bytes());
        out.extend_from_slice(self.seed());
        for body in self.body() {
            write_poly(&mut out, &ring, body);
        }
        Ok(out)
    }

    /// Reads exactly one packed key. The security table is checked again.
    pub fn from_bytes(parameters: &Parameters, bytes: &[u8]) -> Result<Self, FheError> {
        let mut reader = Reader::new(SWITCH_KEY, parameters, bytes)?;
        let [level, specials, digit, power, conjugate, zero] = reader.array()?;
        reader.zero(zero)?;
        let shape = KeyShape { level: reader.level(level)?, specials: specials.into(), digit: digit.into() };
        if conjugate > 1 {
            return reader.bad(format!("conjugation flag {conjugate}"));
        }
        let galois = Galois { rotation: u32::from_le_bytes(reader.array()?), conjugate: conjugate == 1 };
        let seed = reader.array()?;
        let ring = Self::ring(parameters, shape)?;
        reader.expect_len(switch_key_len(parameters, shape))?;
        let body = (0..parameters.digits(shape)).map(|_| reader.poly(&ring)).collect::<Result<_, _>>()?;
        Self::from_parts(parameters, KeyId::new(galois, power), shape, body, seed)
    }
}

/// What is written or read, and how it begins.
#[derive(Clone, Copy)]
struct Kind {
    what: &'static str,
    magic: [u8; 4],
    header: usize,
}

impl Kind {
    fn write(self, out: &mut Vec<u8>, parameters: &Parameters, tail: [u8; 2]) {
        out.extend_from_slice(&self.magic);
        out.extend_from_slice(&[VERSION, parameters.log_n() as u8]);
        out.extend_from_slice(&tail);
    }
}

fn write_poly(out: &mut Vec<u8>, ring: &Ring, poly: &RnsPoly) {
    for i in 0..poly.limbs() {
        bitpack::pack(poly.limb(i), ring.modulus(i).bits(), out);
    }
}

/// Walks over untrusted bytes.
struct Reader<'a> {
    kind: Kind,
    parameters: &'a Parameters,
    total: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Checks magic, version and ring degree.
    fn new(kind: Kind, parameters: &'a Parameters, bytes: &'a [u8]) -> Result<Self, FheError> {
        let mut reader = Self { kind, parameters, total: bytes.len(), rest: bytes };
        if reader.array()? != kind.magic {
            return reader.bad("it does not begin with its mark".into());
        }
        let [version, log_n] = reader.array()?;
        if version != VERSION {
            return reader.bad(format!("format version {version}; this program reads version {VERSION}"));
        }
        if u32::from(log_n) != parameters.log_n() {
            return reader.bad(format!("ring degree 2^{log_n} instead of 2^{}", parameters.log_n()));
        }
        Ok(reader)
    }

    fn bad<T>(&self, reason: String) -> Result<T, FheError> {
        Err(FheError::Wire { what: self.kind.what, reason })
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], FheError> {
        match self.rest.split_at_checked(len) {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(head)
            }
            None => self.bad(format!("it ends after {} bytes", self.total)),
        }
    }

    fn array<const K: usize>(&mut self) -> Result<[u8; K], FheError> {
        let mut out = [0; K];
        out.copy_from_slice(self.take(K)?);
        Ok(out)
    }

    fn zero(&self, byte: u8) -> Result<(), FheError> {
        if byte == 0 { Ok(()) } else { self.bad("a reserved byte is not zero".into()) }
    }

    fn level(&self, level: u8) -> Result<usize, FheError> {
        let levels = self.parameters.levels();
        if level == 0 || usize::from(level) > levels {
            return self.bad(format!("level {level}; levels are 1 to {levels}"));
        }
        Ok(level.into())
    }

    fn scale(&mut self) -> Result<f64, FheError> {
        let scale = f64::from_le_bytes(self.array()?);
        if !(scale.is_finite() && scale > 0.0) {
            return self.bad(format!("scale {scale} is not a positive number"));
        }
        Ok(scale)
    }

    /// Checks the length of the whole before anything large is allocated.
    fn expect_len(&self, expected: usize) -> Result<(), FheError> {
        if self.total == expected { Ok(()) } else { self.bad(format!("{} bytes instead of {expected}", self.total)) }
    }

    fn poly(&mut self, ring: &Ring) -> Result<RnsPoly, FheError> {
        let (n, limbs) = (self.parameters.n(), ring.limbs());
        let mut poly = RnsPoly::zero(n, limbs);
        for i in 0..limbs {
            let p: &Modulus = ring.modulus(i);
            let packed = self.take(bitpack::packed_len(n, p.bits()))?;
            bitpack::unpack(packed, p.bits(), poly.limb_mut(i))?;
            if let Some(index) = poly.limb(i).iter().position(|&x| x >= p.value()) {
                return self.bad(format!("residue {index} of limb {i} is not below its prime {}", p.value()));
            }
        }
        Ok(poly)
    }
}
