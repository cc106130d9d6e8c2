//! What a process does besides answering: decrypting, jobs, housekeeping.

pub(crate) mod decrypt;
pub(crate) mod housekeeping;
pub(crate) mod jobs;
