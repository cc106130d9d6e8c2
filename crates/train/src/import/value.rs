//! What is known of a tensor in the file.

use subrosa_network::Expression;

use crate::model::{Order, Shape, Source};

/// What an axis of a tensor counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    Batch,
    Row,
    Column,
    /// Channels of an image, units of a flat value.
    Channel,
    /// Nothing: its size is 1.
    Unit,
}

/// The axes of flat values in a tensor of two axes.
pub(super) const ROW: [Axis; 2] = [Axis::Batch, Axis::Channel];

impl Axis {
    /// Axes of a batch of images.
    pub(super) fn of_image(order: Order) -> [Axis; 4] {
        match order {
            Order::Chw => [Axis::Batch, Axis::Channel, Axis::Row, Axis::Column],
            Order::Hwc => [Axis::Batch, Axis::Row, Axis::Column, Axis::Channel],
        }
    }

    /// Axes of flat values in a tensor of sizes `dims`, at most one of them more than 1.
    pub(super) fn of_list(dims: &[usize]) -> Option<Vec<Axis>> {
        let (1, sample) = (*dims.first()?, dims.get(1..)?) else {
            return None;
        };
        let mut units = sample.iter().enumerate().filter(|&(_, &size)| size != 1);
        let place = units.next().map_or(0, |(place, _)| place);
        let axis = |at: usize| if at == place { Axis::Channel } else { Axis::Unit };
        (!sample.is_empty() && units.next().is_none())
            .then(|| std::iter::once(Axis::Batch).chain((0..sample.len()).map(axis)).collect())
    }
}

/// A tensor: a polynomial of an operator's result.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub base: Source,
    /// Of the operator's result, and of this.
    pub shape: Shape,
    /// How it lies in the file.
    pub axes: Vec<Axis>,
    /// What is computed from the base, with one coefficient for all channels or one for each.
    pub expression: Expression,
}

impl Value {
    /// The axis of the channels or units, if the tensor has one.
    pub(super) fn channel_axis(&self) -> Option<usize> {
        self.axes.iter().position(|&axis| axis == Axis::Channel)
    }

    /// Whether it lies as ONNX's operators on images want it.
    pub(super) fn is_channels_first(&self) -> bool {
        matches!(self.shape, Shape::Image { .. }) && self.axes == Axis::of_image(Order::Chw)
    }

    /// The axes after a transpose; `None` if it moves the batch.
    pub(super) fn transposed(&self, perm: Option<&[i64]>) -> Option<Value> {
        let axes: Option<Vec<Axis>> =
            perm?.iter().map(|&axis| self.axes.get(usize::try_from(axis).ok()?).copied()).collect();
        let axes = axes?;
        (axes.len() == self.axes.len() && axes.first() == Some(&Axis::Batch)).then(|| Value { axes, ..self.clone() })
    }

    /// How the value lies in a tensor of sizes `dims` that holds its values in the same order, if it is the same image or
    /// the same list there.
    pub(super) fn axes_in(&self, dims: &[usize]) -> Option<Vec<Axis>> {
        if let Shape::Flat(_) = self.shape {
            return Axis::of_list(dims);
        }
        let full = [Order::Chw, Order::Hwc].map(|order| Axis::of_image(order).to_vec());
        let mut ways = full.into_iter().chain([vec![Axis::Batch, Axis::Row, Axis::Column]]);
        ways.find(|axes| {
            let sizes: Vec<usize> = axes.iter().map(|&axis| self.size(axis)).collect();
            sizes == dims && self.long(axes) == self.long(&self.axes) && self.holds_all(axes)
        })
    }

    /// The order of an image's values, if it is one of the two.
    pub(super) fn order(&self) -> Option<Order> {
        let exactly = |order: &Order| self.axes == Axis::of_image(*order);
        let alike = |order: &Order| self.long(&Axis::of_image(*order)) == self.long(&self.axes);
        let orders = [Order::Chw, Order::Hwc];
        orders.into_iter().find(exactly).or_else(|| orders.into_iter().find(alike))
    }

    fn size(&self, axis: Axis) -> usize {
        match (axis, self.shape) {
            (Axis::Batch | Axis::Unit, _) => 1,
            (Axis::Row, Shape::Image { height, .. }) => height,
            (Axis::Column, Shape::Image { width, .. }) => width,
            (Axis::Channel, shape) => shape.channels(),
            (Axis::Row | Axis::Column, Shape::Flat(_)) => 1,
        }
    }

    /// The axes longer than 1, which alone decide on the order.
    fn long(&self, axes: &[Axis]) -> Vec<Axis> {
        axes.iter().copied().filter(|&axis| self.size(axis) != 1).collect()
    }

    fn holds_all(&self, axes: &[Axis]) -> bool {
        axes.iter().map(|&axis| self.size(axis)).product::<usize>() == self.shape.elements()
    }
}
