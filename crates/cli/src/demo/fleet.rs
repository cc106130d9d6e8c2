//! `demo --fleet`: a backend and two edge agents as processes on loopback, two streams of samples, their labels as they arrive.

mod backend;

use super::story::Story;
use super::{Reference, random_text, top};
use crate::failure::{failure, io};
use crate::hand_over;
use crate::samples::OnBars;
use backend::{Api, Process};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use subrosa_input::{Dataset, Preprocess, Samples, read_bytes};
use subrosa_network::{Network, Scope};
use subrosa_owner::{Owner, ProtectRequest};
use subrosa_plain::PlainNetwork;
use subrosa_registry::{OwnerIdentity, Passphrase, Vault};
use subrosa_terminal::{Failure, Terminal, text};

const MACHINES: &[u8] = include_bytes!("../../../../models/ai4i-mlp.onnx");
const ROWS: &[u8] = include_bytes!("../../../../models/ai4i-mlp.test.csv");
/// Time between two samples of a stream.
const BEAT: Duration = Duration::from_millis(20);
/// Longest wait for the next result.
const PATIENCE: Duration = Duration::from_secs(60);
/// Results of each stream that are shown.
const SHOWN: usize = 8;

/// One stream: an edge agent, the network it runs, what that network answers in plaintext.
struct Stream {
    /// Name of network and group.
    name: &'static str,
    samples: Dataset,
    expected: Vec<usize>,
    edge: PathBuf,
}

/// What the demo saw.
#[derive(Serialize)]
struct FleetReport {
    devices: usize,
    streams: Vec<StreamReport>,
    results: usize,
    duplicates: usize,
    audit_intact: bool,
    seconds: f64,
}

#[derive(Serialize)]
struct StreamReport {
    name: &'static str,
    samples: usize,
    released: usize,
    /// Share whose decrypted class is that of the network in plaintext.
    agreement: f64,
}

/// Runs the demo with this many digits, and as many sensor rows, up to all there are.
pub(super) fn demo(terminal: &mut Terminal, place: &Path, story: &Story, reference: &Reference) -> Result<(), Failure> {
    let start = Instant::now();
    let (serve, edge) = (hand_over::SERVE.place(), hand_over::EDGE.place());
    let home = place.join("home");
    let secret = random_text()?;
    let passphrase = Passphrase::new(secret.clone()).map_err(failure)?;
    let streams = streams(terminal, place, &home, &passphrase, (story, reference))?;

    let mut command = Command::new(&serve);
    command.args(["--json", "--quiet", "--listen", "127.0.0.1:0", "--home"]).arg(&home);
    command.env("SUBROSA_PASSPHRASE", &secret);
    let (_backend, ready) = Process::start_and_read(command, "subrosa-serve", &place.join("serve.log"))?;
    let api = Api::new(&ready, &home)?;
    terminal.text(format!("backend  serves on {} (TLS, a certificate of its own)", api.url()))?;
    let mut agents = Vec::new();
    for stream in &streams {
        api.post("/deployments", &json!({"group": stream.name, "model": stream.name}))?;
        let token = api.post("/tokens", &json!({"group": stream.name}))?;
        write(&stream.edge.join("token"), token["token"].as_str().unwrap_or_default().as_bytes())?;
        write(&stream.edge.join("edge.toml"), configuration(stream.name, api.url(), api.certificate())?.as_bytes())?;
        let mut command = Command::new(&edge);
        command.args(["run", "edge.toml", "--quiet"]).current_dir(&stream.edge).stdout(Stdio::null());
        agents.push(Process::start(command, "subrosa-edge", &stream.edge.join("log"))?);
        terminal.text(format!("edge     enrols as edge-{0}, to run '{0}'", stream.name))?;
    }
    let classes = follow(terminal, &api, &streams)?;
    let chain = api.get("/audit/verify")?;
    // The agents first, so that nothing is delivered to nobody.
    for agent in agents {
        agent.end()?;
    }
    let reports: Vec<StreamReport> = streams.iter().map(|stream| stream.report(&classes)).collect();
    terminal.report(&FleetReport {
        devices: streams.len(),
        results: classes.len(),
        duplicates: classes.values().map(|seen| seen.times - 1).sum(),
        audit_intact: chain["intact"] == true,
        seconds: start.elapsed().as_secs_f64(),
        streams: reports,
    })
}

/// A decrypted class, and how many results told it.
struct Seen {
    class: usize,
    times: usize,
}

/// By name of the stream and number of the sample.
type Classes = BTreeMap<(String, usize), Seen>;

/// Protects both networks and prepares both agents' directories.
fn streams(
    terminal: &Terminal,
    place: &Path,
    home: &Path,
    passphrase: &Passphrase,
    (story, reference): (&Story, &Reference),
) -> Result<Vec<Stream>, Failure> {
    let owner = Owner::open(home).map_err(failure)?;
    let vault = Vault::create_or_open(home, passphrase).map_err(failure)?;
    let identity = OwnerIdentity::load_or_create(&vault).map_err(failure)?;
    let rows = read_bytes("ai4i.csv", ROWS, None).map_err(failure)?;
    let count = reference.original.len().min(rows.count / 2);
    let mut digits = reference.images.clone();
    digits.labels = None;
    let machines = part(&rows, rows.count.saturating_sub(count), count);
    let (onnx, network) = (story.onnx, Network::from_onnx(MACHINES).map_err(failure)?);
    let inputs = Preprocess::default().apply(&machines, network.input_shape()).map_err(failure)?;
    let plain = PlainNetwork::load(MACHINES, terminal.flags().threads())
        .map_err(|e| failure(subrosa_owner::OwnerError::from(e)))?;
    let scores = plain.run(machines.count, &inputs).map_err(|e| failure(subrosa_owner::OwnerError::from(e)))?;
    let expected =
        scores.chunks(plain.output_len().max(1)).map(|s| top(&s.iter().map(|&x| f64::from(x)).collect::<Vec<_>>()));
    // Temperatures drift from row to row: ranges must come from all of them, or the edge refuses what leaves them.
    let machine_calibration = part(&rows, 0, rows.count);
    let mut out = Vec::new();
    for (name, onnx, scope, preprocess, calibration, samples, expected) in [
        (
            "digits",
            onnx,
            story.scope.clone(),
            Some(story.preprocess.parse().map_err(failure)?),
            &reference.calibration,
            digits,
            reference.original.clone(),
        ),
        ("machines", MACHINES, Scope::All, None, &machine_calibration, machines, expected.collect()),
    ] {
        let request =
            ProtectRequest { scope, preprocess, calibrate: Some(calibration), ..ProtectRequest::new(onnx, name) };
        owner.protect(&request, &vault, &OnBars(terminal.bars())).map_err(failure)?;
        let edge = place.join(name);
        std::fs::create_dir_all(edge.join("in")).map_err(io("create", &edge))?;
        write(&edge.join("owner.pub"), identity.signer().to_file_text("").as_bytes())?;
        out.push(Stream { name, samples, expected, edge });
    }
    Ok(out)
}

/// Hands a sample to each agent at every beat, and shows results as they arrive, until all are there.
fn follow(terminal: &mut Terminal, api: &Api, streams: &[Stream]) -> Result<Classes, Failure> {
    terminal.text("\nlabels as the owner decrypts them:\n")?;
    let total: usize = streams.iter().map(|s| s.samples.count).sum();
    let (mut classes, mut next, mut after) = (Classes::new(), 0, None);
    let mut last = Instant::now();
    while classes.len() < total {
        for stream in streams {
            stream.hand_in(next)?;
        }
        next += 1;
        std::thread::sleep(BEAT);
        // Every tenth beat is soon enough to look.
        if next % 10 != 0 {
            continue;
        }
        for result in api.released(&mut after)? {
            last = Instant::now();
            let Some(stream) = streams.iter().find(|s| result.label.starts_with(&format!("{} ", s.name))) else {
                continue;
            };
            let Some(index) = result.label.split([' ', '.']).nth(1).and_then(|i| i.parse::<usize>().ok()) else {
                continue;
            };
            let seen = classes.entry((stream.name.to_owned(), index)).or_insert(Seen { class: result.class, times: 0 });
            seen.times += 1;
            if index < SHOWN && seen.times == 1 {
                let expected = stream.expected.get(index).copied().unwrap_or_default();
                let (name, class) = (stream.name, result.class);
                terminal.text(format!("  {name:9} {index:3}  ->  {class}   (in plaintext: {expected})"))?;
            }
        }
        if last.elapsed() > PATIENCE {
            let found = classes.len();
            return Err(Failure::failed(format!("only {found} of {total} results arrived, and none for a minute")));
        }
    }
    terminal.text("  ...")?;
    Ok(classes)
}

impl Stream {
    /// Puts a sample into the agent's watched directory, whole at once.
    fn hand_in(&self, index: usize) -> Result<(), Failure> {
        let Some(bytes) = self.samples.sample(index).and_then(|sample| sample.to_npy()) else { return Ok(()) };
        let place = self.edge.join("in");
        let (part, whole) = (place.join("sample.part"), place.join(format!("{} {index:04}.npy", self.name)));
        write(&part, &bytes)?;
        std::fs::rename(&part, &whole).map_err(io("write", &whole))
    }

    fn report(&self, classes: &Classes) -> StreamReport {
        let own = classes.iter().filter(|((name, _), _)| name == self.name);
        let right = own.clone().filter(|((_, index), seen)| self.expected.get(*index) == Some(&seen.class)).count();
        let released = own.count();
        let agreement = right as f64 / released.max(1) as f64;
        StreamReport { name: self.name, samples: self.samples.count, released, agreement }
    }
}

/// So many samples from one on.
fn part(data: &Dataset, from: usize, count: usize) -> Dataset {
    let samples = match &data.samples {
        Samples::Raw { shape, data } => {
            let size: usize = shape.iter().product();
            let data = data.get(from * size..(from + count) * size).unwrap_or_default().to_vec();
            Samples::Raw { shape: shape.clone(), data }
        }
        other => other.clone(),
    };
    Dataset { count, samples, labels: None, names: None }
}

fn configuration(name: &str, url: &str, certificate: &Path) -> Result<String, Failure> {
    let certificate = serde_json::to_string(certificate).map_err(Failure::failed)?;
    Ok(format!(
        "name = \"edge-{name}\"\nstate = \"state\"\n\n[backend]\nurl = \"{url}\"\nca = {certificate}\ntrust = \"owner.pub\"\n\
         token_file = \"token\"\npoll_seconds = 1\nstatus_seconds = 1\nretry_max_seconds = 2\n\n\
         [[source.directory]]\npath = \"in\"\nscan_seconds = 0.1\nsettle_seconds = 0.02\nafter = \"delete\"\n"
    ))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes).map_err(io("write", path))
}

impl fmt::Display for FleetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for stream in &self.streams {
            let StreamReport { name, samples, released, agreement } = stream;
            let agreement = text::percent(*agreement);
            writeln!(f, "{name:9} {released} of {samples} samples answered, {agreement} as in plaintext")?;
        }
        let audit = if self.audit_intact { "intact" } else { "BROKEN: please report it" };
        let (results, seconds) = (self.results, text::seconds(self.seconds));
        write!(f, "{results} results, {} of them twice; audit log {audit}; {seconds} in all", self.duplicates)
    }
}
