//! Operators with weights or windows.

use subrosa_network::{Constant, Expression, Node as OnnxNode};

use super::arithmetic::by_channel;
use super::value::{Axis, ROW, Value};
use super::{Importer, refuse};
use crate::error::TrainError;
use crate::model::{Array, Op, Order, Pooling, Shape, Window};

impl Importer<'_> {
    pub(super) fn convolution(&mut self, index: usize, node: &OnnxNode) -> Result<Value, TrainError> {
        let x = self.image(index, node)?;
        let weights = self.weights(node, 1)?;
        let &[filters, channels, rows, columns] = weights.shape.as_slice() else {
            return Err(refuse(node, "is no convolution of images"));
        };
        if node.int("group", 1) != 1 || channels != x.shape.channels() {
            return Err(refuse(node, "convolves groups of channels apart; use ordinary convolutions"));
        }
        let weight = Array { shape: vec![rows, columns, channels, filters], values: filters_last(weights) };
        let window = window(node, [rows, columns], x.shape)?;
        let (bias, output) = self.bias(node, filters, 1.0)?;
        let name = self.layer_name(index);
        let op = Op::Conv { window, filters, bias: bias.is_some() };
        let value = self.push(index, node, op, vec![x.base], Axis::of_image(Order::Chw).to_vec())?;
        self.finish_layer(node, &name, weight, bias, output, value)
    }

    pub(super) fn dense(&mut self, index: usize, node: &OnnxNode) -> Result<Value, TrainError> {
        let x = self.settled(index, node, 0)?;
        let weights = self.weights(node, 1)?;
        let &[one, two] = weights.shape.as_slice() else {
            return Err(refuse(node, "multiplies by no matrix of weights"));
        };
        let gemm = node.op == "Gemm";
        let by_units = gemm && node.int("transB", 0) != 0;
        let (units, inputs) = if by_units { (one, two) } else { (two, one) };
        if x.axes != ROW || x.shape != Shape::Flat(inputs) || (gemm && node.int("transA", 0) != 0) {
            return Err(refuse(
                node,
                format!(
                    "multiplies values of shape {:?} by weights; dense layers take rows of values, so flatten before them",
                    self.graph.shape(node.input(0))
                ),
            ));
        }
        let factor = |name: &str| if gemm { node.float(name, 1.0) } else { 1.0 };
        let alpha = factor("alpha");
        let stored = |&weight: &f32| alpha * weight;
        let values: Vec<f32> = if by_units {
            (0..inputs).flat_map(|input| weights.values.iter().skip(input).step_by(inputs).map(stored)).collect()
        } else {
            weights.values.iter().map(stored).collect()
        };
        let weight = Array { shape: vec![inputs, units], values };
        let (bias, output) = self.bias(node, units, factor("beta"))?;
        let name = self.layer_name(index);
        let op = Op::Dense { units, bias: bias.is_some() };
        let value = self.push(index, node, op, vec![x.base], ROW.to_vec())?;
        self.finish_layer(node, &name, weight, bias, output, value)
    }

    /// Stores a layer's weights; `output` is what its bias's Add writes.
    fn finish_layer(
        &mut self,
        node: &OnnxNode,
        name: &str,
        weight: Array,
        bias: Option<Array>,
        output: Option<String>,
        value: Value,
    ) -> Result<Value, TrainError> {
        self.model.parameters.insert(format!("{name}.weight"), weight);
        if let Some(bias) = bias {
            self.model.parameters.insert(format!("{name}.bias"), bias);
        }
        self.check_size(node, &value)?;
        if let Some(output) = output {
            self.values.insert(output, value.clone());
        }
        Ok(value)
    }

    /// The bias of a layer, and the tensor behind it if it is a node of its own.
    fn bias(
        &mut self,
        node: &OnnxNode,
        units: usize,
        factor: f32,
    ) -> Result<(Option<Array>, Option<String>), TrainError> {
        let array = |values: &[f64]| {
            let values: Vec<f32> = values.iter().map(|&value| factor * value as f32).collect();
            match values.as_slice() {
                &[one] => Array::filled(units, one),
                _ => Array { shape: vec![units], values },
            }
        };
        if !node.input(2).is_empty() && node.op != "MatMul" {
            let constant = self.weights(node, 2)?;
            if constant.values.len() != units && constant.values.len() != 1 {
                return Err(refuse(node, format!("has {} biases for {units} results", constant.values.len())));
            }
            let values: Vec<f64> = constant.values.iter().map(|&value| f64::from(value)).collect();
            return Ok((Some(array(&values)), None));
        }
        let Some((add, next)) = self.graph.single_use(node.output()).and_then(|at| Some((at, self.graph.node(at)?)))
        else {
            return Ok((None, None));
        };
        let dims = self.graph.shape(node.output());
        if next.op != "Add" || self.graph.shape(next.output()) != dims {
            return Ok((None, None));
        }
        let constant = next.inputs.iter().find_map(|name| self.graph.constant(name));
        let Some(values) = constant.and_then(|constant| by_channel(constant, dims, Some(1))) else {
            return Ok((None, None));
        };
        self.done.insert(add);
        Ok((Some(array(&values)), Some(next.output().to_owned())))
    }

    pub(super) fn batch_norm(&mut self, index: usize, node: &OnnxNode) -> Result<Value, TrainError> {
        let x = self.settled(index, node, 0)?;
        if x.channel_axis() != Some(1) || node.int("training_mode", 0) != 0 {
            return Err(refuse(node, "does not normalise each channel by stored statistics; export it for inference"));
        }
        let name = self.layer_name(index);
        let channels = x.shape.channels();
        for (place, part) in (1..).zip(["scale", "bias", "mean", "variance"]) {
            let values = self.weights(node, place)?.values.clone();
            if values.len() != channels {
                return Err(refuse(node, format!("has {} numbers for {channels} channels", values.len())));
            }
            self.model.parameters.insert(format!("{name}.{part}"), Array { shape: vec![channels], values });
        }
        let op = Op::BatchNorm { epsilon: node.float("epsilon", 1e-5) };
        self.push(index, node, op, vec![x.base], x.axes)
    }

    pub(super) fn pool(&mut self, index: usize, node: &OnnxNode) -> Result<Value, TrainError> {
        let x = self.image(index, node)?;
        let size = match node.ints("kernel_shape") {
            Some(&[rows, columns]) => [size(node, rows)?, size(node, columns)?],
            _ => return Err(refuse(node, "pools no images")),
        };
        let window = window(node, size, x.shape)?;
        let padded = window.before != [0; 2] || window.after != [0; 2];
        let pooling = match node.op.as_str() {
            "MaxPool" => Pooling::Max,
            // The padding's zeros count too: a sum, divided by the whole window below.
            _ if padded && node.int("count_include_pad", 0) != 0 => Pooling::Sum,
            _ => Pooling::Mean,
        };
        let value = self.push(index, node, Op::Pool { pooling, window }, vec![x.base], x.axes)?;
        self.check_size(node, &value)?;
        if pooling != Pooling::Sum {
            return Ok(value);
        }
        let points = (window.size[0] * window.size[1]) as f64;
        let factor = Expression::constant(vec![1.0 / points]);
        let expression = value.expression.multiply(&factor).unwrap_or_else(|| value.expression.clone());
        Ok(Value { expression, ..value })
    }

    pub(super) fn global_mean(&mut self, index: usize, node: &OnnxNode) -> Result<Value, TrainError> {
        let x = self.settled(index, node, 0)?;
        let rank = x.axes.len() as i64;
        let given: Option<Vec<i64>> = match self.graph.constant(node.input(1)) {
            Some(constant) => Some(constant.values.iter().map(|&axis| axis as i64).collect()),
            None => node.ints("axes").map(<[i64]>::to_vec),
        };
        let over: Option<Vec<Axis>> = match (node.op.as_str(), given) {
            ("GlobalAveragePool", _) => x.is_channels_first().then(|| vec![Axis::Row, Axis::Column]),
            (_, Some(given)) => given
                .iter()
                .map(|&axis| usize::try_from(if axis < 0 { axis + rank } else { axis }).ok())
                .map(|axis| x.axes.get(axis?).copied())
                .collect(),
            (_, None) => None,
        };
        let rows_and_columns = matches!(over.as_deref(), Some([Axis::Row, Axis::Column] | [Axis::Column, Axis::Row]));
        let axes = Axis::of_list(self.graph.shape(node.output()));
        let (true, Shape::Image { .. }, Some(axes)) = (rows_and_columns, x.shape, axes) else {
            return Err(refuse(
                node,
                "does not take the mean over an image's rows and columns; only that mean can be trained",
            ));
        };
        self.push(index, node, Op::GlobalMean, vec![x.base], axes)
    }

    /// The image that a node reads, its channels before its rows.
    fn image(&mut self, index: usize, node: &OnnxNode) -> Result<Value, TrainError> {
        let x = self.settled(index, node, 0)?;
        match (x.shape, x.is_channels_first()) {
            (_, true) => Ok(x),
            (Shape::Image { .. }, false) => {
                Err(refuse(node, "reads an image whose channels are not its second axis; export the network again"))
            }
            (Shape::Flat(_), _) => Err(refuse(
                node,
                format!(
                    "reads values of shape {:?}, which are no image any more; export the network with images as its input",
                    self.graph.shape(node.input(0))
                ),
            )),
        }
    }

    /// The constant that a node reads at this place.
    fn weights(&self, node: &OnnxNode, place: usize) -> Result<&Constant, TrainError> {
        self.graph.constant(node.input(place)).ok_or_else(|| {
            refuse(
                node,
                format!(
                    "computes with '{}', which is no constant; export the network with its weights",
                    node.input(place)
                ),
            )
        })
    }

    /// Compares a result's size with that in the file.
    fn check_size(&self, node: &OnnxNode, value: &Value) -> Result<(), TrainError> {
        let dims = self.graph.shape(node.output());
        if dims.iter().product::<usize>() == value.shape.elements() && value.axes_in(dims).is_some() {
            return Ok(());
        }
        Err(refuse(
            node,
            format!("gives a result of shape {dims:?}, which rounds its size up (ceil_mode); export it without"),
        ))
    }
}

fn size(node: &OnnxNode, value: i64) -> Result<usize, TrainError> {
    usize::try_from(value).map_err(|_| refuse(node, "has a negative size or padding"))
}

/// The window of a convolution or pooling over an image.
fn window(node: &OnnxNode, size: [usize; 2], image: Shape) -> Result<Window, TrainError> {
    let image = match image {
        Shape::Image { height, width, .. } => [height, width],
        Shape::Flat(_) => return Err(refuse(node, "reads no image")),
    };
    let list = |name: &str, missing: i64, count: usize| -> Result<Vec<usize>, TrainError> {
        let values = node.ints(name).map_or_else(|| vec![missing; count], <[i64]>::to_vec);
        let values: Vec<usize> = values.into_iter().map(|value| self::size(node, value)).collect::<Result<_, _>>()?;
        if values.len() == count { Ok(values) } else { Err(refuse(node, format!("has {} {name}", values.len()))) }
    };
    if list("dilations", 1, 2)? != [1, 1] {
        return Err(refuse(node, "has a dilated window; use windows without dilation"));
    }
    let (&[down, right], &[top, left, bottom, behind]) =
        (list("strides", 1, 2)?.as_slice(), list("pads", 0, 4)?.as_slice())
    else {
        return Err(refuse(node, "has no window over rows and columns"));
    };
    let stride = [down, right];
    if stride.contains(&0) || size.contains(&0) {
        return Err(refuse(node, "has a window or a step of 0"));
    }
    let same = || {
        let along = |axis: usize| {
            let (length, size, step) = (image[axis], size[axis], stride[axis]);
            (length.div_ceil(step).saturating_sub(1) * step + size).saturating_sub(length)
        };
        [along(0), along(1)]
    };
    let less = |all: [usize; 2]| all.map(|all| all / 2);
    let more = |all: [usize; 2]| all.map(|all| all - all / 2);
    let (before, after) = match node.text("auto_pad").unwrap_or("NOTSET") {
        "NOTSET" | "" => ([top, left], [bottom, behind]),
        "VALID" => ([0; 2], [0; 2]),
        "SAME_UPPER" => (less(same()), more(same())),
        "SAME_LOWER" => (more(same()), less(same())),
        other => return Err(refuse(node, format!("pads by '{other}', which is unknown"))),
    };
    Ok(Window { size, stride, before, after })
}

/// `[filters, channels, rows, columns]` as `[rows, columns, channels, filters]`.
fn filters_last(weights: &Constant) -> Vec<f32> {
    let &[filters, channels, rows, columns] = weights.shape.as_slice() else {
        return weights.values.clone();
    };
    let points = rows * columns;
    let mut values = Vec::with_capacity(weights.values.len());
    for point in 0..points {
        for channel in 0..channels {
            values
                .extend(weights.values.iter().skip(channel * points + point).step_by(channels * points).take(filters));
        }
    }
    values
}
