//! Forecast of errors, by the central-limit heuristic: the coefficients of every noise polynomial are taken as independent
//! with mean zero (Costache, Curtis, Hales, Murphy, Ogilvie, Player, "On the precision loss in approximate homomorphic
//! encryption", ePrint 2022/162, sections 3 and 4; hybrid key switching: Han, Ki, ePrint 2019/688).
//!
//! Every `f64` called *noise* is the standard deviation of one coefficient of the noise polynomial, in integer units: it is not
//! divided by the scale. In a slot, noise of deviation `e` has `E|.|^2 = N e^2`. *Magnitudes* are the largest |slot| times the scale.
//!
//! Two facts to know. A product with the secret spreads unevenly over the slots (slot j of `r s` is `r_j s_j`, and `|s_j|^2` is
//! exponentially distributed): [`NoiseModel::slot_bound`] accounts for it. And under automorphisms noise adds in quadrature in
//! the slots, but coherently in the coefficients that the automorphisms fix: a reader of coefficients takes
//! [`NoiseModel::add_coherently`].

use subrosa_ring::sampler::SIGMA;

/// A bound is exceeded with probability at most 2^-40.
pub const FAILURE_LOG2: f64 = -40.0;
/// Variance of a coefficient of the uniform ternary secret.
const SECRET_VARIANCE: f64 = 2.0 / 3.0;
/// Variance of a rounding error, uniform in (-1/2, 1/2].
const ROUNDING_VARIANCE: f64 = 1.0 / 12.0;

/// Forecasts for one ring degree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseModel {
    n: f64,
}

impl NoiseModel {
    /// The model for ring degree 2^`log_n`.
    pub fn new(log_n: u32) -> Self {
        Self { n: f64::from(log_n).exp2() }
    }

    /// A fresh symmetric encryption: one Gaussian error.
    pub fn fresh_symmetric(&self) -> f64 {
        SIGMA
    }

    /// A fresh public-key encryption: `e_pk u + e_0 + e_1 s`.
    pub fn fresh_public(&self) -> f64 {
        SIGMA * (2.0 * self.n * SECRET_VARIANCE + 1.0).sqrt()
    }

    /// Rounding of an encoding to integers.
    pub fn encoding(&self) -> f64 {
        ROUNDING_VARIANCE.sqrt()
    }

    /// Rounding of every component of a ciphertext of this degree: `r_0 + r_1 s + r_2 s^2 + ...`. `E|s_j|^2k = k! (2N/3)^k`.
    pub fn rounding(&self, degree: usize) -> f64 {
        let (mut power, mut sum) = (1.0, 1.0);
        for k in 1..=degree {
            power *= k as f64 * SECRET_VARIANCE * self.n;
            sum += power;
        }
        (ROUNDING_VARIANCE * sum).sqrt()
    }

    /// A sum of independent values, also of different automorphisms of one value as seen in the slots.
    pub fn add(&self, noises: &[f64]) -> f64 {
        noises.iter().map(|e| e * e).sum::<f64>().sqrt()
    }

    /// A sum of values whose errors may be the same.
    pub fn add_coherently(&self, noises: &[f64]) -> f64 {
        noises.iter().sum()
    }

    /// A product: `e_a m_b + e_b m_a + e_a e_b`. `magnitude`: largest |slot| times scale. For a product with a plaintext,
    /// `noise_b` is [`Self::encoding`].
    pub fn mul(&self, noise_a: f64, magnitude_a: f64, noise_b: f64, magnitude_b: f64) -> f64 {
        self.add(&[noise_a * magnitude_b, noise_b * magnitude_a, noise_a * noise_b * self.n.sqrt()])
    }

    /// Division by a prime (or any divisor, as [`crate::Parameters::rescale_factor`]) with rounding of a ciphertext of this degree.
    pub fn rescale(&self, noise: f64, divisor: f64, degree: usize) -> f64 {
        self.add(&[noise / divisor, self.rounding(degree)])
    }

    /// One inner product of digits with a key, after the division by the special primes, without that division's rounding:
    /// digits uniform in (-D/2, D/2]. `log_digits`: log2 of each digit's product; `log_p`: log2 of the special primes' product.
    pub fn key_product(&self, log_digits: &[f64], log_p: f64) -> f64 {
        let digits: f64 = log_digits.iter().map(|d| (2.0 * (d - log_p)).exp2()).sum();
        SIGMA * (self.n * ROUNDING_VARIANCE * digits).sqrt()
    }

    /// `products` key products in one accumulator, divided by the special primes once. Digits and P as in [`Self::key_product`].
    pub fn key_switch(&self, log_digits: &[f64], log_p: f64, products: usize) -> f64 {
        let one = self.key_product(log_digits, log_p);
        self.add(&[one * (products as f64).sqrt(), self.rounding(1)])
    }

    /// The same, rescaled in the same rounding (`log_top`: log2 of what the scale is divided by); `noise` is that of the
    /// ciphertext before.
    pub fn key_switch_rescale(&self, noise: f64, log_digits: &[f64], log_p: f64, log_top: f64, products: usize) -> f64 {
        let one = self.key_product(log_digits, log_p);
        let before = self.add(&[noise, one * (products as f64).sqrt()]);
        self.rescale(before, log_top.exp2(), 1)
    }

    /// Deviation in a slot (`sqrt E|.|^2`) of noise with this deviation per coefficient.
    pub fn slot_std(&self, noise: f64) -> f64 {
        noise * self.n.sqrt()
    }

    /// Bound on |error| over `values` many slots, failing with probability at most 2^-40: solves
    /// `values * P(|X Y| > t) = 2^-40` for complex Gaussians X, Y, `P = 2t K_1(2t) < sqrt(pi t) e^(-2t) (1 + 3/(16 t))`, the worst case
    /// of noise multiplied by the secret (degree 1). Not for the rounding of a degree-2 ciphertext: relinearize before rescaling.
    pub fn slot_bound(&self, noise: f64, values: usize) -> f64 {
        let log = (values.max(1) as f64).ln() - FAILURE_LOG2 * std::f64::consts::LN_2;
        let mut t = log / 2.0;
        for _ in 0..8 {
            t = (log + 0.5 * (std::f64::consts::PI * t).ln() + (3.0 / (16.0 * t)).ln_1p()) / 2.0;
        }
        self.slot_std(noise) * t
    }
}

/// Bound on |x| over `values` many real Gaussian values of deviation `std`, failing with probability at most 2^-40:
/// `P(|x| > t std) < 2 exp(-t^2/2)`.
pub fn tail_bound(std: f64, values: usize) -> f64 {
    let log = (2.0 * values.max(1) as f64).ln() - FAILURE_LOG2 * std::f64::consts::LN_2;
    std * (2.0 * log).sqrt()
}

/// Forecast of what a BGV ciphertext's phase `y = f m + t e` grows to, which must stay below Q/2: message and noise are one here.
///
/// The coefficients are taken as independent with mean zero, messages as large as integers modulo t can be. A product of k values that
/// share factors (the secret, or a value multiplied with itself) has up to k! the energy of independent ones (moments of a complex Gaussian);
/// `order` counts factors so that [`Self::mul`] can allow for it. Under a fold ([`Self::fold`]) some coefficients add up coherently.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExactNoise {
    /// Root mean square of a coefficient of y.
    deviation: f64,
    /// Number of random factors in y.
    order: u32,
    /// The largest coefficients' deviation over `deviation`.
    peak: f64,
}

impl ExactNoise {
    /// A plaintext modulo t, or a message alone.
    pub fn plain(t: u64) -> Self {
        Self { deviation: t as f64 / 2.0, order: 1, peak: 1.0 }
    }

    /// A plaintext whose slots hold what is not chosen with its coefficients in mind: they are as if uniform modulo t.
    pub fn slots(t: u64) -> Self {
        Self::known(t as f64 * ROUNDING_VARIANCE.sqrt())
    }

    /// A plaintext whose coefficients have this root mean square.
    pub fn known(deviation: f64) -> Self {
        Self { deviation, order: 1, peak: 1.0 }
    }

    /// A fresh symmetric encryption of a message modulo t.
    pub fn fresh_symmetric(model: &NoiseModel, t: u64) -> Self {
        Self::plain(t).with(t as f64 * model.fresh_symmetric(), 1)
    }

    /// A fresh public-key encryption of a message modulo t.
    pub fn fresh_public(model: &NoiseModel, t: u64) -> Self {
        Self::plain(t).with(t as f64 * model.fresh_public(), 2)
    }

    /// A sum of values that may depend on each other.
    pub fn plus(self, other: Self) -> Self {
        let (order, peak) = (self.order.max(other.order), self.peak.max(other.peak));
        Self { deviation: self.deviation + other.deviation, order, peak }
    }

    /// A sum of `count` independent values of this size.
    pub fn sum(self, count: usize) -> Self {
        Self { deviation: self.deviation * (count as f64).sqrt(), ..self }
    }

    /// A product, of ciphertexts or with a plaintext.
    pub fn mul(self, other: Self, model: &NoiseModel) -> Self {
        let order = self.order + other.order;
        // Binomial coefficient: order! over what the factors have had already.
        let shared: f64 = (1..=other.order).map(|k| f64::from(self.order + k) / f64::from(k)).product();
        let deviation = self.deviation * other.deviation * (model.n * shared).sqrt();
        Self { deviation, order, peak: self.peak.max(other.peak) }
    }

    /// A product with a fresh symmetric encryption, whose error is spread over all coefficients, and so is the product but for the part of
    /// the message.
    pub fn mul_fresh(self, model: &NoiseModel, t: u64) -> Self {
        let fresh = Self::fresh_symmetric(model, t);
        let message = Self::plain(t).deviation / fresh.deviation;
        Self { peak: (1.0f64).hypot(message * self.peak), ..self.mul(fresh, model) }
    }

    /// A product with a constant.
    pub fn mul_constant(self, constant: f64) -> Self {
        Self { deviation: self.deviation * constant.abs(), ..self }
    }

    /// A rescale that divides by `divisor`, of a ciphertext of this degree.
    pub fn rescale(self, model: &NoiseModel, t: u64, divisor: f64, degree: usize) -> Self {
        let divided = Self { deviation: self.deviation / divisor, ..self };
        divided.with(t as f64 * model.rounding(degree), degree as u32 + 1)
    }

    /// A key switch: digits, P and products as in [`NoiseModel::key_switch`].
    pub fn key_switch(self, model: &NoiseModel, t: u64, log_digits: &[f64], log_p: f64, products: usize) -> Self {
        self.with(t as f64 * model.key_switch(log_digits, log_p, products), 2)
    }

    /// A key switch and a rescale in one division.
    pub fn key_switch_rescale(
        self,
        model: &NoiseModel,
        t: u64,
        (log_digits, log_p): (&[f64], f64),
        log_top: f64,
        products: usize,
    ) -> Self {
        let before = self.with(t as f64 * model.key_product(log_digits, log_p) * (products as f64).sqrt(), 2);
        before.rescale(model, t, log_top.exp2(), 1)
    }

    /// The sum of one value under a group of `count` automorphisms that it is not invariant under; before their key switch. In the slots the
    /// summands add in quadrature, in the coefficients that the group fixes coherently.
    pub fn fold(self, count: usize) -> Self {
        let root = (count as f64).sqrt();
        Self { deviation: self.deviation * root, peak: self.peak * root, ..self }
    }

    /// With an independent part of this deviation and order.
    fn with(self, deviation: f64, order: u32) -> Self {
        Self { deviation: self.deviation.hypot(deviation), order: self.order.max(order), ..self }
    }

    /// log2 of the bound of |y|, exceeded by any coefficient with probability at most 2^-40.
    pub fn log2_bound(&self, model: &NoiseModel) -> f64 {
        tail_bound(self.deviation * self.peak, model.n as usize).log2()
    }

    /// Bits between the bound of |y| and Q/2 for a modulus of `log_q` bits: the noise budget that is there at least. Negative: it may not
    /// decrypt.
    pub fn budget(&self, model: &NoiseModel, log_q: f64) -> f64 {
        log_q - 1.0 - self.log2_bound(model)
    }
}
