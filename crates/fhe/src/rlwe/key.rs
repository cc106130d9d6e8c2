//! Key-switching keys: containers and their names.

use crate::parameters::KeyShape;
use crate::{FheError, Parameters};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use subrosa_ring::{Galois, Ring, RnsPoly, WeightStream};

/// Highest power of the secret that a key may switch from.
pub const MAX_POWER: u8 = 4;

/// What a key switches from: `sigma_g(s^power) -> s`. `(IDENTITY, 2)` is the relinearization key, `(g, 1)` a Galois key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyId {
    /// The automorphism.
    pub galois: Galois,
    /// Power of the secret, 1 ..= [`MAX_POWER`].
    pub power: u8,
}

impl KeyId {
    /// The key that switches `s^power` after the automorphism `galois`.
    pub fn new(galois: Galois, power: u8) -> Self {
        Self { galois, power }
    }

    /// Checks that the id names a real switch in this ring.
    pub fn check(&self, parameters: &Parameters) -> Result<(), FheError> {
        let bad = |reason: &str| Err(FheError::UnfitKey { id: *self, reason: reason.into() });
        if self.power == 0 || self.power > MAX_POWER {
            return bad("the power of the secret must be 1 to 4");
        }
        if self.galois.rotation as usize >= parameters.slots() {
            return bad("the rotation is not below the number of slots");
        }
        if self.power == 1 && self.galois.is_identity() {
            return bad("it would switch s to itself");
        }
        Ok(())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conjugate = if self.galois.conjugate { " and conjugation" } else { "" };
        write!(f, "power {} of the secret under rotation by {}{conjugate}", self.power, self.galois.rotation)
    }
}

/// A hybrid key-switching key (Han-Ki 2019/688, section 3). Digit `d` encrypts, over the primes of its level and `p_0 .. p_{specials-1}`,
/// the source secret times `P = p_0 ... p_{specials-1}` on the limbs of that digit and zero on all others:
/// `body_d + uniform_d * s = e_d + P * [d] * sigma_g(s^power)`.
///
/// This is its form for the wire; [`Self::prepare`] makes what the evaluator uses.
#[derive(Clone, Debug, PartialEq)]
pub struct KeySwitchKey {
    id: KeyId,
    shape: KeyShape,
    seed: [u8; 32],
    body: Vec<RnsPoly>,
}

impl KeySwitchKey {
    /// The ring that keys of this shape (and everything switched at `shape.level`) live in.
    pub fn ring(parameters: &Parameters, shape: KeyShape) -> Result<Ring, FheError> {
        parameters.check_key(shape)?;
        Ok(extended_ring(parameters, shape.level, shape.specials))
    }

    /// The uniform half of every digit: stream domain `d` of the seed, in the key's own ring.
    pub fn uniform_halves(ring: &Ring, shape: KeyShape, seed: &[u8; 32]) -> Vec<RnsPoly> {
        let digits = shape.digits_at(ring.limbs().saturating_sub(shape.specials));
        (0..digits).map(|d| ring.uniform(ring.limbs(), seed, d as u64)).collect()
    }

    /// Builds a key from its bodies (NTT form, one per digit) and the seed of the uniform halves.
    pub fn from_parts(
        parameters: &Parameters,
        id: KeyId,
        shape: KeyShape,
        body: Vec<RnsPoly>,
        seed: [u8; 32],
    ) -> Result<Self, FheError> {
        id.check(parameters)?;
        let ring = Self::ring(parameters, shape)?;
        let digits = parameters.digits(shape);
        if body.len() != digits {
            return Err(FheError::Length { what: "digits of a key", expected: digits, found: body.len() });
        }
        if body.iter().any(|b| b.n() != parameters.n() || b.limbs() != ring.limbs()) {
            return Err(FheError::UnfitKey { id, reason: "its polynomials belong to another ring".into() });
        }
        Ok(Self { id, shape, seed, body })
    }

    /// What the key switches from.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key's level, special primes and digit size.
    pub fn shape(&self) -> KeyShape {
        self.shape
    }

    /// The public seed of the uniform halves.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The halves that carry message and error, one per digit.
    pub fn body(&self) -> &[RnsPoly] {
        &self.body
    }

    /// Expands the uniform halves.
    pub fn expand(self, parameters: &Parameters) -> Result<ExpandedKey, FheError> {
        let ring = Self::ring(parameters, self.shape)?;
        let uniform = Self::uniform_halves(&ring, self.shape, &self.seed);
        Ok(ExpandedKey { key: self, uniform })
    }

    /// Expands the uniform halves and packs the key for products, in memory of its own. Keys that are used together should share a
    /// [`KeyBank`].
    pub fn prepare(self, parameters: &Parameters) -> Result<PreparedKey, FheError> {
        let mut bank = KeyBank::new(parameters, self.shape, 1)?;
        bank.push(&self.expand(parameters)?)?;
        bank.finish().pop().ok_or(FheError::Empty { operation: "preparation of a key" })
    }
}

/// A key with both halves.
pub struct ExpandedKey {
    key: KeySwitchKey,
    uniform: Vec<RnsPoly>,
}

/// Keys of one shape as products read them: both halves of all digits, packed to whole bytes, and the keys interleaved in the order in
/// which they came, so that a sum over all of them reads one stream.
pub struct KeyBank {
    shape: KeyShape,
    serves: Vec<bool>,
    ids: Vec<KeyId>,
    halves: WeightStream,
}

impl KeyBank {
    /// Room for a number of keys.
    pub fn new(parameters: &Parameters, shape: KeyShape, keys: usize) -> Result<Self, FheError> {
        let ring = KeySwitchKey::ring(parameters, shape)?;
        let halves = WeightStream::zeroed(&ring, ring.limbs(), keys, parameters.digits(shape));
        let serves = (1..=shape.level).map(|level| parameters.limbs_within(level, shape.level).is_some()).collect();
        Ok(Self { shape, serves, ids: Vec::with_capacity(keys), halves })
    }

    /// Adds a key. [`FheError::UnfitKey`] if it has another shape, [`FheError::Length`] if there is no room.
    pub fn push(&mut self, expanded: &ExpandedKey) -> Result<(), FheError> {
        let (key, group) = (&expanded.key, self.ids.len());
        if key.shape != self.shape {
            return Err(FheError::UnfitKey {
                id: key.id,
                reason: "it has another shape than the keys beside it".into(),
            });
        }
        if group >= self.halves.groups() {
            return Err(FheError::Length { what: "keys of a bank", expected: group, found: group + 1 });
        }
        let halves: Vec<[&RnsPoly; 2]> = key.body.iter().zip(&expanded.uniform).map(Into::into).collect();
        self.halves.write(group * self.halves.terms(), &halves);
        self.ids.push(key.id);
        Ok(())
    }

    /// The keys, in order.
    pub fn finish(self) -> Vec<PreparedKey> {
        let (halves, serves): (Arc<WeightStream>, Arc<[bool]>) = (self.halves.into(), self.serves.into());
        let key = |(group, id)| PreparedKey {
            id,
            shape: self.shape,
            serves: Arc::clone(&serves),
            halves: Arc::clone(&halves),
            group,
        };
        self.ids.into_iter().enumerate().map(key).collect()
    }
}

/// A key as products read it, in a [`KeyBank`].
pub struct PreparedKey {
    id: KeyId,
    shape: KeyShape,
    /// For each level from 1 on whether the key has its primes.
    serves: Arc<[bool]>,
    halves: Arc<WeightStream>,
    /// The key's place in the bank.
    group: usize,
}

impl PreparedKey {
    /// What the key switches from.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key's level, special primes and digit size.
    pub fn shape(&self) -> KeyShape {
        self.shape
    }

    /// Bytes that it takes in memory.
    pub fn packed_bytes(&self) -> usize {
        self.halves.packed_bytes() / self.halves.groups().max(1)
    }

    /// Whether the key has all primes of a level, as has any at or above it in a chain without swaps.
    pub fn serves(&self, level: usize) -> bool {
        level.checked_sub(1).and_then(|index| self.serves.get(index)).copied().unwrap_or(false)
    }

    /// Whether the key belongs to this ring of a level's primes and the key's special primes.
    pub(crate) fn fits(&self, extended: &Ring) -> bool {
        let ring = self.halves.ring();
        let split = |of: &Ring| {
            let mut primes = of.primes();
            let special = primes.split_off(primes.len().saturating_sub(self.shape.specials));
            (primes, special)
        };
        let ((own, own_special), (primes, special)) = (split(ring), split(extended));
        ring.n() == extended.n() && own_special == special && primes.iter().all(|q| own.contains(q))
    }

    /// The bank and the key's group in it: term d holds body and uniform half of digit d.
    pub(crate) fn halves(&self) -> (&WeightStream, usize) {
        (&self.halves, self.group)
    }
}

/// Ring over the ciphertext primes of `level`, then the first `specials` special primes.
pub(crate) fn extended_ring(parameters: &Parameters, level: usize, specials: usize) -> Ring {
    let all = parameters.pool();
    let limbs: Vec<usize> = parameters.level_limbs(level).iter().copied().chain(all..all + specials).collect();
    parameters.ring().select(&limbs)
}

/// A set of prepared keys, one per [`KeyId`] and level.
#[derive(Default)]
pub struct EvaluationKeys(BTreeMap<(KeyId, usize), PreparedKey>);

impl EvaluationKeys {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key; returns the one of the same id and level, which it replaces.
    pub fn insert(&mut self, key: PreparedKey) -> Option<PreparedKey> {
        self.0.insert((key.id(), key.shape().level), key)
    }

    /// The key for `id` of the least level that has all primes of `level`. [`FheError::MissingKey`] if there is no key for `id`,
    /// [`FheError::UnfitKey`] if none of them has the primes.
    pub fn get_for(&self, id: KeyId, level: usize) -> Result<&PreparedKey, FheError> {
        let mut of_id = self.0.range((id, 0)..=(id, usize::MAX)).map(|(_, key)| key).peekable();
        if of_id.peek().is_none() {
            return Err(FheError::MissingKey(id));
        }
        of_id.find(|key| key.serves(level)).ok_or_else(|| {
            let levels: Vec<usize> = self.iter().filter(|key| key.id() == id).map(|key| key.shape().level).collect();
            FheError::UnfitKey {
                id,
                reason: format!("no key has the primes of level {level}; they are at levels {levels:?}"),
            }
        })
    }

    /// All keys, ordered by id and level.
    pub fn iter(&self) -> impl Iterator<Item = &PreparedKey> {
        self.0.values()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl IntoIterator for EvaluationKeys {
    type Item = PreparedKey;
    type IntoIter = std::collections::btree_map::IntoValues<(KeyId, usize), PreparedKey>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_values()
    }
}

impl FromIterator<PreparedKey> for EvaluationKeys {
    fn from_iter<I: IntoIterator<Item = PreparedKey>>(keys: I) -> Self {
        Self(keys.into_iter().map(|k| ((k.id(), k.shape().level), k)).collect())
    }
}
