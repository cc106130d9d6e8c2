//! Features as exact integers.

use crate::error::EdgeError;
use crate::processor::Processor;
use subrosa_fhe::{IntegerEncoder, Plaintext};
use subrosa_program::{InputLayout, Packed};

impl Processor {
    /// The input polynomials of checked features, rounded to the network's fixed point.
    pub(crate) fn integer_plaintexts(&self, encoder: &IntegerEncoder, x: &[f64]) -> Result<Vec<Plaintext>, EdgeError> {
        let program = self.program();
        let integers = program.integers.as_ref();
        let unit = integers.ok_or_else(|| EdgeError::Program("its integers have no unit".into()))?.input_unit;
        let modulus = self.parameters().plain().map(|plain| *plain.modulus());
        let t = modulus.ok_or_else(|| EdgeError::Program("its integers have no modulus".into()))?;
        let rounded = x.iter().map(|x| (x * unit).round() as i64);
        let whole: Vec<f64> = rounded.map(|x| t.center(t.from_i64(x)) as f64).collect();
        let spec = &program.input;
        (0..spec.layout.polynomials())
            .map(|i| match &spec.layout {
                InputLayout::Diagonals(d) => {
                    Ok(encoder.encode(&d.rows_of(&d.input_slots(i, &whole), Packed::Input), spec.scale, spec.level)?)
                }
                InputLayout::CoefficientDot(d) => {
                    let coefficients: Vec<i64> = d.input_coefficients(i, &whole).iter().map(|&c| c as i64).collect();
                    Ok(encoder.encode_coefficients(&coefficients, spec.scale, spec.level)?)
                }
                InputLayout::Tiles(_) => {
                    Err(EdgeError::Program("integers are not laid out as whole networks are".into()))
                }
            })
            .collect()
    }
}
