//! Polynomials for activations that encryption cannot evaluate, layer by layer, from what calibration data bring there.

use crate::calibration::argmax;
use crate::error::OwnerError;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::fmt;
use subrosa_network::fit::{self, FitError};
use subrosa_network::{
    Circuit, CircuitSplit, Fit, FitChoice, Interval, NetworkError, Polynomial, ScalarFunction, Source, Substitutions,
};

/// Calibration samples that polynomials are chosen on.
pub(crate) const FITTED_ON: usize = 512;
/// Of fewer samples, `auto` makes polynomials from all.
const FEW: usize = 64;
/// Degrees that `auto` tries for all layers at once.
const DEGREES: [usize; 7] = [2, 3, 5, 7, 9, 11, 15];
/// Share of answers that `auto` wants to agree with the original network's.
const WANTED_AGREEMENT: f64 = 0.99;
/// Values in use may be this much larger than those on calibration data.
const MARGIN: f64 = 1.2;
/// Weight of the interval as a whole in fits that are weighted by what was observed; `auto` tries all.
const EVENLY: [f64; 2] = [0.1, 0.01];
/// Values of a layer that are looked at, over all samples.
const VALUES: usize = 1 << 16;

/// An activation in whose place a polynomial was fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FittedActivation {
    /// The layer before it.
    pub layer: String,
    /// What was there.
    pub function: String,
    /// How the polynomial was made: `chebyshev:7`, …
    pub method: String,
    /// Its degree.
    pub degree: usize,
    /// Where it was fitted, from and to.
    pub interval: (f64, f64),
    /// Smallest and largest value that calibration data brought there; `None` without such data.
    pub seen: Option<(f64, f64)>,
    /// The largest difference from the function on the interval.
    pub max_abs_error: f64,
    /// The root of the mean squared difference on the interval.
    pub rms_error: f64,
    /// Share of the values on calibration data that lie outside the interval; `None` without such data.
    pub outside: Option<f64>,
    /// The polynomial.
    pub polynomial: Polynomial,
}

impl fmt::Display for FittedActivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lo, hi) = self.interval;
        write!(
            f,
            "{} of degree {} on {lo:.3}..{hi:.3} instead of {} behind layer '{}', off by {:.2e} at most, {:.2e} in the root \
             mean square",
            self.method, self.degree, self.function, self.layer, self.max_abs_error, self.rms_error
        )?;
        match self.outside {
            Some(share) if share > 0.0 => write!(f, ", {} % of calibration values outside", percent(share)),
            Some(_) => f.write_str(", no calibration value outside"),
            None => Ok(()),
        }
    }
}

/// A share in per cent with two digits that say something.
fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    if percent < 0.01 { format!("{percent:.1e}") } else { format!("{percent:.2}") }
}

/// What polynomials are chosen on.
pub(crate) struct Samples {
    /// What enters the circuit.
    pub features: Vec<Vec<f64>>,
    /// The original network's answers.
    pub original: Vec<usize>,
}

/// How `auto` fits.
#[derive(Clone, Copy)]
struct Automatic {
    degree: usize,
    /// Weight of the interval as a whole.
    evenly: f64,
}

/// Where the fits of a walk come from.
#[derive(Clone, Copy)]
enum Fits<'a> {
    /// They are made on the way.
    Make(Automatic),
    /// They are known, in the order of their layers.
    Take(&'a [FittedActivation]),
}

const USUAL: Automatic = Automatic { degree: 0, evenly: EVENLY[0] };

/// An activation to be fitted.
struct Open<'a> {
    layer: usize,
    function: ScalarFunction,
    choice: &'a FitChoice,
}

/// Fits what the circuit still has of functions; its layers take the polynomials.
///
/// Each layer's values are measured with the layers before it already replaced.
///
/// # Errors
/// Functions without a substitution; fits that need samples where there are none; fits that cannot be made.
pub(crate) fn fit_functions(
    split: &mut CircuitSplit,
    substitutions: &Substitutions,
    samples: Option<&Samples>,
) -> Result<Vec<FittedActivation>, OwnerError> {
    let open = open(split, substitutions)?;
    let circuit = &split.circuit;
    for one in &open {
        if samples.is_none() && one.choice.needs_observations() {
            let layer = circuit.layers.get(one.layer).map(|l| l.name.clone()).unwrap_or_default();
            return Err(OwnerError::NeedsCalibration { layer, kind: one.function.kind(), choice: *one.choice });
        }
    }
    let fitted = match samples {
        Some(samples) if open.iter().any(|one| *one.choice == FitChoice::Auto) => automatic(circuit, &open, samples)?,
        _ => walk(circuit, &open, samples, Fits::Make(USUAL))?.0,
    };
    for (one, fitted) in open.iter().zip(&fitted) {
        split.circuit.substitute(one.layer, &fitted.polynomial);
    }
    Ok(fitted)
}

/// Whether all functions of a circuit can be fitted as they are to be.
///
/// # Errors
/// The first that cannot.
pub(crate) fn check(split: &CircuitSplit, substitutions: &Substitutions) -> Result<(), OwnerError> {
    open(split, substitutions).map(drop)
}

/// The functions of a circuit with how each is to be fitted.
fn open<'a>(split: &CircuitSplit, substitutions: &'a Substitutions) -> Result<Vec<Open<'a>>, OwnerError> {
    let mut found = Vec::new();
    for (layer, name, kind) in split.circuit.functions() {
        let function = split.functions.iter().find(|(index, _)| *index == layer).map(|(_, function)| *function);
        let needs = |kind| NetworkError::NeedsSubstitution { layer: name.to_owned(), kind };
        let function = function.ok_or_else(|| needs(kind))?;
        let own = substitutions.choice(kind).or_else(|| substitutions.choice(function.kind()));
        let choice = own.ok_or_else(|| needs(function.kind()))?;
        found.push(Open { layer, function, choice });
    }
    Ok(found)
}

/// The fits of the lowest degree with which the network answers as it did, else the best. They are made from every other sample, if there
/// are enough, and have to do on these and on those between: a few hundred samples say little about the last per cent.
fn automatic(circuit: &Circuit, open: &[Open], samples: &Samples) -> Result<Vec<FittedActivation>, OwnerError> {
    let mut best: Option<(Vec<FittedActivation>, f64)> = None;
    let mut refused = None;
    let halves = (samples.original.len() >= FEW).then(|| (samples.every_other(0), samples.every_other(1)));
    for degree in DEGREES {
        for evenly in EVENLY {
            let make = Fits::Make(Automatic { degree, evenly });
            let tried = match &halves {
                None => walk(circuit, open, Some(samples), make),
                Some((these, between)) => walk(circuit, open, Some(these), make).and_then(|(made, agreement)| {
                    let (made, others) = walk(circuit, open, Some(between), Fits::Take(&made))?;
                    Ok((made, agreement.min(others)))
                }),
            };
            match tried {
                Ok((made, agreement)) => {
                    if best.as_ref().is_none_or(|(_, so_far)| agreement > *so_far) {
                        best = Some((made, agreement));
                    }
                    if agreement >= WANTED_AGREEMENT {
                        return Ok(best.map(|(made, _)| made).unwrap_or_default());
                    }
                }
                Err(error) => refused = Some(error),
            }
        }
    }
    let none = || OwnerError::Usage("no polynomial could be fitted".into());
    best.map(|(made, _)| made).ok_or_else(|| refused.unwrap_or_else(none))
}

impl Samples {
    fn every_other(&self, first: usize) -> Self {
        Self {
            features: self.features.iter().skip(first).step_by(2).cloned().collect(),
            original: self.original.iter().skip(first).step_by(2).copied().collect(),
        }
    }
}

/// Runs the samples through the circuit and fits each function to what arrives there, or takes the fits that are given.
/// Returns the fits and the share of answers that agree with the original's.
fn walk(
    circuit: &Circuit,
    open: &[Open],
    samples: Option<&Samples>,
    how: Fits<'_>,
) -> Result<(Vec<FittedActivation>, f64), OwnerError> {
    let fit = |number: usize, one: &Open, arriving: &[Vec<f64>]| match how {
        Fits::Make(auto) => fit_one(circuit, one, auto, arriving),
        Fits::Take(known) => {
            known.get(number).cloned().ok_or_else(|| OwnerError::Report("a layer has no polynomial".into()))
        }
    };
    let Some(samples) = samples else {
        let fits = open.iter().enumerate().map(|(number, one)| fit(number, one, &[]));
        return Ok((fits.collect::<Result<_, _>>()?, 0.0));
    };
    // The last layer that reads each layer: its values are of no use behind that.
    let mut last_use = vec![0; circuit.layers.len()];
    for (index, layer) in circuit.layers.iter().enumerate() {
        for term in &layer.terms {
            if let Source::Layer(read) = term.source
                && let Some(entry) = last_use.get_mut(read)
            {
                *entry = index;
            }
        }
    }
    let mut fits = Vec::with_capacity(open.len());
    let mut known: Vec<Vec<Vec<f64>>> = Vec::with_capacity(circuit.layers.len());
    for (index, layer) in circuit.layers.iter().enumerate() {
        let linear = |(number, input): (usize, &Vec<f64>)| {
            let mut sum = layer.bias.clone();
            for term in &layer.terms {
                let source = match term.source {
                    Source::Input => input.as_slice(),
                    Source::Layer(read) => known.get(read).and_then(|k| k.get(number)).map_or(&[][..], Vec::as_slice),
                };
                sum.iter_mut().zip(term.matrix.apply(source)).for_each(|(sum, value)| *sum += value);
            }
            sum
        };
        let mut values: Vec<Vec<f64>> = samples.features.par_iter().enumerate().map(linear).collect();
        if let Some(one) = open.iter().find(|one| one.layer == index) {
            let fitted = fit(fits.len(), one, &values)?;
            let apply = |x: &mut f64| *x = fitted.polynomial.eval(*x);
            values.par_iter_mut().for_each(|values| values.iter_mut().for_each(apply));
            fits.push(fitted);
        } else {
            let activation = &layer.activation;
            let apply = |(at, x): (usize, &mut f64)| *x = activation.eval(at, *x);
            values.par_iter_mut().for_each(|values| values.iter_mut().enumerate().for_each(apply));
        }
        known.push(values);
        for (known, last) in known.iter_mut().zip(&last_use).take(index) {
            if *last <= index {
                *known = Vec::new();
            }
        }
    }
    let outputs = known.pop().unwrap_or_default();
    let same = outputs.iter().zip(&samples.original).filter(|(o, label)| argmax(o.iter().copied()) == **label).count();
    Ok((fits, same as f64 / samples.original.len().max(1) as f64))
}

/// Fits one function to the values that arrive there, one list a sample.
fn fit_one(
    circuit: &Circuit,
    one: &Open,
    auto: Automatic,
    arriving: &[Vec<f64>],
) -> Result<FittedActivation, OwnerError> {
    let layer = circuit.layers.get(one.layer).map(|l| l.name.clone()).unwrap_or_default();
    let all = || arriving.iter().flatten().copied();
    let seen = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), x| (lo.min(x), hi.max(x)));
    let count = all().count();
    let (method, degree, own) = match *one.choice {
        FitChoice::Auto => (None, auto.degree, None),
        FitChoice::Fit { method, degree, interval } => (method, degree, interval),
        FitChoice::Sign { degrees, interval } => (None, degrees.total(), interval),
    };
    let refused = |source| OwnerError::Fit { layer: layer.clone(), source };
    // Values that are not numbers or too large are refused by the interval.
    if all().any(f64::is_nan) {
        return Err(refused(FitError::Sample(f64::NAN)));
    }
    let values = thinned(arriving, count.div_ceil(VALUES).max(1));
    let polynomial_on = |interval: Interval| match (*one.choice, method) {
        (FitChoice::Sign { degrees, .. }, _) => fit::composite_sign(one.function, degrees, interval),
        (_, Some(method)) => Fit::new(method, one.function, degree, interval)?.polynomial(),
        (_, None) => {
            // What lies beyond the interval, an observed degree's own, does not count.
            let within: Vec<f64> =
                values.iter().copied().filter(|x| (interval.lo()..=interval.hi()).contains(x)).collect();
            fit::observed(one.function, degree, &within, interval, auto.evenly)
        }
    };
    let candidates = match own {
        Some(interval) => vec![Ok(interval)],
        None => intervals(seen, method == Some(subrosa_network::FitMethod::Taylor)),
    };
    let mut best: Option<(Interval, Polynomial, f64)> = None;
    let mut error = None;
    for interval in candidates {
        let found = interval.and_then(|interval| {
            let polynomial = polynomial_on(interval)?;
            let rms = if values.is_empty() { 0.0 } else { fit::errors_on(&polynomial, one.function, &values)?.rms };
            Ok((interval, polynomial, rms))
        });
        match found {
            Ok(found) if best.as_ref().is_none_or(|(_, _, rms)| found.2 < *rms) => best = Some(found),
            Ok(_) => {}
            Err(reason) => error = error.or(Some(reason)),
        }
    }
    let (interval, polynomial, _) = best.ok_or_else(|| refused(error.unwrap_or(FitError::NoSamples)))?;
    let errors = fit::errors_between(&polynomial, one.function, interval);
    let outside = all().filter(|x| !(interval.lo()..=interval.hi()).contains(x)).count();
    Ok(FittedActivation {
        layer,
        function: one.function.to_string(),
        method: match one.choice {
            FitChoice::Auto => format!("auto, observed:{degree}"),
            FitChoice::Fit { .. } => FitChoice::Fit { method, degree, interval: None }.to_string(),
            FitChoice::Sign { degrees, .. } => FitChoice::Sign { degrees: *degrees, interval: None }.to_string(),
        },
        degree: polynomial.degree(),
        interval: (interval.lo(), interval.hi()),
        seen: (count > 0).then_some(seen),
        max_abs_error: errors.max_abs,
        rms_error: errors.rms,
        outside: (count > 0).then(|| outside as f64 / count as f64),
        polynomial,
    })
}

/// One of each `step` values that follow each other, a different one each time: always the same would be those of a few channels.
fn thinned(arriving: &[Vec<f64>], step: usize) -> Vec<f64> {
    let mut state = 0u64;
    let mut next = || {
        // A multiplier of Steele and Vigna's for linear congruential generators.
        state = state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
        (state >> 33) as usize % step
    };
    let mut taken = next();
    let mut values = Vec::new();
    for (number, &value) in arriving.iter().flatten().enumerate() {
        if number % step == taken {
            values.push(value);
        }
        if number % step == step - 1 {
            taken = next();
        }
    }
    values
}

/// Intervals that hold what was seen with a margin: one around 0, and one from the smallest value to the largest.
fn intervals((lo, hi): (f64, f64), around_zero: bool) -> Vec<Result<Interval, FitError>> {
    let far = MARGIN * lo.abs().max(hi.abs());
    // A layer that gives zeros only.
    let far = if far < 1e-3 { 1.0 } else { far };
    let mut all = vec![Interval::new(-far, far)];
    let more = (hi - lo) * (MARGIN - 1.0) / 2.0;
    if !around_zero && hi - lo > 1e-2 * far {
        all.push(Interval::new(lo - more, hi + more));
    }
    all
}
