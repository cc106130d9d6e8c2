//! The declared preprocessing: how 8-bit pixels become a network's input.

use std::fmt;
use std::str::FromStr;

use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Luma, Rgb};
use serde::{Deserialize, Serialize};

use crate::{Dataset, InputError, Samples};

/// Rows and columns an image is resized to at most.
const MAX_SIDE: usize = 16_384;

/// The order of an image's axes in the network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Channels, height, width (PyTorch).
    Nchw,
    /// Height, width, channels (Keras).
    Nhwc,
}

/// What is done to pixels, in this order: `resize` (bilinear, widened when it shrinks), times
/// `scale`, `(v - mean) / std` by channel, `layout`. Mean and deviation are in units after the
/// scale: for pixels scaled by 1/255 they lie between 0 and 1.
///
/// As text: `scale=1/255 mean=0.5,0.5,0.5 std=0.5 layout=nchw resize=28x28` (height x width), all
/// parts optional; an empty text is [`Preprocess::default`], nothing declared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Preprocess {
    /// Factor on 0..255 values; 1 if not given.
    pub scale: Option<f32>,
    /// One mean, or one for each channel; 0 if empty.
    pub mean: Vec<f32>,
    /// One deviation, or one for each channel; 1 if empty.
    pub std: Vec<f32>,
    /// Order of axes; by the network's input shape if that leaves no doubt.
    pub layout: Option<Layout>,
    /// Height and width to resize to.
    pub resize: Option<(usize, usize)>,
}

impl Preprocess {
    /// Whether anything is declared.
    pub fn is_declared(&self) -> bool {
        *self != Preprocess::default()
    }

    /// All samples as the network takes them: `count` times `input_shape`, row-major.
    ///
    /// Raw data is taken unchanged; its shape must be `input_shape`, or have as many values if
    /// the network takes a flat vector. Pixels need a declared preprocessing.
    ///
    /// # Errors
    /// Whatever does not fit; the text says what to declare or change.
    pub fn apply(&self, dataset: &Dataset, input_shape: &[usize]) -> Result<Vec<f32>, InputError> {
        let (values, elements) = match &dataset.samples {
            Samples::Raw { shape, data } => {
                let given: usize = shape.iter().product();
                let flat = matches!(*input_shape, [length] if length == given);
                if shape != input_shape && !flat {
                    return Err(InputError::Mismatch(format!(
                        "it holds samples of shape {shape:?}, the network takes {input_shape:?}; \
                         reshape or transpose the array to [samples, {}]",
                        join(input_shape, ", ")
                    )));
                }
                (data.clone(), given)
            }
            Samples::Pixels { height, width, channels, data } => {
                let size = height * width * channels;
                let mut values = Vec::new();
                for pixels in data.chunks_exact(size.max(1)) {
                    self.convert((*height, *width, *channels), pixels, input_shape, &mut values)?;
                }
                (values, input_shape.iter().product())
            }
            Samples::Images(images) => {
                let mut values = Vec::new();
                for (index, image) in images.iter().enumerate() {
                    let size = (image.height, image.width, image.channels);
                    let name = dataset.names.as_ref().and_then(|names| names.get(index));
                    self.convert(size, &image.data, input_shape, &mut values).map_err(|error| match (error, name) {
                        (InputError::Mismatch(what), Some(name)) => {
                            InputError::Mismatch(format!("image '{name}': {what}"))
                        }
                        (error, _) => error,
                    })?;
                }
                (values, input_shape.iter().product())
            }
        };
        if dataset.count.checked_mul(elements) != Some(values.len()) {
            return Err(InputError::Mismatch(format!(
                "{} samples of {elements} values were declared, {} values are there",
                dataset.count,
                values.len()
            )));
        }
        Ok(values)
    }

    /// Converts one image of `size` (height, width, channels) and appends it.
    fn convert(
        &self,
        size: (usize, usize, usize),
        pixels: &[u8],
        input_shape: &[usize],
        out: &mut Vec<f32>,
    ) -> Result<(), InputError> {
        if !self.is_declared() {
            return Err(InputError::Mismatch(
                "it holds 8-bit pixels, and the model declares no preprocessing for them; \
                 protect the model with --preprocess, for example 'scale=1/255', or give float32 data"
                    .into(),
            ));
        }
        let (height, width, channels) = size;
        let (new_height, new_width) = self.resize.unwrap_or((height, width));
        let layout = self.fit((new_height, new_width, channels), input_shape)?;
        let by_channel = |list: &[f32], what: &str, default: f32| match *list {
            [] => Ok(vec![default; channels]),
            [one] => Ok(vec![one; channels]),
            _ if list.len() == channels => Ok(list.to_vec()),
            _ => Err(InputError::Mismatch(format!(
                "the preprocessing declares {} values for {what}, the image has {channels} channels; \
                 declare one value, or one for each channel",
                list.len()
            ))),
        };
        let mean = by_channel(&self.mean, "mean", 0.0)?;
        let std = by_channel(&self.std, "std", 1.0)?;
        let resized;
        let pixels = if (new_height, new_width) == (height, width) {
            pixels
        } else {
            resized = resize_pixels(size, pixels, (new_height, new_width))?;
            &resized
        };
        let scale = self.scale.unwrap_or(1.0);
        let value = |(channel, pixel): (usize, u8)| {
            let mean = mean.get(channel).copied().unwrap_or(0.0);
            let std = std.get(channel).copied().unwrap_or(1.0);
            (f32::from(pixel) * scale - mean) / std
        };
        match layout {
            Layout::Nhwc => out.extend(pixels.iter().enumerate().map(|(i, &pixel)| value((i % channels, pixel)))),
            Layout::Nchw => {
                for channel in 0..channels {
                    let plane = pixels.iter().skip(channel).step_by(channels);
                    out.extend(plane.map(|&pixel| value((channel, pixel))));
                }
            }
        }
        Ok(())
    }

    /// The layout in which an image of `size` fits `input_shape`.
    fn fit(&self, size: (usize, usize, usize), input_shape: &[usize]) -> Result<Layout, InputError> {
        let (height, width, channels) = size;
        let nchw = [channels, height, width];
        let nhwc = [height, width, channels];
        let wrong = || {
            let asked = join(input_shape, "x");
            InputError::Mismatch(format!(
                "images of {height}x{width} with {channels} channel(s) do not fit the network's input {asked}; \
                 declare resize=HxW or layout=nchw|nhwc, or convert the images to the right number of channels"
            ))
        };
        let undecided = || {
            InputError::Mismatch(format!(
                "the network's input {} could be channels first or last; declare layout=nchw or layout=nhwc",
                join(input_shape, "x")
            ))
        };
        match *input_shape {
            [_, _, _] => match (self.layout, *input_shape == nchw, *input_shape == nhwc) {
                (Some(Layout::Nchw), true, _) => Ok(Layout::Nchw),
                (Some(Layout::Nhwc), _, true) => Ok(Layout::Nhwc),
                (None, true, false) => Ok(Layout::Nchw),
                (None, false, true) => Ok(Layout::Nhwc),
                (None, true, true) if channels > 1 => Err(undecided()),
                (None, true, true) => Ok(Layout::Nhwc),
                _ => Err(wrong()),
            },
            [h, w] if (h, w, 1) == size => Ok(Layout::Nhwc),
            [length] if length == height * width * channels => match (self.layout, channels) {
                (Some(layout), _) => Ok(layout),
                (None, 1) => Ok(Layout::Nhwc),
                (None, _) => Err(undecided()),
            },
            _ => Err(wrong()),
        }
    }
}

/// Bilinear, widened when it shrinks.
pub(crate) fn resize_pixels(
    (height, width, channels): (usize, usize, usize),
    pixels: &[u8],
    (new_height, new_width): (usize, usize),
) -> Result<Vec<u8>, InputError> {
    let too_large =
        || InputError::Mismatch(format!("an image of {height}x{width} with {channels} channel(s) cannot be resized"));
    let side = |length: usize| u32::try_from(length).map_err(|_| too_large());
    let (h, w) = (side(height)?, side(width)?);
    let (new_h, new_w) = (side(new_height)?, side(new_width)?);
    let bilinear = FilterType::Triangle;
    match channels {
        1 => ImageBuffer::<Luma<u8>, _>::from_raw(w, h, pixels)
            .map(|image| resize(&image, new_w, new_h, bilinear).into_raw()),
        3 => ImageBuffer::<Rgb<u8>, _>::from_raw(w, h, pixels)
            .map(|image| resize(&image, new_w, new_h, bilinear).into_raw()),
        _ => None,
    }
    .ok_or_else(too_large)
}

fn join<T: fmt::Display>(items: &[T], separator: &str) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    items.join(separator)
}

impl fmt::Display for Preprocess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(scale) = self.scale {
            // 1/255 reads better than 0.003921569, where it is the same number.
            let inverse = (1.0 / scale).round();
            parts.push(if inverse > 1.0 && 1.0 / inverse == scale {
                format!("scale=1/{inverse}")
            } else {
                format!("scale={scale}")
            });
        }
        if !self.mean.is_empty() {
            parts.push(format!("mean={}", join(&self.mean, ",")));
        }
        if !self.std.is_empty() {
            parts.push(format!("std={}", join(&self.std, ",")));
        }
        match self.layout {
            Some(Layout::Nchw) => parts.push("layout=nchw".into()),
            Some(Layout::Nhwc) => parts.push("layout=nhwc".into()),
            None => {}
        }
        if let Some((height, width)) = self.resize {
            parts.push(format!("resize={height}x{width}"));
        }
        f.write_str(&parts.join(" "))
    }
}

impl FromStr for Preprocess {
    type Err = InputError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut preprocess = Preprocess::default();
        let mut seen = Vec::new();
        for part in text.split_whitespace() {
            let bad = |what: &str| InputError::Preprocess { text: part.to_owned(), what: what.to_owned() };
            let (key, value) = part.split_once('=').ok_or_else(|| bad("it is no KEY=VALUE"))?;
            if seen.contains(&key) {
                return Err(bad("it is given twice"));
            }
            seen.push(key);
            match key {
                "scale" => {
                    let scale = number(value)
                        .filter(|&scale| scale != 0.0)
                        .ok_or_else(|| bad("the scale must be a number or a fraction, not 0"))?;
                    preprocess.scale = Some(scale);
                }
                "mean" => {
                    preprocess.mean = numbers(value).ok_or_else(|| bad("means are numbers joined by commas"))?;
                }
                "std" => {
                    preprocess.std = numbers(value)
                        .filter(|list| list.iter().all(|&std| std > 0.0))
                        .ok_or_else(|| bad("deviations are numbers above 0 joined by commas"))?;
                }
                "layout" => {
                    preprocess.layout = match value.to_ascii_lowercase().as_str() {
                        "nchw" => Some(Layout::Nchw),
                        "nhwc" => Some(Layout::Nhwc),
                        _ => return Err(bad("the layout is nchw or nhwc")),
                    };
                }
                "resize" => {
                    let side = |text: &str| {
                        let length = text.parse().ok()?;
                        (1..=MAX_SIDE).contains(&length).then_some(length)
                    };
                    let sides = value.split_once('x').and_then(|(height, width)| Some((side(height)?, side(width)?)));
                    let sides = sides.ok_or_else(|| bad("the size is HEIGHTxWIDTH, each from 1 to 16384"))?;
                    preprocess.resize = Some(sides);
                }
                _ => return Err(bad("keys are scale, mean, std, layout and resize")),
            }
        }
        Ok(preprocess)
    }
}

impl TryFrom<String> for Preprocess {
    type Error = InputError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Preprocess> for String {
    fn from(preprocess: Preprocess) -> String {
        preprocess.to_string()
    }
}

/// A finite number or a fraction of two.
fn number(text: &str) -> Option<f32> {
    let value = match text.split_once('/') {
        Some((above, below)) => above.parse::<f32>().ok()? / below.parse::<f32>().ok()?,
        None => text.parse().ok()?,
    };
    value.is_finite().then_some(value)
}

fn numbers(text: &str) -> Option<Vec<f32>> {
    text.split(',').map(number).collect()
}
