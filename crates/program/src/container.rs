//! One sectioned file format for bundles and results: hashed, optionally signed, and read in place from a memory map.
//!
//! The caller gives an eight-byte *kind* that tells bundles from results; this module knows nothing of what sections hold.
//! [`ContainerWriter`] streams sections to a temporary sibling and renames it at the end, so a reader never sees half a file.
//! [`Container::open`] checks the structure, the seal and the signature; [`Container::verify_all`] then checks every remaining
//! byte. After both, one flipped bit anywhere in the file has been detected.
//!
//! # Format, version 1
//!
//! All integers are little-endian. Offsets count from the start of the file.
//!
//! ```text
//! header, 64 bytes
//!   0   8  mark            89 53 52 43 0D 0A 1A 0A   ("\x89SRC\r\n\x1a\n")
//!   8   4  format version  1
//!  12   4  signed          0 or 1: whether a signer block ends the file
//!  16   8  kind            given by the caller
//!  24   8  file length     in bytes, of the whole file
//!  32   8  table offset    T, a multiple of 64
//!  40   4  section count   n, at most 65536
//!  44  20  zero
//! sections, from offset 64
//!   each begins at the next multiple of 64 after the end of the one before; the bytes between are zero
//! table, at T, n entries of 72 bytes, in the order of the sections
//!   0  24  name            1 to 24 printable ASCII bytes without space, zero-padded, unique
//!  24   8  offset
//!  32   8  length          in bytes, may be 0
//!  40  32  SHA-256 of the section's bytes
//! seal, at T + 72 n, 32 bytes
//!       SHA-256("subrosa-container-seal-v1\0" || header || table)
//! signer block, at T + 72 n + 32, 96 bytes, only where signed is 1
//!   0  32  Ed25519 public key of the signer
//!  32  64  Ed25519 signature of "subrosa-container-signature-v1\0" || seal
//! end of file: nothing follows
//! ```
//!
//! The table stands at the end because its size is not known while sections stream out; the header is written last.
//! The signature covers the seal, the seal the header and the table, the table every section by its hash.
//! The seal alone is no protection against a forger, only against damage: whoever needs to know the author asks for
//! [`Container::signer`].
//!
//! Version policy: a reader accepts every version it knows (today only 1) and refuses newer ones with a text that says so.

mod atomic;
mod error;
mod format;
mod map;
mod read;
mod signer;
mod write;

pub use atomic::{Access, AtomicFile, sync_directory};
pub use error::ContainerError;
pub use format::FORMAT_VERSION;
pub use read::Container;
pub(crate) use read::WINDOW;
pub use signer::{Signer, SignerError};
pub use write::{ContainerWriter, FileInfo, SignError, SignFn};

#[cfg(test)]
mod tests;
