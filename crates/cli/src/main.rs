//! The owner's command line: one module for each of its stories, the work itself is in the libraries.

mod agents;
mod arguments;
mod audit;
mod bench;
mod decrypt;
mod demo;
mod failure;
mod hand_over;
mod home;
mod inspect;
mod keys;
mod plan;
mod protect;
mod registry;
mod samples;

use arguments::{Arguments, Command};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use subrosa_terminal::{Failure, Terminal};

fn main() -> ExitCode {
    subrosa_terminal::main(|out| run(std::env::args_os(), out))
}

fn run(arguments: impl IntoIterator<Item = OsString>, out: &mut dyn Write) -> Result<(), Failure> {
    let Arguments { mut flags, home, command } = subrosa_terminal::parse(arguments)?;
    if let Command::Bench { .. } = command {
        // Figures are for one core unless more are asked for.
        flags.threads = flags.threads.or(Some(1));
    }
    if let Command::Bench { what: arguments::Bench::Edge { arguments } } = command {
        return subrosa_edge::run(std::iter::once(OsString::from("subrosa-edge")).chain(arguments), out);
    }
    match command {
        Command::Train { arguments } => return hand_over::TRAIN.hand_over(&flags, None, arguments),
        Command::Serve { arguments } => return hand_over::SERVE.hand_over(&flags, Some(&home), arguments),
        _ => {}
    }
    flags.start_threads()?;
    let mut terminal = Terminal::new(out, flags);
    let terminal = &mut terminal;
    match command {
        // Handed over above.
        Command::Train { .. } | Command::Serve { .. } => Ok(()),
        Command::Inspect(wanted) => inspect::inspect(terminal, &home, &wanted),
        Command::Protect(wanted) => protect::protect(terminal, &home, &wanted),
        Command::Models => registry::models(terminal, &home),
        Command::Show { id } => registry::show(terminal, &home, &id),
        Command::Remove { id } => registry::remove(terminal, &home, &id),
        Command::Deploy { id, out } => agents::deploy(terminal, &home, &id, &out),
        Command::Decrypt(wanted) => decrypt::decrypt(terminal, &home, &wanted),
        Command::Audit { command, last } => audit::audit(terminal, &home, command.as_ref(), last),
        Command::Verify { id, input, labels, limit, trace } => {
            agents::verify(terminal, &home, &id, (&input, labels.as_deref(), limit), trace)
        }
        Command::Demo { model, images, fleet } => demo::demo(terminal, model, images, fleet),
        Command::Keys { command } => keys::keys(terminal, &home, &command),
        Command::Identity { out } => keys::identity(terminal, &home, out.as_deref()),
        Command::Bench { what } => bench::bench(terminal, &home, &what),
    }
}
