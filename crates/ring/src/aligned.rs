//! Memory for polynomials, aligned to cache lines (and so to the widest vectors).

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use zeroize::Zeroize;

/// Alignment of the first word, in bytes.
const ALIGNMENT: usize = 64;
/// Words reserved in front, so that an aligned start always exists.
const SLACK: usize = ALIGNMENT / size_of::<u64>() - 1;

/// A fixed-length buffer of 64-bit words whose first word starts a 64-byte line.
///
/// It is not wiped on drop: holders of secrets call [`Zeroize::zeroize`].
pub struct AlignedVec {
    /// `len + SLACK` words, never resized, so that `start` stays aligned.
    words: Vec<u64>,
    start: usize,
    len: usize,
}

impl AlignedVec {
    /// A buffer of `len` zero words.
    pub fn zeroed(len: usize) -> Self {
        let words = vec![0u64; len + SLACK];
        let start = aligned_start(&words);
        AlignedVec { words, start, len }
    }
}

/// Index of the first aligned word. `align_offset` may give up only in constant evaluation; the clamp keeps us in bounds even then.
fn aligned_start(words: &[u64]) -> usize {
    words.as_ptr().align_offset(ALIGNMENT).min(SLACK)
}

impl Deref for AlignedVec {
    type Target = [u64];

    #[inline]
    fn deref(&self) -> &[u64] {
        &self.words[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedVec {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u64] {
        &mut self.words[self.start..self.start + self.len]
    }
}

impl Default for AlignedVec {
    fn default() -> Self {
        AlignedVec::zeroed(0)
    }
}

impl Clone for AlignedVec {
    fn clone(&self) -> Self {
        let mut words: Vec<u64> = Vec::with_capacity(self.len + SLACK);
        let start = words.as_ptr().align_offset(ALIGNMENT).min(SLACK);
        words.resize(start, 0);
        words.extend_from_slice(self);
        AlignedVec { words, start, len: self.len }
    }
}

impl PartialEq for AlignedVec {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for AlignedVec {}

impl Zeroize for AlignedVec {
    /// Overwrites all words with zeros; the length stays.
    fn zeroize(&mut self) {
        self.words.as_mut_slice().zeroize();
    }
}

thread_local! {
    /// Scratch buffers of this thread, reused so that transforms do not allocate.
    static SCRATCH: RefCell<Vec<AlignedVec>> = const { RefCell::new(Vec::new()) };
}

/// Lends `len` words of this thread's scratch memory, contents unspecified. Calls may nest.
pub(crate) fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [u64]) -> R) -> R {
    let mut buffer = SCRATCH.with(|pool| pool.borrow_mut().pop()).unwrap_or_default();
    if buffer.len() < len {
        buffer.zeroize();
        buffer = AlignedVec::zeroed(len);
    }
    let result = work(&mut buffer[..len]);
    SCRATCH.with(|pool| pool.borrow_mut().push(buffer));
    result
}

/// Overwrites this thread's scratch memory with zeros: call it after work on secrets, whose transforms leave traces there.
pub fn wipe_scratch() {
    SCRATCH.with(|pool| pool.borrow_mut().iter_mut().for_each(Zeroize::zeroize));
}
