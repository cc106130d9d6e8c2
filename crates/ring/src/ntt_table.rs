//! One prime of a ring: its NTT and the elementwise operations on one limb.

use crate::aligned::with_scratch;
use crate::backend::Backend;
use crate::primes::LOG_N_RANGE;
use crate::twiddles::Twiddles;
use crate::{Kernel, Modulus, RingError, portable};
#[cfg(target_arch = "x86_64")]
use crate::{avx2, avx512};

/// The tables of one ring degree, prime and kernel.
///
/// The operations take slices of residues in `[0, p)` and return such residues. Slices of one call must have equal
/// lengths (the transforms: N); a mismatch is a bug of the caller and panics.
pub struct NttTable {
    log_n: u32,
    modulus: Modulus,
    kernel: Kernel,
    backend: Backend,
    /// As `backend`, but portable for short transforms.
    ntt_backend: Backend,
    root: u64,
    twiddles: Twiddles,
}

impl NttTable {
    /// Tables for N = 2^log_n.
    ///
    /// # Errors
    /// [`RingError::UnsupportedDegree`], [`RingError::PrimeNotNttFriendly`], or [`RingError::KernelUnavailable`].
    pub fn new(log_n: u32, modulus: Modulus, kernel: Kernel) -> Result<Self, RingError> {
        if !LOG_N_RANGE.contains(&log_n) {
            return Err(RingError::UnsupportedDegree { log_n });
        }
        let kernel = kernel.require_available()?;
        let root = primitive_root(log_n, &modulus)?;
        let backend = Backend::of(kernel);
        let ntt_backend = backend.for_ntt(log_n);
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut twiddles = Twiddles::new(&modulus, log_n, root, ntt_backend.multiplier_width());
        #[cfg(target_arch = "x86_64")]
        match ntt_backend {
            Backend::Portable => {}
            Backend::Avx2(_) => avx2::ntt::arrange(&modulus, &mut twiddles, log_n),
            Backend::Avx512(_) => avx512::ntt::arrange(&mut twiddles, log_n),
        }
        Ok(NttTable { log_n, modulus, kernel, backend, ntt_backend, root, twiddles })
    }

    /// The prime.
    pub fn modulus(&self) -> &Modulus {
        &self.modulus
    }

    /// The ring degree N.
    pub fn n(&self) -> usize {
        1 << self.log_n
    }

    /// The kernel that runs the operations.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// psi = g^((p-1)/2N) for the smallest g >= 2 that gives it order exactly 2N.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Transforms coefficients (natural order) into evaluations (orbit order), in place.
    pub fn forward(&self, a: &mut [u64]) {
        assert_eq!(a.len(), self.n(), "a limb has N words");
        with_scratch(a.len(), |scratch| match self.ntt_backend {
            Backend::Portable => portable::ntt::forward(&self.modulus, &self.twiddles, a, scratch),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(token) => avx2::ntt::forward(token, &self.modulus, &self.twiddles, a, scratch),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(token) => avx512::ntt::forward(token, &self.modulus, &self.twiddles, a, scratch),
        });
    }

    /// Transforms evaluations (orbit order) into coefficients (natural order), in place; includes the factor 1/N.
    pub fn inverse(&self, a: &mut [u64]) {
        self.inverse_from(None, a);
    }

    /// Writes the coefficients (natural order) of the evaluations (orbit order) `src` to `dst`.
    pub fn inverse_into(&self, src: &[u64], dst: &mut [u64]) {
        self.inverse_from(Some(src), dst);
    }

    fn inverse_from(&self, src: Option<&[u64]>, a: &mut [u64]) {
        assert!(a.len() == self.n() && src.is_none_or(|src| src.len() == a.len()), "a limb has N words");
        with_scratch(a.len(), |scratch| match self.ntt_backend {
            Backend::Portable => portable::ntt::inverse(&self.modulus, &self.twiddles, copied(src, a), scratch),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(token) => {
                avx2::ntt::inverse(token, &self.modulus, &self.twiddles, copied(src, a), scratch);
            }
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(token) => avx512::ntt::inverse(token, &self.modulus, &self.twiddles, src, a, scratch),
        });
    }

    /// a += b.
    pub fn add_assign(&self, a: &mut [u64], b: &[u64]) {
        assert_equal_lengths(a.len(), b.len());
        match self.backend {
            Backend::Portable => portable::limb::add_assign(&self.modulus, a, b),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(token) => avx2::limb::add_assign(token, &self.modulus, a, b),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(token) => avx512::limb::add_assign(token, &self.modulus, a, b),
        }
    }

    /// a -= b.
    pub fn sub_assign(&self, a: &mut [u64], b: &[u64]) {
        assert_equal_lengths(a.len(), b.len());
        match self.backend {
            Backend::Portable => portable::limb::sub_assign(&self.modulus, a, b),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(token) => avx2::limb::sub_assign(token, &self.modulus, a, b),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(token) => avx512::limb::sub_assign(token, &self.modulus, a, b),
        }
    }

    /// a = -a.
    pub fn neg_assign(&self, a: &mut [u64]) {
        match self.backend {
            Backend::Portable => portable::limb::neg_assign(&self.modulus, a),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(token) => avx2::limb::neg_assign(token, &self.modulus, a),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(token) => avx512::limb::neg_assign(token, &self.modulus, a),
        }
    }

    /// a *= b, elementwise.
    pub fn mul_assign(&self, a: &mut [u64], b: &[u64]) {
        assert_equal_lengths(a.len(), b.len());
        match self.backend {
            Backend::Portable => portable::limb::mul_assign(&self.modulus, a, b),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(token) => avx2::limb::mul_assign(token, &self.modulus, a, b),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(token) => avx512::limb::mul_assign(token, &self.modulus, a, b),
        }
    }

    /// acc += a * b, elementwise.
    pub fn mul_add_assign(&self, acc: &mut [u64], a: &[u64], b: &[u64]) {
        self.dot_add_assign(acc, &[(a, b)]);
    }

    /// a *= s for one residue s.
    pub fn mul_scalar_assign(&self, a: &mut [u64], s: u64) {
        match self.backend {
            Backend::Portable => portable::limb::mul_scalar_assign(&self.modulus, a, s),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(token) => avx2::limb::mul_scalar_assign(token, &self.modulus, a, s),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(token) => avx512::limb::mul_scalar_assign(token, &self.modulus, a, s),
        }
    }

    /// out = a * s for one residue s.
    pub fn mul_scalar(&self, out: &mut [u64], a: &[u64], s: u64) {
        assert_equal_lengths(out.len(), a.len());
        match self.backend {
            Backend::Portable => portable::limb::mul_scalar(&self.modulus, out, a, s),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(token) => avx2::limb::mul_scalar(token, &self.modulus, out, a, s),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(token) => avx512::limb::mul_scalar(token, &self.modulus, out, a, s),
        }
    }

    /// acc += a * s for one residue s.
    pub fn mul_scalar_add_assign(&self, acc: &mut [u64], a: &[u64], s: u64) {
        assert_equal_lengths(acc.len(), a.len());
        match self.backend {
            Backend::Portable => portable::limb::mul_scalar_add_assign(&self.modulus, acc, a, s),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(token) => avx2::limb::mul_scalar_add_assign(token, &self.modulus, acc, a, s),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(token) => avx512::limb::mul_scalar_add_assign(token, &self.modulus, acc, a, s),
        }
    }

    /// out = (a - out) * s for one residue s: the last step of a division by dropped primes.
    pub(crate) fn rsub_mul_scalar_assign(&self, out: &mut [u64], a: &[u64], s: u64) {
        assert_equal_lengths(out.len(), a.len());
        match self.backend {
            Backend::Portable => portable::limb::rsub_mul_scalar_assign(&self.modulus, out, a, s),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(token) => avx2::limb::rsub_mul_scalar_assign(token, &self.modulus, out, a, s),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(token) => avx512::limb::rsub_mul_scalar_assign(token, &self.modulus, out, a, s),
        }
    }

    /// `out[i] = sum_k x_k[i] * y_k[i]`, reduced once at the end. Up to 1024 pairs; slices may start anywhere in memory.
    pub fn dot(&self, out: &mut [u64], pairs: &[(&[u64], &[u64])]) {
        let len = out.len();
        assert!(pairs.iter().all(|(x, y)| x.len() == len && y.len() == len), "slices must have equal lengths");
        let mut blocks = Vec::with_capacity(pairs.len());
        for (i, out) in out.chunks_mut(DOT_BLOCK).enumerate() {
            let range = i * DOT_BLOCK..i * DOT_BLOCK + out.len();
            blocks.clear();
            blocks.extend(pairs.iter().map(|(x, y)| (&x[range.clone()], &y[range.clone()])));
            out.fill(0);
            self.dot_add_assign(out, &blocks);
        }
    }

    /// `acc[i] += sum_k x_k[i] * y_k[i]`, reduced once at the end. Up to 1024 pairs; slices may start anywhere in memory.
    pub fn dot_add_assign(&self, acc: &mut [u64], pairs: &[(&[u64], &[u64])]) {
        assert!(pairs.len() <= MAX_DOT_PAIRS, "a dot product takes at most {MAX_DOT_PAIRS} pairs");
        for (x, y) in pairs {
            assert_equal_lengths(acc.len(), x.len());
            assert_equal_lengths(acc.len(), y.len());
        }
        match self.backend {
            Backend::Portable => portable::limb::dot_add_assign(&self.modulus, acc, pairs),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(token) => avx2::limb::dot_add_assign(token, &self.modulus, acc, pairs),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(token) => avx512::limb::dot_add_assign(token, &self.modulus, acc, pairs),
        }
    }

    /// The residues of signed values.
    pub fn from_signed(&self, out: &mut [u64], values: &[i64]) {
        assert_equal_lengths(out.len(), values.len());
        match self.backend {
            Backend::Portable => portable::limb::from_signed(&self.modulus, out, values),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2(token) => avx2::limb::from_signed(token, &self.modulus, out, values),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(token) => avx512::limb::from_signed(token, &self.modulus, out, values),
        }
    }

    /// Takes the representative in (-q/2, q/2] of each residue modulo q = `from`, and reduces it modulo this prime.
    pub fn lift_centered(&self, out: &mut [u64], src: &[u64], from: &Modulus) {
        assert_equal_lengths(out.len(), src.len());
        crate::base_convert::lift_centered(&self.modulus, out, src, from, self.backend);
    }
}

/// Words that are cleared and then summed at a time: they stay in the first-level cache.
const DOT_BLOCK: usize = 1024;
/// Most pairs of one dot product; the kernels' wide sums are sized for it.
pub(crate) const MAX_DOT_PAIRS: usize = 1024;

/// `a` with the contents of `src`, for transforms that work in place.
fn copied<'a>(src: Option<&[u64]>, a: &'a mut [u64]) -> &'a mut [u64] {
    if let Some(src) = src {
        a.copy_from_slice(src);
    }
    a
}

#[inline]
fn assert_equal_lengths(a: usize, b: usize) {
    assert_eq!(a, b, "the slices of one limb operation must have equal lengths");
}

fn primitive_root(log_n: u32, modulus: &Modulus) -> Result<u64, RingError> {
    let p = modulus.value();
    let n = 1u64 << log_n;
    if !(p - 1).is_multiple_of(2 * n) {
        return Err(RingError::PrimeNotNttFriendly { prime: p, log_n });
    }
    // The order of the power divides 2N, a power of two: it is 2N exactly when the N-th power is -1.
    (2..p)
        .map(|g| modulus.pow(g, (p - 1) / (2 * n)))
        .find(|&root| modulus.pow(root, n) == p - 1)
        .ok_or(RingError::PrimeNotNttFriendly { prime: p, log_n })
}
