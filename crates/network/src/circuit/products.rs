//! Products with constant matrices, and sums over axes.

use std::sync::Arc;

use super::moves::strides;
use super::places::{channels_last, close_gaps, default_places};
use super::sparse::RowBuilder;
use super::trace::{At, Tracer};
use crate::error::NetworkError;
use crate::region::spread;

impl<'g> Tracer<'g> {
    pub(crate) fn gemm(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let graph = self.graph;
        let tensor = at.node.input(0);
        let (&[1, inputs], &[1, outputs]) = (graph.shape(tensor), graph.shape(at.node.output())) else {
            return Err(at.batch());
        };
        if at.node.int("transA", 0) != 0 || !self.is_traced(tensor) {
            return Err(at.batch());
        }
        let weights = self.constant(at, 1)?;
        let by_rows = at.node.int("transB", 0) != 0;
        let expected = if by_rows { [outputs, inputs] } else { [inputs, outputs] };
        if weights.shape != expected {
            return Err(at.refuse("has weights that do not fit its tensors", "export the network again"));
        }
        let entries = at.fits(inputs.checked_mul(outputs))?;
        let (alpha, beta) = (f64::from(at.node.float("alpha", 1.0)), f64::from(at.node.float("beta", 1.0)));
        let mut matrix = RowBuilder::new(inputs, entries);
        for row in 0..outputs {
            let (from, step) = if by_rows { (row * inputs, 1) } else { (row, outputs) };
            for (column, &weight) in weights.values.iter().skip(from).step_by(step).take(inputs).enumerate() {
                matrix.push(column, alpha * f64::from(weight));
            }
            matrix.end_row();
        }
        let third = at.node.input(2);
        let mut shift = vec![0.0];
        if !self.is_traced(third)
            && let Some(bias) = self.optional(at, 2)?
        {
            shift = spread(bias, &[1, outputs]).ok_or_else(|| at.batch())?;
            shift.iter_mut().for_each(|value| *value *= beta);
        }
        let value = self.linear(at, tensor)?;
        let mut form = self.map(at, value, &Arc::new(matrix.build()), &shift)?;
        if self.is_traced(third) {
            if graph.shape(third) != [1, outputs] {
                return Err(at.batch());
            }
            let added = self.linear(at, third)?;
            form = form.plus(&added.form.affine(&[beta], &[0.0]));
        }
        self.set_linear(at, form, None);
        Ok(())
    }

    /// MatMul with a constant on either side, by the rules of numpy.
    pub(crate) fn matmul(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let graph = self.graph;
        let (first, second) = (at.node.input(0), at.node.input(1));
        let left = self.is_traced(first);
        if left && self.is_traced(second) {
            return Err(at.refuse(
                "multiplies two tensors that depend on the input",
                "attention is not possible; use convolutions and FC layers, or protect from a later layer on",
            ));
        }
        let weights = self.constant(at, if left { 1 } else { 0 })?;
        let tensor = if left { first } else { second };
        let own = graph.shape(tensor).to_vec();
        // A vector counts as one row on the left, as one column on the right.
        let shape = match weights.shape.as_slice() {
            &[size] if left => vec![size, 1],
            &[size] => vec![1, size],
            shape => shape.to_vec(),
        };
        let rank = own.len();
        if shape.len() > rank || rank < 2 || !left && rank < 3 || graph.shape(at.node.output()).first() != Some(&1) {
            return Err(at.batch());
        }
        let mut full = vec![1; rank - shape.len()];
        full.extend(&shape);
        let (a, b) = if left { (&own, &full) } else { (&full, &own) };
        let misfit = || at.refuse("has weights that do not fit its tensors", "export the network again");
        let (Some((a_outer, &[rows, inner])), Some((b_outer, &[also_inner, columns]))) =
            (a.split_last_chunk::<2>(), b.split_last_chunk::<2>())
        else {
            return Err(misfit());
        };
        if inner != also_inner {
            return Err(misfit());
        }
        let outer: Vec<usize> = a_outer.iter().zip(b_outer).map(|(&a, &b)| a.max(b)).collect();
        let count = outer.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let entries = count.and_then(|c| c.checked_mul(rows)?.checked_mul(columns)?.checked_mul(inner));
        let entries = at.fits(entries)?;
        let steps = |shape: &[usize]| -> Vec<usize> {
            let own = strides(shape).into_iter().zip(shape);
            own.map(|(stride, &size)| if size == 1 { 0 } else { stride }).collect()
        };
        let (a_steps, b_steps) = (steps(a_outer), steps(b_outer));
        let mut matrix = RowBuilder::new(own.iter().product(), entries);
        for flat in 0..count.unwrap_or(0) {
            let (mut rest, mut a_at, mut b_at) = (flat, 0, 0);
            for ((&size, a_step), b_step) in outer.iter().zip(&a_steps).zip(&b_steps).rev() {
                a_at += rest % size * a_step;
                b_at += rest % size * b_step;
                rest /= size;
            }
            let (a_at, b_at) = (a_at * rows * inner, b_at * inner * columns);
            for row in 0..rows {
                for column in 0..columns {
                    for k in 0..inner {
                        let (a_at, b_at) = (a_at + row * inner + k, b_at + k * columns + column);
                        let (own, weight) = if left { (a_at, b_at) } else { (b_at, a_at) };
                        let weight = weights.values.get(weight).copied().unwrap_or(0.0);
                        matrix.push(own, f64::from(weight));
                    }
                    matrix.end_row();
                }
            }
        }
        let value = self.linear(at, tensor)?;
        let form = self.map(at, value, &Arc::new(matrix.build()), &[0.0])?;
        let output = graph.shape(at.node.output());
        let places = if left { channels_last(output) } else { default_places(output) };
        self.set_linear(at, form, Some(places));
        Ok(())
    }

    /// ReduceMean and ReduceSum over axes that are not the batch.
    pub(crate) fn reduce(&mut self, at: At<'g>) -> Result<(), NetworkError> {
        let tensor = at.node.input(0);
        let shape = self.graph.shape(tensor).to_vec();
        let axes = match self.integers(at, "axes", 1)? {
            Some(axes) if !axes.is_empty() => axes,
            _ if at.node.int("noop_with_empty_axes", 0) != 0 => {
                return self.pass(at);
            }
            _ => return Err(at.batch()),
        };
        let mut reduced = vec![false; shape.len()];
        for axis in axes {
            let axis = self.axis(at, axis, shape.len())?;
            if let Some(slot) = reduced.get_mut(axis) {
                *slot = true;
            }
        }
        let pick = |wanted: bool| -> (Vec<usize>, Vec<usize>) {
            let axes = shape.iter().zip(strides(&shape)).zip(&reduced);
            axes.filter(|(_, reduced)| **reduced == wanted).map(|((&size, stride), _)| (size, stride)).unzip()
        };
        let offsets = |(sizes, steps): &(Vec<usize>, Vec<usize>)| -> Vec<usize> {
            let mut found = vec![0];
            for (&size, &step) in sizes.iter().zip(steps) {
                found = found.iter().flat_map(|&base| (0..size).map(move |at| base + at * step)).collect();
            }
            found
        };
        let (kept, summed) = (offsets(&pick(false)), offsets(&pick(true)));
        let entries = at.fits(kept.len().checked_mul(summed.len()))?;
        let weight = if at.node.op == "ReduceMean" { 1.0 / summed.len().max(1) as f64 } else { 1.0 };
        let value = self.linear(at, tensor)?;
        let mut matrix = RowBuilder::new(value.size(), entries);
        for base in &kept {
            for offset in &summed {
                matrix.push(base + offset, weight);
            }
            matrix.end_row();
        }
        let mut places: Vec<super::Place> =
            kept.iter().map(|&base| value.places.get(base).copied().unwrap_or_default()).collect();
        close_gaps(&mut places);
        let form = self.map(at, value, &Arc::new(matrix.build()), &[0.0])?;
        self.set_linear(at, form, Some(places));
        Ok(())
    }
}
