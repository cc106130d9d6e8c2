//! Every format reads what it should, and every bad file says what to do.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside #[test] functions fail tests too

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use subrosa_input::{Preprocess, Samples, read, read_labels};
use tempfile::TempDir;

fn write(dir: &TempDir, name: &str, bytes: &[u8]) -> String {
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

fn npy(dtype: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

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

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data").join(name)
}

fn raw(path: &str, limit: Option<usize>) -> (usize, Vec<usize>, Vec<f32>) {
    let dataset = read(path, limit).unwrap();
    match dataset.samples {
        Samples::Raw { shape, data } => (dataset.count, shape, data),
        other => panic!("{other:?}"),
    }
}

/// Height, width, channels and values.
fn pixels(path: &str, limit: Option<usize>) -> (usize, [usize; 3], Vec<u8>) {
    let dataset = read(path, limit).unwrap();
    match dataset.samples {
        Samples::Pixels { height, width, channels, data } => (dataset.count, [height, width, channels], data),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sound_files_give_their_values() {
    let dir = TempDir::new().unwrap();
    let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let path = write(&dir, "a.npy", &npy("<f4", "(3, 2)", &floats(&values)));
    assert_eq!(raw(&path, None), (3, vec![2], values.to_vec()));
    assert_eq!(raw(&path, Some(2)), (2, vec![2], values[..4].to_vec()));
    let doubles: Vec<u8> = values.iter().flat_map(|&v| f64::from(v).to_be_bytes()).collect();
    let path = write(&dir, "b.npy", &npy(">f8", "(1, 2, 3)", &doubles));
    assert_eq!(raw(&path, None), (1, vec![2, 3], values.to_vec()));
    let path = write(&dir, "c.npy", &npy("|u1", "(2, 1, 2, 3)", &(0..12).collect::<Vec<u8>>()));
    assert_eq!(pixels(&path, None), (2, [1, 2, 3], (0..12).collect()));

    let images = idx(&[2, 2, 3], &(0..12).collect::<Vec<u8>>());
    let path = write(&dir, "images-idx3-ubyte", &images);
    assert_eq!(pixels(&path, None), (2, [2, 3, 1], (0..12).collect()));
    let path = write(&dir, "images.gz", &gzip(&images));
    assert_eq!(pixels(&path, Some(1)), (1, [2, 3, 1], (0..6).collect()));

    let mut record = vec![7u8];
    for plane in [10u8, 20, 30] {
        record.extend(std::iter::repeat_n(plane, 1024));
    }
    let path = write(&dir, "batch.bin", &record);
    let (count, size, values) = pixels(&path, None);
    assert_eq!((count, size), (1, [32, 32, 3]));
    assert!(values.chunks(3).all(|pixel| pixel == [10, 20, 30]));
    assert_eq!(read(&path, None).unwrap().labels, Some(vec![7]));

    let path = write(&dir, "t.csv", b"\xef\xbb\xbfa, Label ,b\n1,0,2.5\n-3,1,4e1\n");
    assert_eq!(raw(&path, None), (2, vec![2], vec![1.0, 2.5, -3.0, 40.0]));
    assert_eq!(read(&path, None).unwrap().labels, Some(vec![0, 1]));

    let path = write(&dir, "s.ndjson", b"[[1,2],[3,4]]\n\n[[5,6],[7,8.5]]");
    assert_eq!(raw(&path, None), (2, vec![2, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.5]));
}

#[test]
fn a_limit_stops_before_what_is_damaged_behind_it() {
    let dir = TempDir::new().unwrap();
    let path = write(&dir, "a.npy", &npy("<f4", "(1000, 2)", &floats(&[1.0, 2.0])));
    assert_eq!(raw(&path, Some(1)).0, 1);
    let path = write(&dir, "a.csv", b"a,b\n1,2\nx,y\n");
    assert_eq!(raw(&path, Some(1)).0, 1);
    let path = write(&dir, "a.ndjson", b"[1]\nnonsense\n");
    assert_eq!(raw(&path, Some(1)).0, 1);
    let path = write(&dir, "a-idx", &idx(&[1000, 2, 2], &[1, 2, 3, 4]));
    assert_eq!(pixels(&path, Some(1)).0, 1);
    assert!(read(&path, Some(0)).unwrap_err().to_string().contains("--limit 1 or more"));
}

#[test]
fn images_of_a_directory_come_by_name() {
    let dir = TempDir::new().unwrap();
    let grey = |value: u8, side: u32| image::GrayImage::from_pixel(side, 2, image::Luma([value]));
    grey(9, 3).save(dir.path().join("b.png")).unwrap();
    grey(4, 3).save(dir.path().join("a.png")).unwrap();
    fs::write(dir.path().join("readme.txt"), "no image").unwrap();
    let path = dir.path().to_str().unwrap();
    let dataset = read(path, None).unwrap();
    assert_eq!(dataset.names, Some(vec!["a.png".into(), "b.png".into()]));
    assert_eq!(pixels(path, None), (2, [2, 3, 1], [vec![4; 6], vec![9; 6]].concat()));
    assert_eq!(pixels(path, Some(1)).0, 1);

    grey(5, 4).save(dir.path().join("c.png")).unwrap();
    let dataset = read(path, None).unwrap();
    assert!(matches!(&dataset.samples, Samples::Images(images) if images[2].width == 4));
    let preprocess: Preprocess = "scale=1 resize=2x3".parse().unwrap();
    let values = preprocess.apply(&dataset, &[2, 3, 1]).unwrap();
    assert_eq!(values, [vec![4.0; 6], vec![9.0; 6], vec![5.0; 6]].concat());
    let error = "scale=1".parse::<Preprocess>().unwrap().apply(&dataset, &[2, 3, 1]);
    assert!(error.unwrap_err().to_string().contains("image 'c.png': images of 2x4"));
    fs::write(dir.path().join("d.png"), b"\x89PNG not").unwrap();
    let error = read(path, None).unwrap_err().to_string();
    assert!(error.contains("d.png: it is no sound image"), "{error}");
}

#[test]
fn labels_come_from_all_formats() {
    let dir = TempDir::new().unwrap();
    let wide: Vec<u8> = [3i64, 0, 9].iter().flat_map(|v| v.to_le_bytes()).collect();
    let big: Vec<u8> = [3i32, 0, 9].iter().flat_map(|v| v.to_be_bytes()).collect();
    for (name, bytes) in [
        ("l-idx1-ubyte", idx(&[3], &[3, 0, 9])),
        ("l.gz", gzip(&idx(&[3], &[3, 0, 9]))),
        ("l8.npy", npy("<i8", "(3,)", &wide)),
        ("l4.npy", npy(">i4", "(3, 1)", &big)),
        ("u1.npy", npy("|u1", "(3,)", &[3, 0, 9])),
        ("plain.txt", b"3\n0\n9\n".to_vec()),
        ("headed.csv", b"digit\n3\n0\n9\n".to_vec()),
        ("many.csv", b"a,class\n0.5,3\n0.5,0\n0.5,9\n".to_vec()),
    ] {
        let path = write(&dir, name, &bytes);
        assert_eq!(read_labels(&path).unwrap(), [3, 0, 9], "{name}");
    }
    for (name, bytes, part) in [
        ("n.npy", npy("<i8", "(1,)", &(-1i64).to_le_bytes()), "record 1: the label is negative"),
        ("f.npy", npy("<f4", "(1,)", &floats(&[1.0])), "labels must be integers"),
        ("h.npy", npy("<i8", "(1, 10)", &[0; 80]), "labels must be one number a sample"),
        ("t.txt", b"1\n2.5\n".to_vec(), "record 2: label '2.5' is not a class number"),
        ("w.csv", b"a,b\n1,2\n".to_vec(), "none is called label"),
        ("e.txt", b"".to_vec(), "it is empty"),
    ] {
        let error = read_labels(&write(&dir, name, &bytes)).unwrap_err().to_string();
        assert!(error.contains(part), "{name}: {error}");
    }
    assert!(read_labels(dir.path().to_str().unwrap()).unwrap_err().to_string().contains("it is a directory"));
}

#[test]
fn bad_files_name_the_record_and_the_cure() {
    let dir = TempDir::new().unwrap();
    let nan = floats(&[1.0, 2.0, f32::NAN, 4.0]);
    let nested = format!("({}", "(".repeat(3000));
    let mut fortran = npy("<f4", "(2, 2)", &nan);
    let at = fortran.windows(5).position(|w| w == b"False").unwrap();
    fortran[at..at + 5].copy_from_slice(b"True ");
    let huge = idx(&[u32::MAX, u32::MAX, u32::MAX], &[1]);
    for (name, bytes, part) in [
        ("empty.npy", vec![], "it is empty; give a file with at least one sample"),
        ("nan.npy", npy("<f4", "(2, 2)", &nan), "record 2: value 1 is NaN; replace it"),
        ("inf.npy", npy("<f8", "(1, 1)", &1e300f64.to_le_bytes()), "record 1: value 1 is inf"),
        ("cut.npy", npy("<f4", "(3, 2)", &nan), "record 3: the file ends here"),
        ("ints.npy", npy("<i4", "(1, 1)", &[0; 4]), "it holds values of type i4; save it as float32"),
        ("flat.npy", npy("<f4", "(4,)", &nan), "the first axis must be the sample"),
        ("planes.npy", npy("|u1", "(1, 3, 8, 8)", &[0; 192]), "uint8 samples of shape [3, 8, 8] are no images"),
        ("fortran.npy", fortran, "Fortran order"),
        ("none.npy", npy("<f4", "(0, 2)", &[]), "it is empty"),
        ("huge.npy", npy("<f4", "(99999999999, 99999999999)", &[]), "more than 16 GiB"),
        ("nested.npy", npy("<f4", &nested, &[]), "does not describe a plain array"),
        ("junk.npy", b"hello".to_vec(), "the header is cut off"),
        ("cut-idx", idx(&[2, 2, 2], &[1, 2, 3, 4, 5]), "record 2: the file ends here"),
        ("huge-idx", huge, "more than 16 GiB"),
        ("labels-idx", idx(&[2], &[1, 2]), "these are labels; give it with --labels"),
        ("broken.gz", b"\x1f\x8bgarbage".to_vec(), "not properly compressed"),
        ("text.gz", gzip(b"a,b\n1,2\n"), "does not begin like an IDX file"),
        ("cut.bin", vec![0; 3073 + 5], "record 2: it ends after 5 of 3073 bytes"),
        ("label.bin", vec![11; 3073], "label 11 is not one of"),
        ("ragged.csv", b"a,b\n1,2\n1,2,3\n".to_vec(), "record 2: it has 3 cells, the lines before have 2"),
        ("words.csv", b"a,b\n1,red\n".to_vec(), "'red' in column 'b' is not a finite number"),
        ("nan.csv", b"a,b\n1,nan\n".to_vec(), "'nan' in column 'b' is not a finite number"),
        ("gap.csv", b"a,b\n1,\n".to_vec(), "'' in column 'b'"),
        ("bare.csv", b"1,2\n3,4\n".to_vec(), "add a header line"),
        ("head.csv", b"a,b\n".to_vec(), "a header line but no rows"),
        ("two.csv", b"label,class,a\n1,2,3\n".to_vec(), "several columns are called"),
        ("ragged.ndjson", b"[[1,2],[3]]\n".to_vec(), "record 1: an inner array has 1 elements, others 2"),
        ("shape.ndjson", b"[1,2]\n[1,2,3]\n".to_vec(), "record 2: its shape [3] differs from [2]"),
        ("word.ndjson", b"[1,\"a\"]\n".to_vec(), "\"a\" stands where a number"),
        ("nan.ndjson", b"[NaN]\n".to_vec(), "record 1: it is no JSON"),
        ("large.ndjson", b"[1e300]\n".to_vec(), "is beyond float32"),
        ("number.ndjson", b"3\n".to_vec(), "it is no array of numbers"),
        ("deep.ndjson", "[".repeat(100_000).into_bytes(), "it is no JSON"),
        ("what.xyz", b"abcdef".to_vec(), "of no format known here"),
    ] {
        let error = read(&write(&dir, name, &bytes), None).unwrap_err().to_string();
        assert!(error.contains(part), "{name}: {error}");
        assert!(error.contains(name), "{error} does not name the file");
    }
    let empty = TempDir::new().unwrap();
    let error = read(empty.path().to_str().unwrap(), None).unwrap_err().to_string();
    assert!(error.contains("holds no .png, .jpg or .jpeg file"), "{error}");
    assert!(read("/no/such/file", None).unwrap_err().to_string().starts_with("cannot read /no/such/file"));
}

#[test]
fn preprocessing_reads_prints_and_refuses() {
    for text in [
        "scale=1/255 mean=0.5,0.5,0.5 std=0.25,0.5,0.75 layout=nchw resize=28x30",
        "scale=0.3 mean=-1",
        "layout=nhwc",
        "",
    ] {
        let preprocess: Preprocess = text.parse().unwrap();
        assert_eq!(preprocess.to_string(), text);
        assert_eq!(preprocess.is_declared(), !text.is_empty());
        let json = serde_json::to_string(&preprocess).unwrap();
        assert_eq!(serde_json::from_str::<Preprocess>(&json).unwrap(), preprocess);
    }
    for (text, part) in [
        ("scale=0", "not 0"),
        ("scale=1/0", "must be a number or a fraction"),
        ("std=0", "above 0"),
        ("mean=a", "joined by commas"),
        ("resize=28", "HEIGHTxWIDTH"),
        ("resize=0x9999999", "HEIGHTxWIDTH"),
        ("layout=chw", "nchw or nhwc"),
        ("gamma=2", "keys are"),
        ("scale=1 scale=2", "given twice"),
        ("scale", "no KEY=VALUE"),
    ] {
        let error = text.parse::<Preprocess>().unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("write for example"), "{error}");
    }
}

#[test]
fn preprocessing_follows_its_stated_order_and_layout() {
    let dir = TempDir::new().unwrap();
    // Two pixels of three channels.
    let path = write(&dir, "p.npy", &npy("|u1", "(1, 1, 2, 3)", &[0, 51, 102, 153, 204, 255]));
    let dataset = read(&path, None).unwrap();
    let apply = |text: &str, shape: &[usize]| {
        text.parse::<Preprocess>().unwrap().apply(&dataset, shape).map_err(|e| e.to_string())
    };
    let close = |a: Vec<f32>, b: [f32; 6]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    let scaled = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0];
    assert!(close(apply("scale=1/255", &[1, 2, 3]).unwrap(), scaled));
    let planar = [0.0, 0.6, 0.2, 0.8, 0.4, 1.0];
    assert!(close(apply("scale=1/255", &[3, 1, 2]).unwrap(), planar));
    assert!(close(apply("scale=1/255 layout=nchw", &[6]).unwrap(), planar));
    let normal = [-1.0, -0.6, 0.0, 0.2, 0.6, 2.0];
    assert!(close(apply("scale=1/255 mean=0.5,0.5,0.4 std=0.5,0.5,0.3", &[1, 2, 3]).unwrap(), normal));
    assert_eq!(apply("scale=1 resize=4x4", &[4, 4, 3]).unwrap().len(), 48);
    for (text, shape, part) in [
        ("", &[1, 2, 3][..], "declares no preprocessing"),
        ("scale=1", &[6], "could be channels first or last"),
        ("scale=1", &[28, 28, 3], "images of 1x2 with 3 channel(s) do not fit the network's input 28x28x3"),
        ("scale=1 layout=nhwc", &[3, 1, 2], "do not fit"),
        ("scale=1 mean=1,2", &[1, 2, 3], "2 values for mean, the image has 3 channels"),
    ] {
        let error = apply(text, shape).unwrap_err();
        assert!(error.contains(part), "{error}");
    }

    let path = write(&dir, "r.npy", &npy("<f4", "(1, 2, 3)", &floats(&scaled)));
    let raw = read(&path, None).unwrap();
    let declared: Preprocess = "scale=1/255".parse().unwrap();
    assert_eq!(declared.apply(&raw, &[2, 3]).unwrap(), scaled, "raw data stays as it is");
    assert_eq!(declared.apply(&raw, &[6]).unwrap(), scaled);
    for shape in [&[3, 2][..], &[1, 2, 3], &[7]] {
        let error = declared.apply(&raw, shape).unwrap_err().to_string();
        assert!(error.contains("samples of shape [2, 3], the network takes"), "{error}");
    }
}

#[test]
fn the_sample_data_reads() {
    let images = data("mnist-test-1000-images-idx3-ubyte.gz");
    assert_eq!(pixels(images.to_str().unwrap(), None).0, 1000);
    let labels = read_labels(data("mnist-test-1000-labels-idx1-ubyte.gz").to_str().unwrap()).unwrap();
    assert_eq!((labels.len(), &labels[..5]), (1000, &[7, 2, 1, 0, 4][..]));
    let cifar = read(data("cifar10-test-100.bin").to_str().unwrap(), None).unwrap();
    assert_eq!((cifar.count, &cifar.labels.unwrap()[..5]), (100, &[3, 8, 8, 0, 6][..]));
    let error = read(data("ai4i2020-1000.csv").to_str().unwrap(), None).unwrap_err();
    assert!(error.to_string().contains("'M14860' in column 'Product ID'"), "{error}");
}
