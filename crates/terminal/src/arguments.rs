//! Flags that every command has, and usage errors in at most two lines.

use crate::Failure;
use clap::Parser;
use clap::error::ErrorKind;
use std::ffi::OsString;

/// Heading of flags that every command has.
pub const GLOBAL: &str = "Global options";

/// Flags of every command.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Print one JSON object on standard output and nothing else there
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub json: bool,
    /// Threads to use [default: all cores]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Print only errors (and the JSON object, if asked for)
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub quiet: bool,
    /// Print more about what is done, on standard error
    #[arg(short, long, global = true, help_heading = GLOBAL, conflicts_with = "quiet")]
    pub verbose: bool,
}

impl Flags {
    /// Sets up the global thread pool; called once, before any work.
    ///
    /// # Errors
    /// A pool that the system refuses to start.
    pub fn start_threads(&self) -> Result<(), Failure> {
        let Some(threads) = self.threads else { return Ok(()) };
        rayon::ThreadPoolBuilder::new().num_threads(usize::from(threads)).build_global().map_err(Failure::failed)
    }

    /// Threads in use: `--threads`, else all cores.
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(rayon::current_num_threads, usize::from)
    }
}

/// Reads the command line. Help and version are printed; then, and for usage errors, the result is the [`Failure`] to end with.
pub fn parse<C: Parser>(arguments: impl IntoIterator<Item = OsString>) -> Result<C, Failure> {
    C::try_parse_from(arguments).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Whoever closed the pipe does not want the help.
            let _ = error.print();
            Failure::silent(u8::try_from(error.exit_code()).unwrap_or(2))
        }
        _ => Failure::usage(shortened(&error.to_string())),
    })
}

/// clap's text without its usage lines: the problem in one line, where to read more in another.
fn shortened(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more"));
    let problem = lines.filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
    format!("{}\nFor more information, try '--help'.", problem.strip_prefix("error: ").unwrap_or(&problem))
}
