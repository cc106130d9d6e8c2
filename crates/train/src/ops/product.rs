//! Matrix products on slices.

use gemm::Parallelism;

/// A matrix in a slice: `rows x columns`, element (i, j) at `i * row_step + j * column_step`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    pub columns: usize,
    pub row_step: usize,
    pub column_step: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major without gaps.
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Matrix { values, rows, columns, row_step: columns, column_step: 1 }
    }

    /// Its transpose.
    pub fn transposed(self) -> Self {
        Matrix {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_step: self.column_step,
            column_step: self.row_step,
        }
    }

    /// Elements that its slice must have.
    fn span(&self) -> usize {
        match (self.rows.checked_sub(1), self.columns.checked_sub(1)) {
            (Some(row), Some(column)) => row * self.row_step + column * self.column_step + 1,
            _ => 0,
        }
    }
}

/// `result = a b`, or `result += a b`; the result is row-major without gaps. On this thread.
///
/// # Panics
/// Shapes that do not fit together or to the slices.
#[allow(unsafe_code)]
pub(super) fn multiply(result: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, add: bool) {
    assert_eq!(a.columns, b.rows, "inner lengths");
    assert_eq!(result.len(), a.rows * b.columns, "the result's length");
    assert!(a.span() <= a.values.len() && b.span() <= b.values.len(), "the operands' lengths");
    // Steps are at most the slices' lengths, which fit an isize.
    let step = |value: usize| value as isize;
    // SAFETY: by the assertions every element that the product reads or writes lies inside its slice; `result` is borrowed
    // exclusively, so it overlaps neither operand; f32 has no invalid values.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            result.as_mut_ptr(),
            1,
            step(b.columns),
            add,
            a.values.as_ptr(),
            step(a.column_step),
            step(a.row_step),
            b.values.as_ptr(),
            step(b.column_step),
            step(b.row_step),
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
