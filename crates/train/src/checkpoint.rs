//! Where training stands, in a file: an interrupted run goes on from the last whole epoch, with the same result.
//!
//! The format is safetensors; the header's metadata hold the log and a description of the run.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde::{Deserialize, Serialize};

use crate::adam::{Adam, Moments};
use crate::error::TrainError;
use crate::model::Array;
use crate::trainer::{Epoch, State};

const FORMAT: &str = "subrosa-checkpoint-1";

#[derive(Serialize, Deserialize)]
struct Header {
    /// Everything the run depends on.
    run: String,
    log: Vec<Epoch>,
    best_epoch: usize,
    best_score: f64,
    steps: u64,
}

/// A file for the states of one run.
pub(crate) struct Checkpoint {
    path: PathBuf,
    run: String,
}

impl Checkpoint {
    /// `run` describes everything the result depends on: only the same run goes on from it.
    pub fn new(path: &Path, run: String) -> Self {
        Checkpoint { path: path.to_owned(), run }
    }

    /// An error about it.
    pub fn wrong(&self, what: impl Into<String>) -> TrainError {
        TrainError::Checkpoint { path: self.path.display().to_string(), what: what.into() }
    }

    fn io(&self, source: std::io::Error) -> TrainError {
        TrainError::Io { path: self.path.display().to_string(), source }
    }

    /// Writes a state: beside the old one first, so that one whole state is there at any time.
    pub fn save(&self, state: &State) -> Result<(), TrainError> {
        let header = Header {
            run: self.run.clone(),
            log: state.log.clone(),
            best_epoch: state.best_epoch,
            best_score: state.best_score,
            steps: state.adam.steps,
        };
        let text = serde_json::to_string(&header).map_err(|e| self.wrong(e.to_string()))?;
        let metadata = [("format".to_owned(), FORMAT.to_owned()), ("state".to_owned(), text)].into();
        let mut arrays: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        let mut put = |name: String, shape: Vec<usize>, values: &[f32]| {
            arrays.push((name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
        };
        for (name, array) in &state.parameters {
            put(format!("now/{name}"), array.shape.clone(), &array.values);
        }
        for (name, array) in &state.best {
            put(format!("best/{name}"), array.shape.clone(), &array.values);
        }
        for (name, moments) in &state.adam.moments {
            put(format!("first/{name}"), vec![moments.first.len()], &moments.first);
            put(format!("second/{name}"), vec![moments.second.len()], &moments.second);
        }
        let mut views = Vec::with_capacity(arrays.len());
        for (name, shape, bytes) in &arrays {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(|e| self.wrong(e.to_string()))?;
            views.push((name.clone(), view));
        }
        let bytes = serialize(views, Some(metadata)).map_err(|e| self.wrong(e.to_string()))?;
        let unwritten = |source| TrainError::Unwritten { path: self.path.display().to_string(), source };
        write_whole(&self.path, &bytes).map_err(unwritten)
    }

    /// The state of this run, `None` if there is no file.
    ///
    /// # Errors
    /// A damaged file; one of another run.
    pub fn load(&self) -> Result<Option<State>, TrainError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io(error)),
        };
        let damaged = |_| self.wrong("it is damaged; delete it to train from the beginning");
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        let metadata = metadata.metadata().clone().unwrap_or_default();
        if metadata.get("format").map(String::as_str) != Some(FORMAT) {
            return Err(self.wrong("it is no checkpoint of this program; give another --checkpoint file"));
        }
        let header: Header = metadata
            .get("state")
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or_else(|| self.wrong("it is damaged; delete it to train from the beginning"))?;
        if header.run != self.run {
            return Err(self.wrong(
                "it is of a run with other data, network or options; repeat those, or delete it to train from the beginning",
            ));
        }
        let tensors = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let mut state = State {
            parameters: BTreeMap::new(),
            adam: Adam { moments: BTreeMap::new(), steps: header.steps },
            best: BTreeMap::new(),
            best_epoch: header.best_epoch,
            best_score: header.best_score,
            log: header.log,
        };
        for (name, view) in tensors.tensors() {
            let values: Vec<f32> =
                view.data().as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
            let array = |values| Array { shape: view.shape().to_vec(), values };
            match name.split_once('/') {
                Some(("now", name)) => drop(state.parameters.insert(name.to_owned(), array(values))),
                Some(("best", name)) => drop(state.best.insert(name.to_owned(), array(values))),
                Some(("first", name)) => moments(&mut state.adam, name).first = values,
                Some(("second", name)) => moments(&mut state.adam, name).second = values,
                _ => return Err(self.wrong("it is damaged; delete it to train from the beginning")),
            }
        }
        Ok(Some(state))
    }

    /// Whether the file is there.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }
}

fn moments<'a>(adam: &'a mut Adam, name: &str) -> &'a mut Moments {
    adam.moments.entry(name.to_owned()).or_default()
}

/// Writes a file wholly or not at all: beside `path`, with `.part` behind its name, and then in its place.
///
/// # Errors
/// Whatever the system refuses; what was at `path` is still there.
pub fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let moved = written.and_then(|()| fs::rename(&part, path));
    if moved.is_err() {
        // What could not be written whole must not stay.
        let _ = fs::remove_file(&part);
    }
    moved
}
