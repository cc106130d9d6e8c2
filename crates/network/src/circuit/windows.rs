//! Operators that slide a window: convolutions and pooling.

use std::sync::Arc;

use super::sparse::RowBuilder;
use super::trace::{At, Tracer};
use crate::activation::ActivationKind;
use crate::error::NetworkError;
use crate::split::Replaced;

/// One axis of a window.
struct Axis {
    /// For each place of the output the window's `(kernel, input)` positions that lie inside the input.
    taps: Vec<Vec<(usize, usize)>>,
    /// For each place of the output the window's positions that lie inside the input with its pads.
    padded: Vec<usize>,
    kernel: usize,
    input: usize,
}

/// The window of a convolution or pooling operator.
struct Window {
    axes: Vec<Axis>,
}

impl Window {
    /// Reads strides, pads and dilations of a node whose kernel has these sizes.
    fn read(at: At<'_>, kernel: &[usize], input: &[usize], output: &[usize]) -> Result<Self, NetworkError> {
        let count = kernel.len();
        let wrong =
            |what: &str| at.refuse(format!("has {what} that do not fit its tensors"), "export the network again");
        if count == 0 || input.len() != count || output.len() != count {
            return Err(wrong("axes"));
        }
        let numbers = |name: &str, length: usize, default: i64| -> Result<Vec<i64>, NetworkError> {
            let found = at.node.ints(name).map_or_else(|| vec![default; length], <[i64]>::to_vec);
            if found.len() == length { Ok(found) } else { Err(wrong(name)) }
        };
        let strides = numbers("strides", count, 1)?;
        let dilations = numbers("dilations", count, 1)?;
        let pads = numbers("pads", 2 * count, 0)?;
        let auto = at.node.text("auto_pad").unwrap_or("NOTSET").to_owned();
        let mut axes = Vec::with_capacity(count);
        for axis in 0..count {
            let get = |list: &[i64], at: usize| list.get(at).copied().unwrap_or(0);
            let size = |list: &[usize]| list.get(axis).copied().unwrap_or(0);
            let (kernel, input, output) = (size(kernel), size(input), size(output));
            let (stride, dilation) = (get(&strides, axis), get(&dilations, axis));
            if stride < 1 || dilation < 1 || kernel == 0 {
                return Err(wrong("strides or dilations"));
            }
            let reach = dilation.saturating_mul(kernel as i64 - 1).saturating_add(1);
            let (begin, end) = match auto.as_str() {
                "NOTSET" | "" => (get(&pads, axis), get(&pads, axis + count)),
                "VALID" => (0, 0),
                _ => {
                    let span = stride.saturating_mul(output as i64 - 1).saturating_add(reach);
                    let total = span.saturating_sub(input as i64).max(0);
                    let half = total / 2;
                    if auto == "SAME_LOWER" { (total - half, half) } else { (half, total - half) }
                }
            };
            let mut taps = Vec::with_capacity(output);
            let mut padded = Vec::with_capacity(output);
            for place in 0..output {
                let first = stride.saturating_mul(place as i64).saturating_sub(begin);
                // Kernel positions whose place in the input is in a range.
                let within = |low: i64, high: i64| {
                    let from = if first >= low { 0 } else { (low - first).saturating_add(dilation - 1) / dilation };
                    let to = if first >= high { 0 } else { (high - first).saturating_add(dilation - 1) / dilation };
                    (from, to.min(kernel as i64).max(from))
                };
                let (from, to) = within(0, input as i64);
                let inside = (from..to)
                    .filter_map(|k| Some((usize::try_from(k).ok()?, usize::try_from(first + k * dilation).ok()?)));
                taps.push(inside.collect());
                let (from, to) = within(begin.saturating_neg(), (input as i64).saturating_add(end));
                padded.push(usize::try_from(to - from).unwrap_or(0));
            }
            axes.push(Axis { taps, padded, kernel, input });
        }
        Ok(Window { axes })
    }

    /// Positions inside the input, over all places of the output.
    fn taps(&self) -> Option<usize> {
        let each = |axis: &Axis| axis.taps.iter().map(Vec::len).sum::<usize>();
        self.axes.iter().try_fold(1usize, |product, axis| product.checked_mul(each(axis)))
    }

    fn input(&self) -> usize {
        self.axes.iter().map(|axis| axis.input).product()
    }

    /// For each place of the output, row-major: the `(kernel, input)` positions inside the input, row-major indices, and
    /// how many positions lie inside the input with its pads.
    fn places(&self) -> Vec<(Vec<(usize, usize)>, usize)> {
        let mut places = vec![(vec![(0, 0)], 1)];
        for axis in &self.axes {
            let mut next = Vec::with_capacity(places.len() * axis.taps.len());
            for (taps, count) in &places {
                for (own, padded) in axis.taps.iter().zip(&axis.padded) {
                    let pairs = taps.iter().flat_map(|&(kernel, input)| {
                        own.iter().map(move |&(k, i)| (kernel * axis.kernel + k, input * axis.input + i))
                    });
                    next.push((pairs.collect(), count * padded));
                }
            }
            places = next;
        }
        places
    }
}

impl<'g> Tracer<'g> {
    pub(crate) fn convolution(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let graph = self.graph;
        let (tensor, output) = (at.node.input(0), graph.shape(at.node.output()));
        let input = graph.shape(tensor);
        if !self.is_traced(tensor) {
            return Err(at.refuse("has a kernel that depends on the input", "use constant weights"));
        }
        let weights = self.constant(at, 1)?;
        let bias = self.optional(at, 2)?;
        let misfit = || at.refuse("has weights that do not fit its tensors", "export the network again");
        let groups = usize::try_from(at.node.int("group", 1)).ok().filter(|&g| g > 0).ok_or_else(misfit)?;
        let (&[out_channels, group_channels, ref kernel @ ..], [1, channels, sizes @ ..], [1, _, out_sizes @ ..]) =
            (weights.shape.as_slice(), input, output)
        else {
            return Err(misfit());
        };
        if group_channels.checked_mul(groups) != Some(*channels) || out_channels % groups != 0 {
            return Err(misfit());
        }
        let window = Window::read(at, kernel, sizes, out_sizes)?;
        let entries = window.taps().and_then(|taps| taps.checked_mul(out_channels)?.checked_mul(group_channels));
        let entries = at.fits(entries)?;
        let value = self.linear(at, tensor)?;
        let places = window.places();
        let volume: usize = kernel.iter().product();
        let inner = window.input();
        let mut matrix = RowBuilder::new(value.size(), entries);
        let mut shift = Vec::with_capacity(out_channels * places.len());
        let per_group = (out_channels / groups).max(1);
        for channel in 0..out_channels {
            let first = channel / per_group * group_channels;
            let from = channel * group_channels * volume;
            let kernels = weights.values.get(from..from + group_channels * volume).ok_or_else(misfit)?;
            let own = bias.and_then(|b| b.values.get(channel)).copied().unwrap_or(0.0);
            for (taps, _) in &places {
                for (number, kernel) in kernels.chunks(volume.max(1)).enumerate() {
                    for &(k, i) in taps {
                        let weight = kernel.get(k).copied().unwrap_or(0.0);
                        matrix.push((first + number) * inner + i, f64::from(weight));
                    }
                }
                matrix.end_row();
                shift.push(f64::from(own));
            }
        }
        let form = self.map(at, value, &Arc::new(matrix.build()), &shift)?;
        self.set_linear(at, form, None);
        Ok(())
    }

    /// Mean pooling, over windows or whole channels; the same for MaxPool if it is to be replaced.
    pub(crate) fn pool(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let graph = self.graph;
        let (tensor, output) = (at.node.input(0), graph.shape(at.node.output()));
        let ([1, channels, sizes @ ..], [1, _, out_sizes @ ..]) = (graph.shape(tensor), output) else {
            return Err(at.batch());
        };
        let largest = matches!(at.node.op.as_str(), "MaxPool" | "GlobalMaxPool");
        if largest && self.substitutions.get(ActivationKind::Max).is_none() {
            return Err(at.refuse(
                "takes the largest of several values",
                "give --activation max=mean to put mean pooling in its place (and adapt the network to it with \
                 subrosa train --from), or train it with mean pooling",
            ));
        }
        let whole = matches!(at.node.op.as_str(), "GlobalAveragePool" | "GlobalMaxPool");
        let kernel: Vec<usize> = match at.node.ints("kernel_shape") {
            _ if whole => sizes.to_vec(),
            Some(kernel) => kernel.iter().filter_map(|&size| usize::try_from(size).ok()).collect(),
            None => Vec::new(),
        };
        let window = Window::read(at, &kernel, sizes, out_sizes)?;
        at.fits(window.taps().and_then(|taps| taps.checked_mul(*channels)))?;
        let mut value = self.linear(at, tensor)?;
        let with_pads = !largest && at.node.int("count_include_pad", 0) != 0;
        let places = window.places();
        let inner = window.input();
        let mut matrix = RowBuilder::new(value.size(), 0);
        for channel in 0..*channels {
            for (taps, padded) in &places {
                let count = if with_pads { *padded } else { taps.len() };
                for &(_, i) in taps {
                    matrix.push(channel * inner + i, 1.0 / count.max(1) as f64);
                }
                matrix.end_row();
            }
        }
        let origin = value.origin;
        value.origin = origin.or(Some(at.index));
        let form = self.map(at, value, &Arc::new(matrix.build()), &[0.0])?;
        self.set_linear(at, form, None);
        if largest && let Some(polynomial) = self.substitutions.get(ActivationKind::Max) {
            let layer = self.name(Some(at.index));
            self.replaced.push(Replaced { layer, from: ActivationKind::Max, to: polynomial.clone() });
        }
        Ok(())
    }
}
