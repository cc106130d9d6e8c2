//! The workspace's one memory-mapping module.
#![allow(unsafe_code)] // memmap2's constructor is unsafe: the file could change under the map

use std::{fs::File, io, ops::Range};

/// A file's bytes, mapped read-only and private. Page-aligned, so a section's alignment in the file holds in memory.
pub(super) struct Map(memmap2::Mmap);

impl Map {
    /// Maps the whole of `file`, which must not be empty.
    ///
    /// Another process that writes into the mapped file changes what is read here, and one that cuts it short makes a later
    /// read fail with SIGBUS. Subrosa's own writers never write into a finished file: they rename a new one over it, which
    /// leaves the mapped one untouched.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        // SAFETY: the map is read-only and only ever handed out as `&[u8]`; nothing in this workspace derives a
        // memory-safety property from bytes staying the same between two reads (readers copy what they validate: lengths,
        // offsets and counts are parsed once into owned values), and files are replaced by rename, never rewritten in place.
        unsafe { memmap2::Mmap::map(file) }.map(Self)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Takes the pages of these bytes out of the process's memory; they are read from the file (mostly from the system's cache of it) again
    /// when they are needed. Without effect on other systems than Linux, or where the system refuses.
    pub(super) fn release(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        if range.start <= range.end && range.end <= self.0.len() {
            // SAFETY: of a mapped file that nobody writes through the map, this changes no byte: the next access has the file's contents, as
            // after any eviction by the system.
            let _ =
                unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }
}
