//! Operators that move, repeat, drop or pad values.

use super::Place;
use super::form::{Form, Value};
use super::places::{default_places, picked, resized};
use super::sparse::index;
use super::trace::{At, RUN_TIME, Tracer};
use crate::error::NetworkError;

/// For each value of a tensor of `shape` the one of a tensor of `from` that ONNX's broadcasting puts there; `None` if
/// the shapes do not fit.
pub(crate) fn broadcast(from: &[usize], shape: &[usize]) -> Option<Vec<Option<u32>>> {
    if from.len() != shape.len() || from.iter().zip(shape).any(|(&own, &size)| own != size && own != 1) {
        return None;
    }
    let steps: Vec<usize> =
        strides(from).into_iter().zip(from).map(|(stride, &own)| if own == 1 { 0 } else { stride }).collect();
    Some(each(shape, |place| Some(place.iter().zip(&steps).map(|(at, step)| at * step).sum())))
}

/// How far apart neighbours along each axis are, row-major.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut stride = 1;
    let mut found: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&size| {
            let own = stride;
            stride *= size;
            own
        })
        .collect();
    found.reverse();
    found
}

/// For each place of `shape`, row-major, the index that `source` gives for its coordinates.
pub(crate) fn each(shape: &[usize], mut source: impl FnMut(&[usize]) -> Option<usize>) -> Vec<Option<u32>> {
    let count: usize = shape.iter().product();
    let mut place = vec![0; shape.len()];
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        rows.push(source(&place).map(index));
        for (at, &size) in place.iter_mut().zip(shape).rev() {
            *at += 1;
            if *at < size {
                break;
            }
            *at = 0;
        }
    }
    rows
}

impl<'g> Tracer<'g> {
    /// The values of a linear value with these indices, `fill` where there is none, standing at `places`.
    pub(crate) fn gathered(
        &self,
        at: At<'_>,
        value: &Value,
        rows: &[Option<u32>],
        fill: f64,
        places: Vec<Place>,
    ) -> Result<Value, NetworkError> {
        let mut entries = Some(0usize);
        for (_, matrix) in &value.form.terms {
            for row in rows.iter().flatten() {
                entries = entries.and_then(|entries| entries.checked_add(matrix.row_len(*row as usize)));
            }
        }
        at.fits(entries)?;
        Ok(Value::linear(value.form.gather(rows, fill), places, value.origin))
    }

    /// An axis of a tensor of `rank` axes that is not the batch.
    pub(crate) fn axis(&self, at: At<'_>, axis: i64, rank: usize) -> Result<usize, NetworkError> {
        let rank = rank as i64;
        let axis = if axis < 0 { axis + rank } else { axis };
        match usize::try_from(axis) {
            Ok(0) => Err(at.batch()),
            Ok(axis) if (axis as i64) < rank => Ok(axis),
            _ => Err(at.refuse(format!("names axis {axis} of a tensor with {rank} axes"), "export the network again")),
        }
    }

    /// Integers that are an attribute, or the constant input number `input` in later versions of the operator.
    pub(crate) fn integers(&mut self, at: At<'g>, name: &str, input: usize) -> Result<Option<Vec<i64>>, NetworkError> {
        if let Some(values) = at.node.ints(name) {
            return Ok(Some(values.to_vec()));
        }
        let tensor = at.node.input(input);
        match self.graph.constants.get(tensor) {
            Some(constant) if constant.shape.contains(&0) => Ok(Some(Vec::new())),
            _ => Ok(self.optional(at, input)?.map(|c| c.values.iter().map(|&v| v as i64).collect())),
        }
    }

    /// Operators that keep each sample's values and their order.
    pub(crate) fn rename(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let node = at.node;
        let rank = self.graph.shape(node.input(0)).len();
        match node.op.as_str() {
            "Cast" if !matches!(node.int("to", 0), 1 | 10 | 11 | 16) => {
                return Err(at.refuse(
                    "rounds values to integers",
                    "export the network in float32 without a change of type inside",
                ));
            }
            "Dropout" if !node.input(2).is_empty() && self.constant(at, 2)?.values != [0.0] => {
                return Err(at.refuse("drops values at random", "export the network for inference, after training"));
            }
            "Squeeze" | "Unsqueeze" => {
                let axes = self.integers(at, "axes", 1)?.ok_or_else(|| at.batch())?;
                let rank = if node.op == "Squeeze" { rank } else { rank + axes.len() };
                for axis in axes {
                    self.axis(at, axis, rank)?;
                }
            }
            _ => {}
        }
        let kept = self.graph.elements(node.input(0)) == self.graph.elements(node.output());
        if !kept || self.graph.shape(node.output()).first() != Some(&1) {
            return Err(at.batch());
        }
        self.pass(at)
    }

    pub(crate) fn transpose(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let tensor = at.node.input(0);
        let from = self.graph.shape(tensor);
        let order: Vec<usize> = match at.node.ints("perm") {
            Some(order) => order.iter().filter_map(|&axis| usize::try_from(axis).ok()).collect(),
            None => (0..from.len()).rev().collect(),
        };
        if order.first() != Some(&0) || order.len() != from.len() {
            return Err(at.batch());
        }
        let own = strides(from);
        let steps: Vec<usize> = order.iter().map(|&axis| own.get(axis).copied().unwrap_or(0)).collect();
        let shape = self.graph.shape(at.node.output());
        let rows = each(shape, |place| Some(place.iter().zip(&steps).map(|(at, step)| at * step).sum()));
        if rows.iter().enumerate().all(|(at, row)| *row == Some(index(at))) {
            return self.pass(at);
        }
        let value = self.linear(at, tensor)?;
        let places = rows.iter().flatten().filter_map(|&row| value.places.get(row as usize).copied()).collect();
        let moved = self.gathered(at, &value, &rows, 0.0, places)?;
        self.set(at.node.output(), moved);
        Ok(())
    }

    /// Sets `output`, of `shape`, to picked and repeated values of the node's first input.
    fn pick_values(
        &mut self,
        at: At<'g>,
        rows: &[Option<u32>],
        output: &str,
        shape: &[usize],
    ) -> Result<(), NetworkError> {
        let tensor = at.node.input(0);
        let value = self.linear(at, tensor)?;
        let places = picked(&value.places, self.graph.shape(tensor), shape, rows);
        let moved = self.gathered(at, &value, rows, 0.0, places)?;
        self.set(output, moved);
        Ok(())
    }

    /// Takes the values at `picks` along each axis, which become `output`.
    fn cut(&mut self, at: At<'g>, picks: &[Vec<usize>], output: &str) -> Result<(), NetworkError> {
        let steps = strides(self.graph.shape(at.node.input(0)));
        let shape: Vec<usize> = picks.iter().map(Vec::len).collect();
        let rows = each(&shape, |place| {
            let mut flat = 0;
            for ((at, pick), step) in place.iter().zip(picks).zip(&steps) {
                flat += step * pick.get(*at)?;
            }
            Some(flat)
        });
        self.pick_values(at, &rows, output, &shape)
    }

    /// The same along one axis.
    fn cut_axis(&mut self, at: At<'g>, axis: usize, picks: Vec<usize>, output: &str) -> Result<(), NetworkError> {
        let from = self.graph.shape(at.node.input(0));
        let mut all: Vec<Vec<usize>> = from.iter().map(|&size| (0..size).collect()).collect();
        if let Some(slot) = all.get_mut(axis) {
            *slot = picks;
        }
        self.cut(at, &all, output)
    }

    pub(crate) fn slice(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let from = self.graph.shape(at.node.input(0)).to_vec();
        let missing = || at.refuse("has bounds that are not known when the network is read", RUN_TIME);
        let starts = self.integers(at, "starts", 1)?.ok_or_else(missing)?;
        let ends = self.integers(at, "ends", 2)?.ok_or_else(missing)?;
        let axes = self.integers(at, "axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = self.integers(at, "steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
        let mut picks: Vec<Vec<usize>> = from.iter().map(|&size| (0..size).collect()).collect();
        for (((&start, &end), &axis), &step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
            let axis = self.axis(at, axis, from.len())?;
            let size = from.get(axis).copied().unwrap_or(0) as i64;
            if step == 0 {
                return Err(at.refuse("has a step of 0", "export the network again"));
            }
            let bound = |value: i64, low: i64, high: i64| {
                (if value < 0 { value.saturating_add(size) } else { value }).clamp(low, high)
            };
            let (mut at_value, last) = match step > 0 {
                true => (bound(start, 0, size), bound(end, 0, size)),
                false => (bound(start, 0, (size - 1).max(0)), bound(end, -1, (size - 1).max(-1))),
            };
            let mut taken = Vec::new();
            while if step > 0 { at_value < last } else { at_value > last } {
                taken.extend(usize::try_from(at_value).ok().filter(|_| at_value < size));
                at_value = at_value.saturating_add(step);
            }
            if let Some(pick) = picks.get_mut(axis) {
                *pick = taken;
            }
        }
        self.cut(at, &picks, at.node.output())
    }

    pub(crate) fn split(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let rank = self.graph.shape(at.node.input(0)).len();
        let axis = self.axis(at, at.node.int("axis", 0), rank)?;
        let mut start = 0;
        for output in at.node.outputs.clone() {
            let size = self.graph.shape(&output).get(axis).copied().unwrap_or(0);
            self.cut_axis(at, axis, (start..start + size).collect(), &output)?;
            start += size;
        }
        Ok(())
    }

    /// Gather with constant indices.
    pub(crate) fn pick(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let from = self.graph.shape(at.node.input(0)).to_vec();
        if self.is_traced(at.node.input(1)) || !self.is_traced(at.node.input(0)) {
            return Err(at.refuse("picks values by indices that depend on the input", "use constant indices"));
        }
        let axis = self.axis(at, at.node.int("axis", 0), from.len())?;
        let size = from.get(axis).copied().unwrap_or(0) as i64;
        let indices = self.constant(at, 1)?;
        let picks: Vec<usize> = indices
            .values
            .iter()
            .map(|&v| if v < 0.0 { v as i64 + size } else { v as i64 })
            .filter_map(|v| usize::try_from(v).ok().filter(|_| v < size))
            .collect();
        self.cut_axis(at, axis, picks, at.node.output())
    }

    pub(crate) fn expand(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let shape = self.graph.shape(at.node.output());
        let rows = broadcast(self.graph.shape(at.node.input(0)), shape).ok_or_else(|| at.batch())?;
        if shape.first() != Some(&1) {
            return Err(at.batch());
        }
        self.pick_values(at, &rows, at.node.output(), shape)
    }

    pub(crate) fn pad(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let from = self.graph.shape(at.node.input(0)).to_vec();
        let pads = self.integers(at, "pads", 1)?.ok_or_else(|| at.refuse("has no pads", RUN_TIME))?;
        let fill = self.optional(at, 2)?.and_then(|c| c.values.first().copied());
        let fill = f64::from(fill.unwrap_or_else(|| at.node.float("value", 0.0)));
        let axes = match self.integers(at, "axes", 3)? {
            Some(axes) => axes,
            None => (0..from.len() as i64).collect(),
        };
        let mode = at.node.text("mode").unwrap_or("constant").to_owned();
        let (begins, ends) = pads.split_at_checked(axes.len()).unwrap_or_default();
        let mut before = vec![0i64; from.len()];
        for ((&axis, &begin), &end) in axes.iter().zip(begins).zip(ends) {
            if begin == 0 && end == 0 {
                continue;
            }
            let axis = self.axis(at, axis, from.len())?;
            if let Some(slot) = before.get_mut(axis) {
                *slot = begin;
            }
        }
        let shape = self.graph.shape(at.node.output()).to_vec();
        let steps = strides(&from);
        let inside = |value: i64, size: usize| -> Option<usize> {
            let size = size as i64;
            let within = match mode.as_str() {
                "edge" => value.clamp(0, size - 1),
                "reflect" if value < 0 => -value,
                "reflect" if value >= size => 2 * (size - 1) - value,
                "wrap" => value.rem_euclid(size.max(1)),
                _ => value,
            };
            usize::try_from(within).ok().filter(|_| within < size)
        };
        if !matches!(mode.as_str(), "constant" | "edge" | "reflect" | "wrap") {
            return Err(at.refuse(format!("pads in the mode '{mode}'"), "pad with constants, edge, reflect or wrap"));
        }
        let rows = each(&shape, |place| {
            let mut flat = 0;
            for (((at, begin), size), step) in place.iter().zip(&before).zip(&from).zip(&steps) {
                flat += step * inside(*at as i64 - begin, *size)?;
            }
            Some(flat)
        });
        let old = self.linear(at, at.node.input(0))?;
        let moved = self.gathered(at, &old, &rows, fill, resized(&old.places, &from, &shape))?;
        self.set(at.node.output(), moved);
        Ok(())
    }

    pub(crate) fn concat(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let shape = self.graph.shape(at.node.output()).to_vec();
        let axis = self.axis(at, at.node.int("axis", 0), shape.len())?;
        let outer: usize = shape.iter().take(axis).product();
        let mut total = Form { terms: Vec::new(), bias: vec![0.0; shape.iter().product()] };
        let whole: usize = shape.get(axis..).unwrap_or_default().iter().product();
        let mut start = 0;
        let mut places = None;
        let mut origin = None;
        for input in 0..at.node.inputs.len() {
            let name = at.node.input(input);
            let traced = self.is_traced(name);
            let own = if traced {
                self.graph.shape(name).to_vec()
            } else {
                self.graph.constants.get(name).map(|c| c.shape.clone()).unwrap_or_default()
            };
            if own.contains(&0) {
                continue;
            }
            let block: usize = own.get(axis..).unwrap_or_default().iter().product();
            let mut rows = vec![None; total.size()];
            let mut count = 0;
            for part in 0..outer {
                let target = rows.iter_mut().skip(part * whole + start).take(block);
                for slot in target {
                    *slot = Some(index(count));
                    count += 1;
                }
            }
            if traced {
                let value = self.linear(at, name)?;
                let moved = self.gathered(at, &value, &rows, 0.0, Vec::new())?;
                at.fits(total.nonzeros().checked_add(moved.form.nonzeros()))?;
                total = total.plus(&moved.form);
                places.get_or_insert_with(|| resized(&value.places, &own, &shape));
                origin = origin.max(value.origin);
            } else {
                let constant = self.constant(at, input)?;
                for (bias, row) in total.bias.iter_mut().zip(&rows) {
                    if let Some(value) = row.and_then(|row| constant.values.get(row as usize)) {
                        *bias = f64::from(*value);
                    }
                }
            }
            start += block;
        }
        let places = places.unwrap_or_else(|| default_places(&shape));
        self.set(at.node.output(), Value::linear(total, places, origin.or(Some(at.index))));
        Ok(())
    }

    pub(crate) fn depth_to_space(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let (from, shape) = (self.graph.shape(at.node.input(0)), self.graph.shape(at.node.output()));
        let block = usize::try_from(at.node.int("blocksize", 1)).unwrap_or(1).max(1);
        let channels_first = at.node.text("mode") == Some("CRD");
        let steps = strides(from);
        let &[_, channels, _, _] = shape else {
            return Err(at.refuse("is not on pictures", "use it on tensors of four axes"));
        };
        let rows = each(shape, |place| {
            let &[_, c, y, x] = place else {
                return None;
            };
            let part = y % block * block + x % block;
            let deep = if channels_first { c * block * block + part } else { part * channels + c };
            let place = [0, deep, y / block, x / block];
            Some(place.iter().zip(&steps).map(|(at, step)| at * step).sum())
        });
        let value = self.linear(at, at.node.input(0))?;
        let moved = self.gathered(at, &value, &rows, 0.0, default_places(shape))?;
        self.set(at.node.output(), moved);
        Ok(())
    }
}
