//! One protected layer: inner products in the coefficients, without rotations, without keys.

use crate::chain::{Stage, norm};
use crate::forecast::quadrature;
use crate::plan::{ConstantKind, Draft, declared};
use crate::primes::{PrimeChain, split_bytes};
use crate::search::{Choice, RingContext, Task};
use subrosa_fhe::ParameterSpec;
use subrosa_program::layout::CoefficientDot;
use subrosa_program::{ConstantGroup, InputLayout, InputSpec, OutputSpec, Program, Step};

/// A candidate with about `choice.precision` bits behind the point; `None` if it does not fit.
pub(crate) fn draft(stage: &Stage, task: &Task<'_>, ring: &mut RingContext, choice: &Choice) -> Option<Draft> {
    let range = task.ranges.first()?;
    let (log_n, request, dev) = (ring.log_n, task.request, ring.dev);
    let layout = CoefficientDot { n: 1 << log_n, rows: stage.rows, cols: stage.cols };
    let encrypted = request.encrypted_input;

    // Both errors get equal parts of 2^-precision: the weights' noise meets the input's norm, the input's noise the
    // weights of all rows in one ciphertext.
    let row_norm = stage.max_row_norm;
    let per = layout.rows_per_ciphertext();
    let packed_norm = stage.row_norms.chunks(per).map(norm).fold(0.0, f64::max);
    let weight_noise = dev.fresh();
    let (input_noise, met) = if encrypted { (dev.fresh_public(), packed_norm) } else { (dev.encoding(), row_norm) };
    let unit = f64::from(choice.precision);
    let weight_scale = (unit + (weight_noise * range.input_norm).log2()).max(1.0).round().exp2();
    let input_scale = (unit + (input_noise * met.max(1e-9)).log2()).max(1.0).round().exp2();
    let scale = weight_scale * input_scale;
    let largest = range.linear_max.max(stage.max_bias()).max(f64::MIN_POSITIVE);
    let bits = (scale * largest).log2().max(0.0).ceil() as u32 + 2;
    let chain = PrimeChain::new(&mut ring.primes, &split_bytes(bits, log_n), 0, ring.bound)?;
    let level = chain.ciphertext.len();
    let spec = ParameterSpec::new(log_n, chain.ciphertext.clone(), Vec::new(), request.security);

    let cross = weight_noise * input_noise * ((layout.n * layout.chunks()) as f64).sqrt() / scale;
    let std = quadrature(&[
        weight_noise * range.input_norm / weight_scale,
        input_noise * met / input_scale,
        if encrypted { cross } else { weight_noise * dev.encoding() * (stage.cols as f64).sqrt() / scale },
        weight_noise / scale,
    ]);
    let max_abs_error = dev.tail(std, stage.rows);

    let outputs = layout.outputs();
    let first = if encrypted { layout.chunks() } else { 0 };
    let group = |name: &str, count, scale| ConstantGroup { name: name.into(), count, level, scale, plain: false };
    let mut steps = vec![Step::CoefficientDot { weights: 0, dst: first }];
    steps.extend((0..outputs).map(|o| Step::AddConstant { reg: first + o, group: 1, index: o }));
    let program = Program {
        integers: None,
        parameters: spec,
        keys: Vec::new(),
        input: InputSpec {
            features: stage.cols,
            encrypted,
            level,
            scale: input_scale,
            layout: InputLayout::CoefficientDot(layout.clone()),
            normalise: Vec::new(),
            max_abs: declared(request.input.max_abs),
            max_norm: declared(request.input.max_norm),
        },
        constants: vec![group("weights", outputs * layout.chunks(), weight_scale), group("biases", outputs, scale)],
        steps,
        output: OutputSpec {
            registers: (first..first + outputs).collect(),
            positions: (0..stage.rows).map(|r| layout.position(r)).collect(),
            factor: 1.0,
            level,
            degree: if encrypted { 2 } else { 1 },
            scale,
            max_abs: declared(range.linear_max),
        },
    };
    let kinds =
        vec![ConstantKind::Dot { stage: 0, layout: layout.clone() }, ConstantKind::DotBias { stage: 0, layout }];
    Draft { program, kinds, max_abs_error, sets: Vec::new(), primes: chain }.that_fits(&task.stages)
}
