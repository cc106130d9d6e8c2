//! Folders of pictures, one folder a class.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use subrosa_input::{Image, image_files};

use super::split::{Given, plan};
use super::{DataSet, Normalisation, Options, Part, Samples, Scaling, entries, fault, list, name};
use crate::error::TrainError;
use crate::model::Shape;

/// Files and their classes.
type Files = Vec<(PathBuf, u32)>;

pub(super) fn load(folder: &Path, options: &Options) -> Result<DataSet, TrainError> {
    let (training, validation, test) = parts(folder)?;
    let classes = classes(&training)?;
    let all = files(&training, &classes)?;
    let validation = validation.map(|folder| files(&folder, &classes)).transpose()?;
    let test = test.map(|folder| files(&folder, &classes)).transpose()?;
    let given = Given { validation: validation.is_some(), test: test.is_some() };
    let labels: Vec<u32> = all.iter().map(|(_, label)| *label).collect();
    let plan = plan(&training, &labels, &classes, given, options)?;
    let pick = |indices: &[usize]| -> Files { indices.iter().filter_map(|&index| all.get(index).cloned()).collect() };
    let parts = [
        pick(&plan.train),
        validation.unwrap_or_else(|| pick(&plan.validation)),
        test.unwrap_or_else(|| pick(&plan.test)),
    ];
    let images = decode(&parts, options.resize)?;
    let size = images.iter().flatten().next().map(|image| (image.height, image.width, image.channels));
    let mut parts = images.into_iter().zip(&parts).map(|(images, files)| Part {
        samples: Samples::Pixels(images.into_iter().flat_map(|image| image.data).collect()),
        labels: files.iter().map(|(_, label)| *label).collect(),
    });
    let (Some((height, width, channels)), Some(train), Some(validation), Some(test)) =
        (size, parts.next(), parts.next(), parts.next())
    else {
        return Err(fault(folder, "it holds no picture", "put .png, .jpg or .jpeg files into one folder a class"));
    };
    Ok(DataSet {
        shape: Shape::Image { height, width, channels },
        classes,
        normalisation: Normalisation::of(&train.samples, channels),
        scaling: Scaling::unit(channels),
        train,
        validation,
        test,
        columns: None,
        test_rows: (!given.test).then_some(plan.test),
    })
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    Ok(entries(folder)?.into_iter().filter(|entry| entry.is_dir()).collect())
}

/// The folders of the training, the validation and the test part. A folder called train that holds folders makes parts;
/// one that holds pictures is a class like others.
#[allow(clippy::type_complexity)] // three folders, two of which need not be there
fn parts(folder: &Path) -> Result<(PathBuf, Option<PathBuf>, Option<PathBuf>), TrainError> {
    let inside = folders(folder)?;
    let training = folder.join("train");
    if !training.is_dir() || folders(&training)?.is_empty() {
        return Ok((folder.to_owned(), None, None));
    }
    let (validation, test) = (folder.join("validation"), folder.join("test"));
    if let Some(other) = inside.iter().find(|&other| ![&training, &validation, &test].contains(&other)) {
        return Err(fault(
            folder,
            format!("beside train it holds a folder '{}'", name(other)),
            "call the other parts validation and test, and take other folders out",
        ));
    }
    let there = |part: PathBuf| Some(part).filter(|part| part.is_dir());
    Ok((training, there(validation), there(test)))
}

/// Names of the class folders.
fn classes(folder: &Path) -> Result<Vec<String>, TrainError> {
    let classes: Vec<String> = folders(folder)?.iter().map(|class| name(class)).collect();
    if classes.is_empty() {
        return Err(fault(
            folder,
            "it holds no folder",
            "make one folder for each class, or train and test with one folder for each class",
        ));
    }
    Ok(classes)
}

/// The pictures of all class folders, class by class and by name.
fn files(folder: &Path, classes: &[String]) -> Result<Files, TrainError> {
    let mut files = Vec::new();
    for class in folders(folder)? {
        let Some(label) = classes.iter().position(|known| *known == name(&class)) else {
            return Err(fault(
                &class,
                "there is no such class among the training samples",
                format!("the classes are {}; rename the folder or take it out", list(classes)),
            ));
        };
        let found = image_files(&class)?;
        if found.is_empty() {
            return Err(fault(
                &class,
                "the class is empty: it holds no .png, .jpg or .jpeg file",
                "add pictures, or take the folder out",
            ));
        }
        let label = u32::try_from(label).unwrap_or(u32::MAX);
        files.extend(found.into_iter().map(|file| (file, label)));
    }
    if files.is_empty() {
        return Err(fault(folder, "it holds no class folder", "make one folder for each class in it"));
    }
    Ok(files)
}

/// The pictures of all parts, all of one size.
fn decode(parts: &[Files; 3], resize: Option<(usize, usize)>) -> Result<Vec<Vec<Image>>, TrainError> {
    let open = |(file, _): &(PathBuf, u32)| -> Result<Image, TrainError> {
        let image = Image::open(file)?;
        Ok(match resize {
            Some((height, width)) => image.resized(height, width)?,
            None => image,
        })
    };
    let mut images: Vec<Vec<Image>> = Vec::new();
    for part in parts {
        images.push(part.par_iter().map(open).collect::<Result<_, _>>()?);
    }
    let first = parts.iter().flatten().zip(images.iter().flatten()).next();
    if let Some(((first_file, _), first)) = first {
        let differs = |image: &Image| (image.height, image.width) != (first.height, first.width);
        let other = parts.iter().flatten().zip(images.iter().flatten()).find(|(_, image)| differs(image));
        if let Some(((file, _), image)) = other {
            return Err(fault(
                file,
                format!(
                    "it is {}x{} (height x width), but {} is {}x{}",
                    image.height,
                    image.width,
                    first_file.display(),
                    first.height,
                    first.width
                ),
                "bring all pictures to one size with --resize HxW",
            ));
        }
    }
    if images.iter().flatten().any(|image| image.channels == 3) {
        images.iter_mut().flatten().for_each(to_rgb);
    }
    Ok(images)
}

/// Grey becomes three equal channels.
fn to_rgb(image: &mut Image) {
    if image.channels == 1 {
        image.data = image.data.iter().flat_map(|&grey| [grey; 3]).collect();
        image.channels = 3;
    }
}
