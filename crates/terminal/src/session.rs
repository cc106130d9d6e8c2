//! One run of a command line: its streams, its single report, its exit code.

use crate::{Bars, Failure, Flags, machine};
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;

/// What the last panic said and where; panics that a library catches itself are never shown.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Runs a command line: prints its failure, turns a panic into one line and exit code 1.
pub fn main(run: impl FnOnce(&mut dyn Write) -> Result<(), Failure>) -> ExitCode {
    std::panic::set_hook(Box::new(remember));
    let mut stdout = io::stdout();
    let ended = catch_unwind(AssertUnwindSafe(|| run(&mut stdout).and_then(|()| Ok(stdout.flush()?))));
    let failure = match ended {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(failure)) => failure,
        Err(_) => {
            let what = PANIC.lock().ok().and_then(|mut last| last.take()).unwrap_or_default();
            Failure::failed(format!("internal error, please report it: {what}"))
        }
    };
    if let Some(message) = failure.message() {
        say(&format!("error: {message}"));
    }
    ExitCode::from(failure.code())
}

fn remember(panic: &PanicHookInfo) {
    let payload = panic.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic");
    let place = panic.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
    if let Ok(mut last) = PANIC.lock() {
        *last = Some(message.replace('\n', " ") + &place);
    }
}

/// A line on standard error; who closed it does not want it.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Where a command's output goes.
pub struct Terminal<'a> {
    out: &'a mut dyn Write,
    flags: Flags,
}

impl<'a> Terminal<'a> {
    /// Reports go to `out`, everything else to standard error.
    pub fn new(out: &'a mut dyn Write, flags: Flags) -> Self {
        Self { out, flags }
    }

    /// The flags of this run.
    pub fn flags(&self) -> &Flags {
        &self.flags
    }

    /// Prints the command's result: one JSON object (with `peak_rss_bytes` added), or its text.
    ///
    /// # Errors
    /// Standard output that cannot be written.
    pub fn report(&mut self, report: &(impl Serialize + Display)) -> Result<(), Failure> {
        if self.flags.json {
            let mut value = serde_json::to_value(report).map_err(Failure::failed)?;
            if let Some(object) = value.as_object_mut() {
                object.insert("peak_rss_bytes".into(), machine::peak_rss_bytes().into());
            }
            writeln!(self.out, "{value}")?;
        } else if !self.flags.quiet {
            writeln!(self.out, "{}", report.to_string().trim_end())?;
        }
        Ok(())
    }

    /// Prints text that is part of the result for people; nothing with `--json`.
    ///
    /// # Errors
    /// Standard output that cannot be written.
    pub fn text(&mut self, text: impl Display) -> Result<(), Failure> {
        if !self.flags.json && !self.flags.quiet {
            writeln!(self.out, "{text}")?;
        }
        Ok(())
    }

    /// Hands what was printed to whoever reads it, where the command goes on.
    ///
    /// # Errors
    /// Standard output that cannot be written.
    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }

    /// Something the user should know, on standard error.
    pub fn warn(&self, text: impl Display) {
        if !self.flags.quiet {
            say(&format!("warning: {text}"));
        }
    }

    /// A remark on standard error.
    pub fn note(&self, text: impl Display) {
        if !self.flags.quiet {
            say(&format!("note: {text}"));
        }
    }

    /// A detail on standard error, with `--verbose` only.
    pub fn detail(&self, text: impl Display) {
        if self.flags.verbose {
            say(&text.to_string());
        }
    }

    /// Progress bars, on a terminal only.
    pub fn bars(&self) -> Bars {
        Bars::new(!self.flags.quiet)
    }
}
