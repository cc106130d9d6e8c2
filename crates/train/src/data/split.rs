//! Parts of the training samples, class by class and by the seed alone.

use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{Options, fault};
use crate::error::TrainError;

/// Parts that the data bring along.
#[derive(Clone, Copy)]
pub(super) struct Given {
    pub(super) validation: bool,
    pub(super) test: bool,
}

/// Which of the training samples go into which part, each ascending; empty for a part that is given.
pub(super) struct Plan {
    pub(super) train: Vec<usize>,
    pub(super) validation: Vec<usize>,
    pub(super) test: Vec<usize>,
}

/// Streams of the seed, so that a part does not depend on the options of another.
const TEST: u64 = 1;
const LIMIT: u64 = 2;
const VALIDATION: u64 = 3;

/// Splits samples of these `labels`, all below the number of `classes`.
pub(super) fn plan(
    path: &Path,
    labels: &[u32],
    classes: &[String],
    given: Given,
    options: &Options,
) -> Result<Plan, TrainError> {
    if let [] | [_] = classes {
        let only = classes.first().map_or("none", String::as_str);
        return Err(fault(path, format!("there is one class alone, '{only}'"), "give samples of two classes or more"));
    }
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); classes.len()];
    for (index, &label) in labels.iter().enumerate() {
        if let Some(class) = members.get_mut(label as usize) {
            class.push(index);
        }
    }
    let needed = if given.test { 1 } else { 2 };
    for (class, name) in members.iter().zip(classes) {
        if class.len() < needed {
            let whose = if given.test { "" } else { ", and another for the test part" };
            return Err(fault(
                path,
                format!("class '{name}' has {} training sample(s), it needs one at least{whose}", class.len()),
                "add samples of it, or take the class out",
            ));
        }
    }
    let test = match given.test {
        true => Vec::new(),
        false => take(&mut members, share(labels.len(), options.test), 1, 1, options.seed, TEST),
    };
    if let Some(limit) = options.limit {
        if limit < classes.len() {
            return Err(TrainError::Option(format!(
                "--limit {limit} is less than one sample for each of the {} classes; use {0} or more",
                classes.len()
            )));
        }
        let left: usize = members.iter().map(Vec::len).sum();
        if limit < left {
            let chosen = take(&mut members, limit, 1, 0, options.seed, LIMIT);
            members = by_class(&chosen, labels, classes.len());
        }
    }
    let validation = if given.validation || options.validation == 0.0 {
        Vec::new()
    } else {
        let left: usize = members.iter().map(Vec::len).sum();
        let validation = take(&mut members, share(left, options.validation), 0, 1, options.seed, VALIDATION);
        if validation.is_empty() {
            return Err(fault(
                path,
                "no class has a training sample to spare for validation",
                "add samples, use a larger --limit, or use --validation 0",
            ));
        }
        validation
    };
    let mut train: Vec<usize> = members.into_iter().flatten().collect();
    train.sort_unstable();
    Ok(Plan { train, validation, test })
}

fn by_class(indices: &[usize], labels: &[u32], classes: usize) -> Vec<Vec<usize>> {
    let mut members = vec![Vec::new(); classes];
    for &index in indices {
        let class = labels.get(index).and_then(|&label| members.get_mut(label as usize));
        if let Some(class) = class {
            class.push(index);
        }
    }
    members
}

/// A share of `count`, rounded, 1 at least.
fn share(count: usize, share: f64) -> usize {
    ((count as f64 * share).round() as usize).max(1)
}

/// Takes `total` members away, by lot and in the classes' proportions; of each class `least` or more, and so that `keep`
/// or more stay.
fn take(members: &mut [Vec<usize>], total: usize, least: usize, keep: usize, seed: u64, stream: u64) -> Vec<usize> {
    let counts: Vec<usize> = members.iter().map(Vec::len).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let mut taken = Vec::with_capacity(total);
    for (class, number) in members.iter_mut().zip(apportion(&counts, total, least, keep)) {
        class.sort_unstable();
        shuffle(class, &mut rng);
        taken.extend(class.drain(..number.min(class.len())));
    }
    taken.sort_unstable();
    taken
}

/// How many of each class make `total`, in the classes' proportions: the whole parts, then one more each in the order of
/// what was cut off. Each number is `least` or more and leaves `keep` or more; if these bounds bind, the sum may differ.
fn apportion(counts: &[usize], total: usize, least: usize, keep: usize) -> Vec<usize> {
    let all = counts.iter().sum::<usize>().max(1) as u128;
    let exact = |count: usize| count as u128 * total as u128;
    let most = |count: usize| count.saturating_sub(keep);
    let mut numbers: Vec<usize> = counts
        .iter()
        .map(|&count| usize::try_from(exact(count) / all).unwrap_or(usize::MAX).max(least).min(most(count)))
        .collect();
    let mut order: Vec<usize> = (0..counts.len()).collect();
    let rest = |class: &usize| counts.get(*class).map_or(0, |&count| exact(count) % all);
    order.sort_by_key(|class| std::cmp::Reverse(rest(class)));
    let mut missing = total.saturating_sub(numbers.iter().sum());
    while missing > 0 {
        let before = missing;
        for &class in &order {
            if let (Some(number), Some(&count)) = (numbers.get_mut(class), counts.get(class))
                && missing > 0
                && *number < most(count)
            {
                *number += 1;
                missing -= 1;
            }
        }
        if missing == before {
            break;
        }
    }
    numbers
}

/// Brings indices into an order by lot.
pub(super) fn shuffle_by(items: &mut [usize], seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(TEST);
    shuffle(items, &mut rng);
}

/// Fisher and Yates' shuffle, written out so that a split stays the same whatever becomes of a library's.
fn shuffle(items: &mut [usize], rng: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        let other = ((u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64) as usize;
        items.swap(last, other);
    }
}
