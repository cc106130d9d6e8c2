//! Sparse matrices by rows, as the linear maps of a network are held.

/// Vectors that a matrix is applied to at once.
pub const TOGETHER: usize = 8;

/// A sparse matrix by rows (CSR), columns ascending within a row.
///
/// Zeros that stand for a weight are kept as entries, so where entries are depends on the network's structure and not
/// on its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseMatrix {
    rows: usize,
    cols: usize,
    /// Where each row begins in `columns` and `values`, and the end of the last one.
    offsets: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f64>,
}

impl SparseMatrix {
    /// The matrix that changes nothing.
    pub fn identity(size: usize) -> Self {
        SparseMatrix {
            rows: size,
            cols: size,
            offsets: (0..=size).collect(),
            columns: (0..size).map(index).collect(),
            values: vec![1.0; size],
        }
    }

    /// A matrix without entries.
    pub fn zero(rows: usize, cols: usize) -> Self {
        SparseMatrix { rows, cols, offsets: vec![0; rows + 1], columns: Vec::new(), values: Vec::new() }
    }

    /// A matrix with an entry at every place, from its values row-major; missing ones are zero.
    pub fn dense(rows: usize, cols: usize, values: &[f64]) -> Self {
        let mut values = values.to_vec();
        values.resize(rows.saturating_mul(cols), 0.0);
        SparseMatrix {
            rows,
            cols,
            offsets: (0..=rows).map(|row| row * cols).collect(),
            columns: (0..rows).flat_map(|_| (0..cols).map(index)).collect(),
            values,
        }
    }

    /// A matrix from the `(column, value)` entries of each row, in any order; those at the same place add up.
    ///
    /// `None` if a column is not below `cols`.
    pub fn from_rows(cols: usize, rows: impl IntoIterator<Item = Vec<(u32, f64)>>) -> Option<Self> {
        let mut builder = RowBuilder::new(cols, 0);
        for row in rows {
            if row.iter().any(|&(column, _)| column as usize >= cols) {
                return None;
            }
            for (column, value) in row {
                builder.push(column as usize, value);
            }
            builder.end_row();
        }
        Some(builder.build())
    }

    /// Rows: values that come out.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: values that go in.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Entries, weights that are zero included.
    pub fn nonzeros(&self) -> usize {
        self.columns.len()
    }

    /// Entries of a row, as `(column, value)` with ascending columns; none for rows that do not exist.
    pub fn row(&self, row: usize) -> impl Iterator<Item = (u32, f64)> + '_ {
        let (columns, values) = self.row_slices(row);
        columns.iter().copied().zip(values.iter().copied())
    }

    /// Columns and values of a row.
    pub fn row_slices(&self, row: usize) -> (&[u32], &[f64]) {
        let range = match (self.offsets.get(row), self.offsets.get(row.saturating_add(1))) {
            (Some(&from), Some(&to)) => from..to,
            _ => 0..0,
        };
        (self.columns.get(range.clone()).unwrap_or_default(), self.values.get(range).unwrap_or_default())
    }

    /// Entries of a row.
    pub(crate) fn row_len(&self, row: usize) -> usize {
        self.row_slices(row).0.len()
    }

    /// Whether it is exactly the identity.
    pub fn is_identity(&self) -> bool {
        self.rows == self.cols
            && self.columns.len() == self.rows
            && (0..self.rows).all(|row| self.row_slices(row) == (&[index(row)][..], &[1.0][..]))
    }

    /// The column and value of each row, if every row has exactly one entry.
    pub(crate) fn single_entries(&self) -> Option<impl Iterator<Item = (u32, f64)> + '_> {
        let single = self.columns.len() == self.rows && (0..self.rows).all(|row| self.row_len(row) == 1);
        single.then(|| self.columns.iter().copied().zip(self.values.iter().copied()))
    }

    /// Multiplications that [`times`](Self::times) takes, an upper bound for the product's entries.
    pub(crate) fn work(&self, other: &Self) -> usize {
        self.columns.iter().fold(0usize, |sum, &column| sum.saturating_add(other.row_len(column as usize)))
    }

    /// Entries that the product with `other` has.
    pub(crate) fn product_nonzeros(&self, other: &Self) -> usize {
        let mut seen = vec![usize::MAX; other.cols];
        let mut count = 0;
        for row in 0..self.rows {
            for &middle in self.row_slices(row).0 {
                for &column in other.row_slices(middle as usize).0 {
                    if let Some(last) = seen.get_mut(column as usize)
                        && *last != row
                    {
                        *last = row;
                        count += 1;
                    }
                }
            }
        }
        count
    }

    /// The product `self other`: first `other`, then this. `other` has as many rows as this has columns.
    pub fn times(&self, other: &Self) -> Self {
        if other.is_identity() {
            return SparseMatrix { cols: other.cols, ..self.clone() };
        }
        if self.is_identity() {
            return other.clone();
        }
        let mut sums = vec![0.0; other.cols];
        let mut seen = vec![usize::MAX; other.cols];
        let mut touched: Vec<u32> = Vec::new();
        let mut product = SparseMatrix {
            rows: self.rows,
            cols: other.cols,
            offsets: Vec::with_capacity(self.rows + 1),
            columns: Vec::new(),
            values: Vec::new(),
        };
        product.offsets.push(0);
        for row in 0..self.rows {
            touched.clear();
            for (middle, factor) in self.row(row) {
                for (column, value) in other.row(middle as usize) {
                    let at = column as usize;
                    if let (Some(sum), Some(last)) = (sums.get_mut(at), seen.get_mut(at)) {
                        if *last == row {
                            *sum += factor * value;
                        } else {
                            *last = row;
                            *sum = factor * value;
                            touched.push(column);
                        }
                    }
                }
            }
            touched.sort_unstable();
            product.columns.extend_from_slice(&touched);
            product.values.extend(touched.iter().map(|&column| sums.get(column as usize).copied().unwrap_or(0.0)));
            product.offsets.push(product.columns.len());
        }
        product
    }

    /// The rows with these indices, in this order; `None` gives a row without entries.
    pub(crate) fn gather_rows(&self, rows: &[Option<u32>]) -> Self {
        let entries: usize = rows.iter().flatten().map(|&row| self.row_len(row as usize)).sum();
        let mut gathered = SparseMatrix {
            rows: rows.len(),
            cols: self.cols,
            offsets: Vec::with_capacity(rows.len() + 1),
            columns: Vec::with_capacity(entries),
            values: Vec::with_capacity(entries),
        };
        gathered.offsets.push(0);
        for row in rows {
            if let Some(row) = row {
                let (columns, values) = self.row_slices(*row as usize);
                gathered.columns.extend_from_slice(columns);
                gathered.values.extend_from_slice(values);
            }
            gathered.offsets.push(gathered.columns.len());
        }
        gathered
    }

    /// Each row times its factor; a single factor counts for all rows.
    #[must_use]
    pub fn scale_rows(mut self, factors: &[f64]) -> Self {
        for row in 0..self.rows {
            let factor = one_or_each(factors, row, 1.0);
            let range = match (self.offsets.get(row), self.offsets.get(row + 1)) {
                (Some(&from), Some(&to)) => from..to,
                _ => continue,
            };
            for value in self.values.get_mut(range).unwrap_or_default() {
                *value *= factor;
            }
        }
        self
    }

    /// Each column times its factor; a single factor counts for all columns.
    #[must_use]
    pub fn scale_columns(mut self, factors: &[f64]) -> Self {
        for (value, &column) in self.values.iter_mut().zip(&self.columns) {
            *value *= one_or_each(factors, column as usize, 1.0);
        }
        self
    }

    /// The sum with a matrix of the same size.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut builder = RowBuilder::new(self.cols.max(other.cols), self.nonzeros().max(other.nonzeros()));
        for row in 0..self.rows.max(other.rows) {
            for (column, value) in self.row(row).chain(other.row(row)) {
                builder.push(column as usize, value);
            }
            builder.end_row();
        }
        builder.build()
    }

    /// The matrix times a vector; entries that the vector lacks count as zero.
    pub fn apply(&self, vector: &[f64]) -> Vec<f64> {
        (0..self.rows).map(|row| self.row(row).map(|(column, value)| value * value_at(vector, column)).sum()).collect()
    }

    /// The matrix times each of some vectors, which takes little longer than one for up to [`TOGETHER`] of them: entries are read once.
    pub fn apply_each(&self, vectors: &[&[f64]]) -> Vec<Vec<f64>> {
        let mut out = Vec::with_capacity(vectors.len());
        for some in vectors.chunks(TOGETHER) {
            if let [one] = some {
                out.push(self.apply(one));
                continue;
            }
            // Values of the same column stand together.
            let mut columns = vec![[0.0; TOGETHER]; self.cols];
            for (i, vector) in some.iter().enumerate() {
                let places = columns.iter_mut().filter_map(|column| column.get_mut(i));
                places.zip(*vector).for_each(|(place, value)| *place = *value);
            }
            let mut results = vec![Vec::with_capacity(self.rows); some.len()];
            for row in 0..self.rows {
                let mut sums = [0.0; TOGETHER];
                for (column, value) in self.row(row) {
                    if let Some(column) = columns.get(column as usize) {
                        sums.iter_mut().zip(column).for_each(|(sum, x)| *sum += value * x);
                    }
                }
                results.iter_mut().zip(sums).for_each(|(result, sum)| result.push(sum));
            }
            out.append(&mut results);
        }
        out
    }

    /// Whether all entries are finite.
    pub fn is_finite(&self) -> bool {
        self.values.iter().all(|value| value.is_finite())
    }
}

/// Builds a [`SparseMatrix`] row by row.
pub(crate) struct RowBuilder {
    matrix: SparseMatrix,
    /// The row begun, in the order of its pushes.
    row: Vec<(u32, f64)>,
}

impl RowBuilder {
    /// A matrix of `cols` columns with room for `entries`.
    pub fn new(cols: usize, entries: usize) -> Self {
        let matrix = SparseMatrix {
            rows: 0,
            cols,
            offsets: vec![0],
            columns: Vec::with_capacity(entries),
            values: Vec::with_capacity(entries),
        };
        RowBuilder { matrix, row: Vec::new() }
    }

    /// An entry of the row begun; entries at one place add up.
    pub fn push(&mut self, column: usize, value: f64) {
        debug_assert!(column < self.matrix.cols);
        self.row.push((index(column), value));
    }

    /// Ends the row.
    pub fn end_row(&mut self) {
        if !self.row.is_sorted_by_key(|&(column, _)| column) {
            self.row.sort_by_key(|&(column, _)| column);
        }
        let start = self.matrix.columns.len();
        for &(column, value) in &self.row {
            let begun = self.matrix.columns.len() > start && self.matrix.columns.last() == Some(&column);
            match self.matrix.values.last_mut() {
                Some(last) if begun => *last += value,
                _ => {
                    self.matrix.columns.push(column);
                    self.matrix.values.push(value);
                }
            }
        }
        self.row.clear();
        self.matrix.rows += 1;
        self.matrix.offsets.push(self.matrix.columns.len());
    }

    /// The matrix.
    pub fn build(self) -> SparseMatrix {
        self.matrix
    }
}

/// An index as it is held; sizes are checked to fit before a matrix is built.
pub(crate) fn index(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn value_at(vector: &[f64], column: u32) -> f64 {
    vector.get(column as usize).copied().unwrap_or(0.0)
}

/// The entry for `at` of numbers of which a single one counts for all.
pub(crate) fn one_or_each(values: &[f64], at: usize, missing: f64) -> f64 {
    match values {
        [one] => *one,
        several => several.get(at).copied().unwrap_or(missing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: &[&[f64]]) -> SparseMatrix {
        let entries = rows.iter().map(|row| {
            row.iter().enumerate().filter(|(_, v)| **v != 0.0).map(|(c, v)| (c as u32, *v)).collect::<Vec<_>>()
        });
        SparseMatrix::from_rows(rows.first().map_or(0, |r| r.len()), entries).unwrap()
    }

    fn rows(m: &SparseMatrix) -> Vec<Vec<f64>> {
        (0..m.rows())
            .map(|r| {
                let mut row = vec![0.0; m.cols()];
                m.row(r).for_each(|(c, v)| row[c as usize] += v);
                row
            })
            .collect()
    }

    #[test]
    fn products_sums_and_scales_are_those_of_matrices() {
        let a = matrix(&[&[1.0, 0.0, 2.0], &[0.0, 0.0, 0.0]]);
        let b = matrix(&[&[0.0, 3.0], &[1.0, 1.0], &[5.0, -1.0]]);
        let product = a.times(&b);
        assert_eq!(rows(&product), [[10.0, 1.0], [0.0, 0.0]]);
        assert_eq!(product.nonzeros(), a.product_nonzeros(&b));
        assert_eq!(a.work(&b), 3);
        assert_eq!(rows(&a.plus(&a.clone().scale_rows(&[2.0, 1.0]))), [[3.0, 0.0, 6.0], [0.0, 0.0, 0.0]]);
        assert_eq!(rows(&b.clone().scale_columns(&[1.0, 2.0])), [[0.0, 6.0], [1.0, 2.0], [5.0, -2.0]]);
        assert_eq!(b.apply(&[1.0, 2.0]), [6.0, 3.0, 3.0]);
        let vectors: Vec<[f64; 2]> = (0..TOGETHER + 3).map(|i| [i as f64, 2.0 - i as f64]).collect();
        let slices: Vec<&[f64]> = vectors.iter().map(|v| &v[..]).collect();
        assert_eq!(b.apply_each(&slices), vectors.iter().map(|v| b.apply(v)).collect::<Vec<_>>());
        assert_eq!(b.times(&SparseMatrix::identity(2)), b);
        assert_eq!(SparseMatrix::identity(3).times(&b), b);
        assert_eq!(rows(&b.gather_rows(&[Some(2), None])), [[5.0, -1.0], [0.0, 0.0]]);
        assert!(SparseMatrix::identity(3).is_identity() && !b.is_identity());
    }

    #[test]
    fn rows_are_put_in_order_and_checked() {
        let m = SparseMatrix::from_rows(4, [vec![(3, 1.0), (0, 2.0), (3, 1.0)]]).unwrap();
        assert_eq!(m.row(0).collect::<Vec<_>>(), [(0, 2.0), (3, 2.0)]);
        assert!(SparseMatrix::from_rows(3, [vec![(3, 1.0)]]).is_none());
        assert_eq!(m.row(7).count(), 0);
    }
}
