//! Embedding the edge in a program of your own: load a bundle once, answer samples as they come, keep results for the owner.
//!
//! `cargo run --release -p subrosa-edge-agent --example embed -- BUNDLE INPUT RESULTS`

use std::time::Instant;
use subrosa_edge_agent::{EdgeError, Options, Processor};

fn main() -> Result<(), EdgeError> {
    let mut args = std::env::args().skip(1);
    let (Some(bundle), Some(input), Some(results)) = (args.next(), args.next(), args.next()) else {
        eprintln!("usage: embed BUNDLE INPUT RESULTS");
        std::process::exit(2);
    };
    let processor = Processor::load(bundle.as_ref(), &Options::default())?;
    let samples = processor.acquire(&input, Some(20))?;
    let features = processor.features(samples.count, &samples.data)?;
    let mut out = processor.results(results.as_ref())?;
    for (i, sample) in features.chunks(processor.feature_count()).enumerate() {
        let start = Instant::now();
        let prepared = processor.prepare(sample)?;
        let ready = start.elapsed();
        let encrypted = processor.infer(&prepared)?;
        println!("sample {i}: prepared in {ready:.1?}, evaluated blind in {:.1?}", start.elapsed() - ready);
        out.push(processor.parameters(), &encrypted)?;
    }
    out.finish()?;
    Ok(())
}
