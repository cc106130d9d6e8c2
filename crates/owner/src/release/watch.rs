//! The watch over labels: do a device's answers look like those of calibration, or of the rest of the fleet?
//!
//! Who searches for a weight by labels alone asks near thresholds, and between two classes at a time. Both show in counts: a share of
//! near answers, and shares of classes, that chance does not explain. The tests are exact (Fisher's, one-sided: given how many there are in
//! all, is the device's part of them too large or too small?) with Bonferroni's correction over the classes; an [`Alarm`] is false with
//! probability at most 2^-[`FALSE_ALARM_BITS`] each time that it is asked for. A camera that is moved from a street to a wall raises it too: an
//! alarm asks a person, it does not judge.

use super::{ReleaseAgent, Released};
use crate::Calibration;
use crate::calibration::NEAR_SHARE;
use serde::{Deserialize, Serialize};
use std::fmt;
use subrosa_registry::fleet::{Counted, Fleet, NewAlarm};
use subrosa_registry::sql::SqlError;

/// An alarm is false with probability 2^-this, each time that counts are compared.
pub const FALSE_ALARM_BITS: f64 = 30.0;

/// How results were answered: of one device in a window, or of what it is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LabelCounts {
    /// Results of each class.
    pub labels: Vec<u64>,
    /// Those of all classes that were [`Released::near`] another one.
    pub near: u64,
}

/// What does not look like the reference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alarm {
    /// What stands out.
    pub what: Deviation,
    /// How often it was seen.
    pub seen: u64,
    /// How often it would be with the reference's share.
    pub expected: f64,
    /// Results in all.
    pub results: u64,
    /// -log2 of the probability that chance does this.
    pub bits: f64,
}

/// What stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Deviation {
    /// Too many answers near a second class.
    Near,
    /// Too many answers of this class.
    More(usize),
    /// Too few answers of this class.
    Fewer(usize),
}

impl LabelCounts {
    /// Counts of a network with so many classes.
    pub fn new(classes: usize) -> Self {
        Self { labels: vec![0; classes], near: 0 }
    }

    /// How calibration data is answered, if there were any.
    pub(super) fn of_calibration(calibration: &Calibration) -> Option<Self> {
        let labels = calibration.labels.clone();
        let all: u64 = labels.iter().sum();
        (all > 0).then_some(Self { labels, near: all / NEAR_SHARE as u64 + 1 })
    }

    /// Counts one more.
    pub fn add(&mut self, released: &Released) {
        if self.labels.len() <= released.label {
            self.labels.resize(released.label + 1, 0);
        }
        self.labels.iter_mut().skip(released.label).take(1).for_each(|c| *c += 1);
        self.near += u64::from(released.near);
    }

    /// Results in all.
    pub fn results(&self) -> u64 {
        self.labels.iter().sum()
    }

    /// What stands out most against `reference`, if it is more than chance.
    pub fn alarm(&self, reference: &Self) -> Option<Alarm> {
        let (own, others) = (self.results(), reference.results());
        let classes = self.labels.len().max(reference.labels.len());
        let mut tests = vec![(Deviation::Near, self.near, reference.near, true)];
        for class in 0..classes {
            let of = |counts: &Self| counts.labels.get(class).copied().unwrap_or(0);
            tests.push((Deviation::More(class), of(self), of(reference), true));
            tests.push((Deviation::Fewer(class), of(self), of(reference), false));
        }
        let corrected = (tests.len() as f64).log2();
        let bits = |&(_, seen, elsewhere, more): &(Deviation, u64, u64, bool)| {
            let tail = if more {
                upper_tail(seen, own, elsewhere, others)
            } else {
                upper_tail(own - seen, own, others.saturating_sub(elsewhere), others)
            };
            tail - corrected
        };
        let worst = tests.iter().map(|test| (bits(test), test)).max_by(|a, b| a.0.total_cmp(&b.0));
        let (bits, &(what, seen, elsewhere, _)) = worst.filter(|(bits, _)| *bits >= FALSE_ALARM_BITS)?;
        let expected = own as f64 * elsewhere as f64 / others.max(1) as f64;
        Some(Alarm { what, seen, expected, results: own, bits })
    }
}

impl From<&Counted> for LabelCounts {
    fn from(counted: &Counted) -> Self {
        Self { labels: counted.classes.clone(), near: counted.near }
    }
}

/// Compares how a device was answered on a day since 1970 with calibration and with the other devices that raised no alarm that day. Alarms are
/// raised in the registry; given with whether they are new.
///
/// # Errors
/// The database's.
pub fn look(fleet: &Fleet, agent: &ReleaseAgent, day: i64, device: &str) -> Result<Vec<(NewAlarm, bool)>, SqlError> {
    let model = agent.model();
    let all = fleet.label_counts(model, day)?;
    let Some(own) = all.get(device).map(LabelCounts::from) else { return Ok(Vec::new()) };
    // Those that stand out themselves are nothing to compare with.
    let alarmed = fleet.alarmed(model, day)?;
    let mut others = LabelCounts::default();
    for (_, counted) in all.iter().filter(|(other, _)| *other != device && !alarmed.contains(other)) {
        others.near += counted.near;
        others.labels.resize(others.labels.len().max(counted.classes.len()), 0);
        others.labels.iter_mut().zip(&counted.classes).for_each(|(sum, n)| *sum += n);
    }
    let mut alarms = Vec::new();
    for (reference, with) in [("calibration", agent.reference()), ("fleet", Some(&others))] {
        let Some(alarm) = with.and_then(|with| own.alarm(with)) else { continue };
        let (model, device, text) = (model.to_owned(), device.to_owned(), alarm.to_string());
        let alarm = NewAlarm { model, day, device, reference, text, bits: alarm.bits };
        let new = fleet.raise(&alarm)?;
        alarms.push((alarm, new));
    }
    Ok(alarms)
}

/// -log2 of the probability that, of the `hits + elsewhere` hits among `own + others` results, at least `hits` fall on `own` ones that are
/// chosen by chance (the hypergeometric distribution's tail).
fn upper_tail(hits: u64, own: u64, elsewhere: u64, others: u64) -> f64 {
    let (all, marked) = (own + others, hits + elsewhere);
    let least = marked.saturating_sub(others);
    if hits <= least || all == 0 {
        return 0.0;
    }
    let ln_binomial = |n: u64, k: u64| ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k);
    let first = ln_binomial(marked, hits) + ln_binomial(all - marked, own - hits) - ln_binomial(all, own);
    // The terms after the first, relative to it.
    let (mut term, mut sum, mut k) = (1.0, 1.0, hits);
    while k < marked.min(own) && term > 1e-12 * sum {
        let missing = (all - marked + k + 1).saturating_sub(own);
        term *= (marked - k) as f64 * (own - k) as f64 / ((k + 1) as f64 * missing as f64);
        sum += term;
        k += 1;
    }
    (-(first + sum.ln()) / std::f64::consts::LN_2).max(0.0)
}

/// ln n!: summed up to 256, by Stirling's series beyond (its error is below 1e-13 there).
fn ln_factorial(n: u64) -> f64 {
    if n <= 256 {
        return (2..=n).map(|k| (k as f64).ln()).sum();
    }
    let x = n as f64;
    (x + 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3))
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            Deviation::Near => "answers are near a second class".to_owned(),
            Deviation::More(class) | Deviation::Fewer(class) => format!("answers are of class {class}"),
        };
        let Self { seen, expected, results, bits, .. } = self;
        write!(f, "{seen} of {results} {what}, {expected:.1} would be usual: chance does this once in 2^{bits:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_those_of_small_tables_counted_out() {
        // Of 10 results 4 are hits; 5 are the device's. P(at least k) counted over all 252 choices.
        let choose = |n: u64, k: u64| -> f64 { (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product() };
        for hits in 1..=4u64 {
            let p: f64 = (hits..=4).map(|k| choose(4, k) * choose(6, 5 - k) / choose(10, 5)).sum();
            assert!((upper_tail(hits, 5, 4 - hits, 5) + p.log2()).abs() < 1e-9, "{hits}");
        }
        assert!((ln_factorial(257) - (2..=257u64).map(|k| (k as f64).ln()).sum::<f64>()).abs() < 1e-9);
        assert_eq!(upper_tail(0, 5, 3, 5), 0.0);
    }

    #[test]
    fn the_like_of_the_reference_raises_no_alarm_and_a_search_does() {
        let reference = LabelCounts { labels: vec![100; 10], near: 50 };
        let same = LabelCounts { labels: vec![12, 9, 14, 8, 10, 11, 7, 10, 13, 6], near: 6 };
        assert_eq!(same.alarm(&reference), None);
        // Binary search: two classes, half of the answers near.
        let search = LabelCounts { labels: vec![21, 19, 0, 0, 0, 0, 0, 0, 0, 0], near: 20 };
        let alarm = search.alarm(&reference).unwrap();
        assert!(alarm.bits > FALSE_ALARM_BITS && alarm.what != Deviation::Fewer(2), "{alarm}");
        // A device that sees one class only is found too, after enough of it.
        let one = |n| LabelCounts { labels: vec![0, n], near: 0 };
        assert_eq!(one(8).alarm(&reference), None);
        assert_eq!(one(40).alarm(&reference).unwrap().what, Deviation::More(1));
        // Without anything to compare with there is none.
        assert_eq!(one(1000).alarm(&LabelCounts::new(10)), None);
        assert_eq!(LabelCounts::new(10).alarm(&reference), None);
    }
}
