//! How a command ends when it does not succeed.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, ErrorKind};

/// An exit code and what to say on standard error.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: Option<String>,
}

impl Failure {
    /// Wrong usage or bad input: exit code 2.
    pub fn usage(message: impl Display) -> Self {
        Self { code: 2, message: Some(message.to_string()) }
    }

    /// The operation failed: exit code 1.
    pub fn failed(message: impl Display) -> Self {
        Self { code: 1, message: Some(message.to_string()) }
    }

    /// Everything was said already, or nobody listens.
    pub fn silent(code: u8) -> Self {
        Self { code, message: None }
    }

    /// An error by what caused it: exit code 1 where the system refused an operation on something that exists (disk full, no
    /// permission, ...), else 2.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(current) = cause {
            if let Some(system) = current.downcast_ref::<io::Error>()
                && !is_about_the_path(system.kind())
            {
                return Self::failed(error);
            }
            cause = current.source();
        }
        Self::usage(error)
    }

    /// The same with a place in front of the message.
    pub fn at(self, place: impl Display) -> Self {
        Self { message: self.message.map(|m| format!("{place}: {m}")), ..self }
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// What to say: at most two lines; `None` if nothing.
    pub fn message(&self) -> Option<String> {
        let message = self.message.as_ref()?;
        let mut lines = message.lines().map(str::trim_end).filter(|l| !l.is_empty());
        let first = lines.next().unwrap_or_default();
        let rest = lines.collect::<Vec<_>>().join(" ");
        Some(if rest.is_empty() { first.to_owned() } else { format!("{first}\n{rest}") })
    }
}

/// Errors that a different path or file cures.
fn is_about_the_path(kind: ErrorKind) -> bool {
    use ErrorKind::{AlreadyExists, InvalidData, InvalidInput, IsADirectory, NotADirectory, NotFound, UnexpectedEof};
    matches!(kind, AlreadyExists | InvalidData | InvalidInput | IsADirectory | NotADirectory | NotFound | UnexpectedEof)
}

/// Writing to standard output failed.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The reader has seen enough; the work is done.
            ErrorKind::BrokenPipe => Self::silent(0),
            _ => Self::failed(format!("cannot write to standard output: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Wrapped(io::Error);

    impl Display for Wrapped {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "outer: {}", self.0)
        }
    }

    impl Error for Wrapped {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn the_exit_code_tells_bad_paths_from_what_the_system_refused() {
        let code = |kind: ErrorKind| Failure::of(&Wrapped(kind.into())).code();
        assert_eq!([ErrorKind::NotFound, ErrorKind::IsADirectory].map(code), [2, 2]);
        assert_eq!([ErrorKind::StorageFull, ErrorKind::PermissionDenied, ErrorKind::TimedOut].map(code), [1, 1, 1]);
        assert_eq!(Failure::of(&std::fmt::Error).code(), 2);
    }

    #[test]
    fn a_message_never_has_more_than_two_lines() {
        let long = Failure::usage("one\n\ntwo\r\nthree\n").at("here");
        assert_eq!(long.message().as_deref(), Some("here: one\ntwo three"));
        let closed = Failure::from(io::Error::from(ErrorKind::BrokenPipe));
        assert_eq!((closed.code(), closed.message()), (0, None));
    }
}
