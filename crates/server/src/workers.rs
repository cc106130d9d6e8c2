//! What a process does besides answering: decrypting, jobs, housekeeping, the watch over labels.

pub(crate) mod decrypt;
pub(crate) mod housekeeping;
pub(crate) mod jobs;
pub(crate) mod watch;
