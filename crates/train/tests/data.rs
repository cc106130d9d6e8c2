//! Data sets of every kind load as they should, splits are fair and repeatable, and every bad one says what to do.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use subrosa_train::Shape;
use subrosa_train::data::{DataSet, Kind, Options, Part, Sample, Samples, load, write_test};
use tempfile::TempDir;

fn idx(axes: &[u32], data: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, axes.len() as u8];
    file.extend(axes.iter().flat_map(|axis| axis.to_be_bytes()));
    file.extend(data);
    file
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

/// Images of 2 x 3 whose pixels are the sample's number, and labels that go round.
fn write_idx(folder: &Path, part: &str, count: u8, classes: u8, dot: &str, gz: bool) {
    let images: Vec<u8> = (0..count).flat_map(|sample| [sample; 6]).collect();
    let labels: Vec<u8> = (0..count).map(|sample| sample % classes).collect();
    let images = ("images", 3, idx(&[count.into(), 2, 3], &images));
    for (what, axes, file) in [images, ("labels", 1, idx(&[count.into()], &labels))] {
        let name = format!("{part}-{what}{dot}idx{axes}-ubyte{}", if gz { ".gz" } else { "" });
        write(folder, &name, if gz { gzip(&file) } else { file });
    }
}

fn mnist() -> TempDir {
    let folder = TempDir::new().unwrap();
    write_idx(folder.path(), "train", 200, 10, "-", false);
    write_idx(folder.path(), "t10k", 20, 10, "-", false);
    folder
}

/// CIFAR-10 records: red is the sample's number, green 100, blue 200.
fn records(count: u8) -> Vec<u8> {
    let planes = |sample: u8| [sample; 1024].into_iter().chain([100; 1024]).chain([200; 1024]);
    (0..count).flat_map(|sample| [sample % 10].into_iter().chain(planes(sample))).collect()
}

fn picture(folder: &Path, name: &str, width: u32, height: u32, grey: bool, value: u8) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match grey {
        true => image::GrayImage::from_pixel(width, height, image::Luma([value])).save(path).unwrap(),
        false => image::RgbImage::from_pixel(width, height, image::Rgb([value, 0, 255])).save(path).unwrap(),
    }
}

/// A table of 3 classes with 50, 30 and 20 rows.
fn table() -> String {
    let class = |row: usize| ["low", "mid", "top"][usize::from(row >= 50) + usize::from(row >= 80)];
    let kind = |row: usize| ["10", "9"][row % 2];
    let rows = (0..100).map(|row| format!("{row},{},{},7,{}\n", row as f32 * 0.5, kind(row), class(row)));
    format!("id,x,kind,constant,class\n{}", rows.collect::<String>())
}

fn table_options() -> Options {
    Options { drop: vec!["id".into()], categorical: vec!["kind".into()], ..Options::default() }
}

fn counts(part: &Part, classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    part.labels.iter().for_each(|&label| counts[label as usize] += 1);
    counts
}

fn pixels(part: &Part, index: usize) -> &[u8] {
    match part.sample(index) {
        Some(Sample::Pixels(pixels)) => pixels,
        other => panic!("{other:?}"),
    }
}

fn values(part: &Part) -> &[f32] {
    match &part.samples {
        Samples::Values(values) => values,
        Samples::Pixels(_) => panic!("pixels"),
    }
}

/// The error's text, with the folder of the test cut out.
fn error(kind: Kind, path: &Path, root: &Path, options: &Options) -> String {
    let text = load(kind, path, options).unwrap_err().to_string();
    text.replace(root.to_str().unwrap(), "DIR")
}

fn table_error(text: &str, options: &Options) -> String {
    let folder = TempDir::new().unwrap();
    let path = write(folder.path(), "t.csv", text);
    error(Kind::Csv, &path, folder.path(), options)
}

#[test]
fn names_of_kinds_go_back_and_forth() {
    for kind in Kind::ALL {
        assert_eq!(kind.to_string().parse::<Kind>().unwrap(), kind);
    }
    assert_eq!(
        "svhn".parse::<Kind>().unwrap_err().to_string(),
        "unknown data set 'svhn'; use one of mnist, fashion-mnist, cifar10, images, csv"
    );
}

#[test]
fn mnist_loads_under_each_of_its_names() {
    let plain = mnist();
    let expected = load(Kind::Mnist, plain.path(), &Options::default()).unwrap();
    assert_eq!(expected.shape, Shape::Image { height: 2, width: 3, channels: 1 });
    assert_eq!(expected.classes[3], "3");
    assert_eq!((expected.train.len(), expected.validation.len(), expected.test.len()), (180, 20, 20));
    assert_eq!(pixels(&expected.test, 19), [19; 6]);
    assert_eq!(expected.test.sample(20), None);
    assert_eq!(expected.test_rows, None);
    for part in [&expected.train, &expected.validation] {
        for (index, label) in part.labels.iter().enumerate() {
            assert_eq!(u32::from(pixels(part, index)[0] % 10), *label);
        }
    }
    for (dot, gz) in [("-", true), (".", false), (".", true)] {
        let folder = TempDir::new().unwrap();
        write_idx(folder.path(), "train", 200, 10, dot, gz);
        write_idx(folder.path(), "t10k", 20, 10, dot, gz);
        assert_eq!(load(Kind::Mnist, folder.path(), &Options::default()).unwrap(), expected);
    }
    assert_eq!(load(Kind::FashionMnist, plain.path(), &Options::default()).unwrap().classes[9], "Ankle boot");
}

#[test]
fn cifar10_loads_from_its_folder_and_the_one_around_it() {
    for inner in ["", "cifar-10-batches-bin/"] {
        let folder = TempDir::new().unwrap();
        write(folder.path(), &format!("{inner}data_batch_1.bin"), records(50));
        write(folder.path(), &format!("{inner}data_batch_2.bin"), records(30));
        write(folder.path(), &format!("{inner}test_batch.bin"), records(10));
        let data = load(Kind::Cifar10, folder.path(), &Options { validation: 0.0, ..Options::default() }).unwrap();
        assert_eq!(data.shape, Shape::Image { height: 32, width: 32, channels: 3 });
        assert_eq!((data.train.len(), data.validation.len(), data.test.len()), (80, 0, 10));
        assert_eq!(data.classes[9], "truck");
        assert_eq!(pixels(&data.train, 51)[..6], [1, 100, 200, 1, 100, 200]);
        // Green and blue are constant.
        assert_eq!(data.normalisation.mean[1..], [100.0 / 255.0, 200.0 / 255.0]);
        assert_eq!(data.normalisation.deviation[1..], [1.0, 1.0]);
    }
}

#[test]
fn image_folders_load_without_parts() {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    for index in 0..10u8 {
        picture(root, &format!("dog/{index}.png"), 3, 2, true, index);
        picture(root, &format!("cat/{index}.png"), 3, 2, true, 100 + index);
    }
    picture(root, ".cache/x.png", 9, 9, true, 0);
    write(root, "README.txt", "hello");
    let data = load(Kind::Images, root, &Options::default()).unwrap();
    assert_eq!(data.classes, ["cat", "dog"]);
    assert_eq!(data.shape, Shape::Image { height: 2, width: 3, channels: 1 });
    assert_eq!(counts(&data.train, 2), [7, 7]);
    assert_eq!(counts(&data.validation, 2), [1, 1]);
    assert_eq!(counts(&data.test, 2), [2, 2]);
    assert_eq!(data.test_rows.as_ref().map(Vec::len), Some(4));
    for part in [&data.train, &data.validation, &data.test] {
        for (index, label) in part.labels.iter().enumerate() {
            assert_eq!(*label, u32::from(pixels(part, index)[0] < 100));
        }
    }
}

#[test]
fn image_folders_with_parts_load_in_one_size_and_in_colour() {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    for (part, count) in [("train", 4), ("validation", 1), ("test", 2)] {
        for index in 0..count {
            picture(root, &format!("{part}/cat/{index}.png"), 3 + index, 2, true, 50);
            picture(root, &format!("{part}/dog/{index}.png"), 3, 2, false, 60);
        }
    }
    let data = load(Kind::Images, root, &Options { resize: Some((4, 5)), ..Options::default() }).unwrap();
    assert_eq!(data.shape, Shape::Image { height: 4, width: 5, channels: 3 });
    assert_eq!((data.train.len(), data.validation.len(), data.test.len()), (8, 2, 4));
    assert_eq!(pixels(&data.test, 0), [50; 60]);
    assert_eq!(pixels(&data.test, 2)[..3], [60, 0, 255]);
    assert_eq!(data.test_rows, None);
    assert_eq!(
        error(Kind::Images, root, root, &Options::default()),
        "DIR/train/cat/1.png: it is 2x4 (height x width), but DIR/train/cat/0.png is 2x3; \
         bring all pictures to one size with --resize HxW"
    );
}

#[test]
fn tables_become_numbers_classes_and_categories() {
    let folder = TempDir::new().unwrap();
    let path = write(folder.path(), "t.csv", format!("\u{feff}{}", table()));
    let data = load(Kind::Csv, &path, &table_options()).unwrap();
    assert_eq!(data.shape, Shape::Flat(4));
    assert_eq!(data.columns.clone().unwrap(), ["x", "kind=9", "kind=10", "constant"]);
    assert_eq!(data.classes, ["low", "mid", "top"]);
    assert_eq!(counts(&data.test, 3), [10, 6, 4]);
    assert_eq!((data.train.len(), data.validation.len()), (72, 8));
    assert_eq!(counts(&data.validation, 3)[0], 4);
    assert_eq!((data.normalisation.mean[3], data.normalisation.deviation[3]), (7.0, 1.0));
    for (place, row) in data.test_rows.clone().unwrap().into_iter().enumerate() {
        let odd = (row % 2) as f32;
        assert_eq!(data.test.sample(place), Some(Sample::Values(&[row as f32 * 0.5, odd, 1.0 - odd, 7.0])));
    }
    let x: Vec<f64> = values(&data.train).iter().step_by(4).map(|&x| x.into()).collect();
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / x.len() as f64;
    assert!((f64::from(data.normalisation.mean[0]) - mean).abs() < 1e-5);
    assert!((f64::from(data.normalisation.deviation[0]) - variance.sqrt()).abs() < 1e-5);
}

#[test]
fn whole_numbers_as_classes_are_sorted_by_value() {
    let folder = TempDir::new().unwrap();
    let rows: String = (0..40).map(|row| format!("{row},{}\n", ["10", "9.0", "-1", "9"][row % 4])).collect();
    write(folder.path(), "train.csv", format!("x,y\n{rows}"));
    write(folder.path(), "test.csv", "x,y\n1,9\n2,10.0\n");
    let options = Options { target: Some("y".into()), ..Options::default() };
    let data = load(Kind::Csv, folder.path(), &options).unwrap();
    assert_eq!(data.classes, ["-1", "9", "10"]);
    assert_eq!(data.test.labels, [1, 2]);
    assert_eq!(data.train.len() + data.validation.len(), 40);
}

#[test]
fn the_sample_table_of_the_repository_loads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/ai4i2020-1000.csv");
    let drop = ["UDI", "Product ID", "TWF", "HDF", "PWF", "OSF", "RNF"].map(String::from).to_vec();
    let options =
        Options { target: Some("Machine failure".into()), categorical: vec!["Type".into()], ..Options::default() };
    let data = load(Kind::Csv, &path, &Options { drop, ..options }).unwrap();
    assert_eq!(data.train.len() + data.validation.len() + data.test.len(), 1000);
    assert_eq!(data.classes, ["0", "1"]);
    assert_eq!(data.columns.unwrap()[..4], ["Type=H", "Type=L", "Type=M", "Air temperature [K]"]);
}

#[test]
fn splits_depend_on_the_seed_alone_and_keep_the_test_part() {
    let folder = TempDir::new().unwrap();
    let path = write(folder.path(), "t.csv", table());
    let with = |options: Options| load(Kind::Csv, &path, &options).unwrap();
    let first = with(table_options());
    assert_eq!(first, with(table_options()));
    let other = with(Options { seed: 1, ..table_options() });
    assert_ne!(first.test_rows, other.test_rows);
    assert_eq!(counts(&first.test, 3), counts(&other.test, 3));
    let limited = with(Options { limit: Some(20), validation: 0.2, ..table_options() });
    assert_eq!(first.test, limited.test);
    assert_eq!(counts(&limited.train, 3), [8, 5, 3]);
    assert_eq!(counts(&limited.validation, 3), [2, 1, 1]);
    // This very split, so that a model trained before is never measured on rows that it was trained on.
    assert_eq!(first.test_rows.unwrap(), PINNED);
}

#[test]
fn no_sample_is_in_two_parts_and_none_is_lost() {
    let folder = TempDir::new().unwrap();
    let path = write(folder.path(), "t.csv", table());
    for seed in 0..20 {
        let data = load(Kind::Csv, &path, &Options { seed, ..table_options() }).unwrap();
        let mut all: Vec<u32> = Vec::new();
        for part in [&data.train, &data.validation, &data.test] {
            all.extend(values(part).iter().step_by(4).map(|x| (x * 2.0) as u32));
        }
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn a_rare_class_is_kept_for_training_and_for_the_test() {
    let rows: String = (0..200).map(|row| format!("{row},{}\n", u8::from(row < 2))).collect();
    let folder = TempDir::new().unwrap();
    let path = write(folder.path(), "t.csv", format!("x,label\n{rows}"));
    let data = load(Kind::Csv, &path, &Options::default()).unwrap();
    assert_eq!((counts(&data.train, 2)[1], counts(&data.test, 2)[1]), (1, 1));
}

#[test]
fn the_test_part_is_read_back_as_it_was_written() {
    let folder = TempDir::new().unwrap();
    let back = |data: &DataSet, out: &str| {
        let files = write_test(data, &folder.path().join(out)).unwrap();
        let labels = subrosa_input::read_labels(files.labels.to_str().unwrap()).unwrap();
        assert_eq!(labels, data.test.labels);
        subrosa_input::read(files.input.to_str().unwrap(), None).unwrap()
    };
    let path = write(folder.path(), "t.csv", table());
    let data = load(Kind::Csv, &path, &table_options()).unwrap();
    let read = back(&data, "table");
    assert_eq!(read.labels.as_ref(), Some(&data.test.labels));
    let expected = subrosa_input::Samples::Raw { shape: vec![4], data: values(&data.test).to_vec() };
    assert_eq!(read.samples, expected);

    let data = load(Kind::Mnist, mnist().path(), &Options::default()).unwrap();
    let pixels: Vec<u8> = (0..20).flat_map(|sample| [sample; 6]).collect();
    let expected = subrosa_input::Samples::Pixels { height: 2, width: 3, channels: 1, data: pixels };
    assert_eq!(back(&data, "pictures").samples, expected);
}

#[test]
fn files_that_are_missing_are_named() {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    let none = Options::default();
    let empty = root.join("empty");
    fs::create_dir(&empty).unwrap();
    let mnist = "DIR/empty: the images of the training part are missing; put one of train-images-idx3-ubyte, \
                 train-images-idx3-ubyte.gz, train-images.idx3-ubyte, train-images.idx3-ubyte.gz there";
    let cifar = "DIR/empty: the training part is missing; put data_batch_1.bin, … or train*.bin there, \
                 from CIFAR-10's binary version";
    let images = "DIR/empty: it holds no folder; make one folder for each class, \
                  or train and test with one folder for each class";
    let csv = "DIR/empty: the folder is empty; call the table train.csv, or give the file itself with --data";
    let file = write(root, "file.bin", records(10));
    for (kind, expected) in [(Kind::Mnist, mnist), (Kind::Cifar10, cifar), (Kind::Images, images), (Kind::Csv, csv)] {
        assert_eq!(error(kind, &empty, root, &none), expected);
        let gone = "DIR/gone: there is no such file or folder; check --data";
        assert_eq!(error(kind, &root.join("gone"), root, &none), gone);
        if kind != Kind::Csv {
            let no_folder = "DIR/file.bin: it is no folder; give the folder that holds the data set with --data";
            assert_eq!(error(kind, &file, root, &none), no_folder);
        }
    }
    write(root, "cifar/train.bin", records(20));
    assert_eq!(
        error(Kind::Cifar10, &root.join("cifar"), root, &none),
        "DIR/cifar: the test part is missing; put test_batch.bin or test*.bin there, from CIFAR-10's binary version"
    );
    write(root, "cifar/test_a.bin", records(10));
    write(root, "cifar/test_b.bin", records(10));
    assert_eq!(
        error(Kind::Cifar10, &root.join("cifar"), root, &none),
        "DIR/cifar: several files could be the test part: test_a.bin, test_b.bin; keep one, or call it test_batch.bin"
    );
    write(root, "tables/other.csv", table());
    assert_eq!(
        error(Kind::Csv, &root.join("tables"), root, &none),
        "DIR/tables: it has no train.csv, only 'other.csv'; \
         call the table train.csv, or give the file itself with --data"
    );
}

#[test]
fn idx_files_that_do_not_belong_together_are_refused() {
    let none = Options::default();
    let folder = mnist();
    let root = folder.path();
    write(root, "t10k-labels-idx1-ubyte", idx(&[3], &[0, 1, 2]));
    assert_eq!(
        error(Kind::Mnist, root, root, &none),
        "DIR/t10k-labels-idx1-ubyte: it holds 3 labels, but t10k-images-idx3-ubyte holds 20 images; \
         take both files from the same data set"
    );
    write(root, "t10k-images-idx3-ubyte", idx(&[2, 3, 3], &[0; 18]));
    write(root, "t10k-labels-idx1-ubyte", idx(&[2], &[0, 1]));
    assert_eq!(
        error(Kind::Mnist, root, root, &none),
        "DIR: training images are 2x3 with 1 channel(s), test images 3x3 with 1 channel(s); \
         take both parts from the same data set"
    );
    write(root, "t10k-labels-idx1-ubyte", idx(&[2], &[0, 10]));
    assert_eq!(
        error(Kind::Mnist, root, root, &none),
        "DIR/t10k-labels-idx1-ubyte, record 2: label 10 is not one of the classes 0 to 9; \
         check that it is the right data set; for classes of your own use --dataset images or csv"
    );
    write_idx(root, "train", 90, 9, "-", false);
    write_idx(root, "t10k", 20, 10, "-", false);
    assert_eq!(
        error(Kind::Mnist, root, root, &none),
        "DIR: class '9' has 0 training sample(s), it needs one at least; add samples of it, or take the class out"
    );
    write(root, "train-images-idx3-ubyte", idx(&[90, 2, 3], &[0; 100]));
    assert_eq!(
        error(Kind::Mnist, root, root, &none),
        "DIR/train-images-idx3-ubyte, record 17: the file ends here, though it declares 90 records or more; \
         fetch the file again, or use --limit to stop before it"
    );
}

#[test]
fn image_folders_that_are_no_classes_are_refused() {
    let none = Options::default();
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    picture(root, "train/cat/1.png", 2, 2, true, 0);
    picture(root, "train/cat/2.png", 2, 2, true, 0);
    assert_eq!(
        error(Kind::Images, root, root, &none),
        "DIR/train: there is one class alone, 'cat'; give samples of two classes or more"
    );
    fs::create_dir(root.join("train/dog")).unwrap();
    assert_eq!(
        error(Kind::Images, root, root, &none),
        "DIR/train/dog: the class is empty: it holds no .png, .jpg or .jpeg file; add pictures, or take the folder out"
    );
    picture(root, "train/dog/1.png", 2, 2, true, 0);
    assert_eq!(
        error(Kind::Images, root, root, &none),
        "DIR/train: class 'dog' has 1 training sample(s), it needs one at least, and another for the test part; \
         add samples of it, or take the class out"
    );
    write(root, "train/dog/2.png", "no picture");
    let text = error(Kind::Images, root, root, &Options { validation: 0.0, ..Options::default() });
    assert!(text.starts_with("DIR/train/dog/2.png: it is no sound image ("), "{text}");
    picture(root, "test/bird/1.png", 2, 2, true, 0);
    assert_eq!(
        error(Kind::Images, root, root, &none),
        "DIR/test/bird: there is no such class among the training samples; \
         the classes are 'cat', 'dog'; rename the folder or take it out"
    );
    picture(root, "val/cat/1.png", 2, 2, true, 0);
    assert_eq!(
        error(Kind::Images, root, root, &none),
        "DIR: beside train it holds a folder 'val'; call the other parts validation and test, and take other folders out"
    );
}

#[test]
fn cells_that_are_no_values_are_named_with_their_cures() {
    let none = Options::default();
    let filled = "fill it, take the row out, or leave the column out with --drop";
    for (row, expected) in [
        (
            "7,red,1",
            "'red' in column 'b' is no number; \
             make its values columns with --categorical 'b', or leave it out with --drop 'b'",
        ),
        ("7,,1", &format!("the cell in column 'b' is empty; {filled}")),
        ("NaN,8,1", &format!("the cell in column 'a' is NaN; {filled}")),
        (
            "1e99,8,1",
            "'1e99' in column 'a' is no finite float32 number; \
             replace it, take the row out, or leave the column out with --drop",
        ),
        (
            "1,8,0.5",
            "'0.5' in the class column 'class' is no class but a measured number; \
             name a column of classes with --target; numbers cannot be predicted, only classes",
        ),
        ("1,8", "it has 2 cells, the lines before have 3; give every row the same number of cells"),
    ] {
        let text = table_error(&format!("a,b,class\n1,2,0\n3,4,1\n5,6,0\n{row}\n"), &none);
        assert_eq!(text, format!("DIR/t.csv, record 4: {expected}"));
    }
    assert_eq!(
        table_error("a,class\n1,0\n2,0\n", &none),
        "DIR/t.csv: there is one class alone, '0'; give samples of two classes or more"
    );
    let many: String = (0..1001).map(|row| format!("c{row},{}\n", row % 2)).collect();
    assert_eq!(
        table_error(&format!("a,class\n{many}"), &Options { categorical: vec!["a".into()], ..none }),
        "DIR/t.csv: column 'a' has 1001 categories, more than 1000; leave it out with --drop"
    );
}

#[test]
fn columns_that_are_not_there_or_not_clear_are_listed() {
    let none = Options::default();
    let target = |name: &str| Options { target: Some(name.into()), ..none.clone() };
    let drop = |names: &[&str]| Options { drop: names.iter().map(|&n| n.into()).collect(), ..none.clone() };
    let categorical = |name: &str| Options { categorical: vec![name.into()], ..none.clone() };
    let with = |header: &str, options: &Options| {
        let text = table_error(&format!("{header}\n1,2,0\n3,4,1\n5,6,0\n7,8,1\n"), options);
        text.replace("DIR/t.csv: ", "")
    };
    let plain = "a,b,class";
    for (flag, options) in [("--target", target("z")), ("--drop", drop(&["z"])), ("--categorical", categorical("z"))] {
        let expected = format!("it has no column 'z'; give {flag} one of its columns: 'a', 'b', 'class'");
        assert_eq!(with(plain, &options), expected);
    }
    for (header, options, expected) in [
        (
            "a,a,class",
            none.clone(),
            "several columns are called 'a'; give each its own name; its columns are 'a', 'a', 'class'",
        ),
        (",a,class", none.clone(), "column 1 has no name; name it in the header line"),
        (
            "a,b,c",
            none.clone(),
            "none of its columns is called label, target or class; \
             name the one that holds the class with --target: 'a', 'b', 'c'",
        ),
        (
            "a,Label,class",
            none.clone(),
            "several columns could be the class: 'Label', 'class'; \
             name one with --target and leave the others out with --drop",
        ),
        (
            "a,Label,class",
            target("class"),
            "column 'Label' is not the target, but readers of tables take it for the class; \
             leave it out with --drop, or rename it",
        ),
        (
            plain,
            Options { target: Some("a".into()), ..drop(&["a"]) },
            "'a' is the class, it cannot be in --drop; name another --target",
        ),
        (plain, categorical("class"), "'class' is the class, leave it out of --categorical"),
        (
            plain,
            Options { drop: vec!["a".into()], ..categorical("a") },
            "'a' is in --drop and in --categorical; keep one of them",
        ),
        (plain, drop(&["a", "b"]), "no column is left beside the class 'class'; drop fewer columns"),
    ] {
        assert_eq!(with(header, &options), expected);
    }
}

#[test]
fn a_test_table_must_fit_the_training_table() {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    write(root, "train.csv", "a,kind,class\n1,x,no\n3,y,yes\n5,x,no\n7,y,yes\n");
    let options = Options { categorical: vec!["kind".into()], ..Options::default() };
    let same = "give both tables the same columns in the same order";
    for (test, expected) in [
        ("a,class\n1,no\n", &*format!(": it has no column 'kind', which train.csv has; {same}")),
        ("a,kind,b,class\n1,x,2,no\n", &*format!(": it has a column 'b', which train.csv has not; {same}")),
        ("kind,a,class\nx,1,no\n", &*format!(": its columns are in another order than those of train.csv; {same}")),
        (
            "a,kind,class\n1,z,no\n",
            ", record 1: 'z' in column 'kind' does not occur in train.csv; \
             take the row out, or move one with this category to train.csv",
        ),
        (
            "a,kind,class\n1,x,no\n1,x,perhaps\n",
            ", record 2: class 'perhaps' in column 'class' does not occur in train.csv; \
             the classes are 'no', 'yes'; take the row out",
        ),
    ] {
        write(root, "test.csv", test);
        assert_eq!(error(Kind::Csv, root, root, &options), format!("DIR/test.csv{expected}"));
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let folder = mnist();
    let none = Options::default;
    for (options, expected) in [
        (Options { validation: 1.0, ..none() }, "--validation 1 is no share; use 0 or more and less than 1"),
        (Options { validation: f64::NAN, ..none() }, "--validation NaN is no share; use 0 or more and less than 1"),
        (Options { test: 0.0, ..none() }, "--test 0 is no share; use more than 0 and less than 1"),
        (Options { limit: Some(0), ..none() }, "--limit 0 leaves nothing to train on; use 1 or more"),
        (
            Options { limit: Some(9), ..none() },
            "--limit 9 is less than one sample for each of the 10 classes; use 10 or more",
        ),
        (
            Options { limit: Some(10), ..none() },
            "DIR: no class has a training sample to spare for validation; \
             add samples, use a larger --limit, or use --validation 0",
        ),
        (Options { resize: Some((2, 2)), ..none() }, "--resize is for --dataset images, not for mnist"),
        (Options { target: Some("x".into()), ..none() }, "--target is for --dataset csv, not for mnist"),
    ] {
        assert_eq!(error(Kind::Mnist, folder.path(), folder.path(), &options), expected);
    }
}

/// The test part of [`table`] for seed 0.
const PINNED: [usize; 20] = [11, 13, 14, 18, 19, 24, 31, 32, 34, 39, 55, 56, 62, 67, 70, 72, 80, 85, 89, 96];
