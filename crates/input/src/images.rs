//! PNG and JPEG files, one or a directory of them.

use std::io::{BufRead, Seek};
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageFormat, ImageReader};

use crate::preprocess::resize_pixels;
use crate::{Dataset, InputError, Samples};

/// One image of 8-bit values, height x width x channels.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// 1 for grey, 3 for RGB; transparency is dropped.
    pub channels: usize,
    /// Values.
    pub data: Vec<u8>,
}

impl Image {
    /// Reads a PNG or JPEG file.
    ///
    /// # Errors
    /// The file cannot be read or is no sound image.
    pub fn open(file: &Path) -> Result<Self, InputError> {
        let path = file.to_string_lossy();
        let reader = std::fs::File::open(file).map_err(|e| InputError::io(&path, e))?;
        decode(&path, std::io::BufReader::new(reader))
    }

    /// The image in another size, resized as by a declared [`Preprocess`](crate::Preprocess).
    ///
    /// # Errors
    /// Sides that are too long.
    pub fn resized(self, height: usize, width: usize) -> Result<Self, InputError> {
        if (self.height, self.width) == (height, width) {
            return Ok(self);
        }
        let data = resize_pixels((self.height, self.width, self.channels), &self.data, (height, width))?;
        Ok(Image { height, width, channels: self.channels, data })
    }
}

/// The PNG and JPEG files of a directory in the order of their names; hidden and other files are passed over.
///
/// # Errors
/// The directory cannot be read.
pub fn image_files(directory: &Path) -> Result<Vec<PathBuf>, InputError> {
    let failed = |e| InputError::io(&directory.to_string_lossy(), e);
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if is_image(&file) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads the images of a directory in the order of their names; other files are passed over.
pub(crate) fn read_directory(path: &str, limit: usize) -> Result<Dataset, InputError> {
    let mut files = image_files(Path::new(path))?;
    files.truncate(limit);
    if files.is_empty() {
        return Err(InputError::file(
            path,
            "the directory holds no .png, .jpg or .jpeg file",
            "give a directory of images, or a file of another format",
        ));
    }
    let images: Vec<Image> = files.iter().map(|f| Image::open(f)).collect::<Result<_, _>>()?;
    let names =
        files.iter().filter_map(|file| file.file_name()).map(|name| name.to_string_lossy().into_owned()).collect();
    Ok(collect(images, names))
}

/// Reads the one image that `reader` gives.
pub(crate) fn read_one(path: &str, reader: impl BufRead + Seek) -> Result<Dataset, InputError> {
    let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
    Ok(collect(vec![decode(path, reader)?], vec![name.into_owned()]))
}

fn is_image(file: &Path) -> bool {
    let ending = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let hidden = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let known = ["png", "jpg", "jpeg"].contains(&ending.to_ascii_lowercase().as_str());
    known && !hidden && file.is_file()
}

/// The image crate's default limits bound what a hostile file can make it allocate.
fn decode(path: &str, reader: impl BufRead + Seek) -> Result<Image, InputError> {
    let mut reader = ImageReader::new(reader);
    if let Ok(format) = ImageFormat::from_path(path) {
        reader.set_format(format);
    }
    let reader = reader.with_guessed_format().map_err(|e| InputError::io(path, e))?;
    let picture = reader.decode().map_err(|error| {
        InputError::file(
            path,
            format!("it is no sound image ({error})"),
            "save it again as PNG or JPEG, or take it out",
        )
    })?;
    let (height, width) = (picture.height() as usize, picture.width() as usize);
    let (channels, data) = match picture {
        DynamicImage::ImageLuma8(_)
        | DynamicImage::ImageLumaA8(_)
        | DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_) => (1, picture.into_luma8().into_raw()),
        other => (3, other.into_rgb8().into_raw()),
    };
    Ok(Image { height, width, channels, data })
}

/// Images of one size become one block of pixels.
fn collect(images: Vec<Image>, names: Vec<String>) -> Dataset {
    let count = images.len();
    let size = |image: &Image| (image.height, image.width, image.channels);
    let samples = match images.first().map(size) {
        Some((height, width, channels)) if images.iter().all(|i| size(i) == (height, width, channels)) => {
            Samples::Pixels { height, width, channels, data: images.into_iter().flat_map(|image| image.data).collect() }
        }
        _ => Samples::Images(images),
    };
    Dataset { count, samples, labels: None, names: Some(names) }
}
