//! Memory for polynomials, aligned to cache lines (and so to the widest vectors).

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};
use zeroize::Zeroize;

/// Alignment of the first word, in bytes.
const ALIGNMENT: usize = 64;
/// Words reserved in front, so that an aligned start always exists.
const SLACK: usize = ALIGNMENT / size_of::<u64>() - 1;

/// A fixed-length buffer of 64-bit words whose first word starts a 64-byte line.
///
/// It is not wiped on drop, and its memory is used again: holders of secrets call [`Zeroize::zeroize`].
pub struct AlignedVec {
    /// `len + SLACK` words or more, never resized, so that `start` stays aligned.
    words: Vec<u64>,
    start: usize,
    len: usize,
}

impl AlignedVec {
    /// A buffer of `len` zero words.
    pub fn zeroed(len: usize) -> Self {
        match Self::reused(len) {
            Some(mut buffer) => {
                buffer.fill(0);
                buffer
            }
            None => Self::fresh(len),
        }
    }

    /// A buffer of `len` words with unspecified contents: zeros, or what an earlier buffer left.
    pub fn unspecified(len: usize) -> Self {
        Self::reused(len).unwrap_or_else(|| Self::fresh(len))
    }

    fn fresh(len: usize) -> Self {
        let words = vec![0u64; len + SLACK];
        let start = aligned_start(&words);
        AlignedVec { words, start, len }
    }

    /// A buffer that was dropped, if one fits without wasting more than half of it.
    fn reused(len: usize) -> Option<Self> {
        if len < LEAST_KEPT {
            return None;
        }
        let words = FREE.lock().unwrap_or_else(PoisonError::into_inner).take(len + SLACK)?;
        let start = aligned_start(&words);
        Some(AlignedVec { words, start, len })
    }
}

impl Drop for AlignedVec {
    /// Keeps the memory for a later buffer.
    fn drop(&mut self) {
        if self.words.len() >= LEAST_KEPT {
            let words = std::mem::take(&mut self.words);
            FREE.lock().unwrap_or_else(PoisonError::into_inner).put(words);
        }
    }
}

/// Words from which on a buffer is worth keeping: allocators give larger ones back to the system at once, and touching
/// fresh pages costs more than the arithmetic done on them.
const LEAST_KEPT: usize = 1 << 12;
/// Words that are kept at most: 64 MiB.
const MOST_KEPT: usize = 1 << 23;

/// The process's free buffers. One list for all threads: what one thread makes, another often drops.
static FREE: Mutex<FreeBuffers> = Mutex::new(FreeBuffers { buffers: Vec::new(), words: 0 });

/// Buffers that were dropped, the latest last: it is the likeliest to be in the caches still.
struct FreeBuffers {
    buffers: Vec<Vec<u64>>,
    words: usize,
}

impl FreeBuffers {
    fn take(&mut self, len: usize) -> Option<Vec<u64>> {
        let index = self.buffers.iter().rposition(|words| (len..2 * len).contains(&words.len()))?;
        let words = self.buffers.remove(index);
        self.words -= words.len();
        Some(words)
    }

    fn put(&mut self, words: Vec<u64>) {
        while self.words + words.len() > MOST_KEPT && !self.buffers.is_empty() {
            self.words -= self.buffers.remove(0).len();
        }
        if words.len() <= MOST_KEPT {
            self.words += words.len();
            self.buffers.push(words);
        }
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
        let mut copy = Self::unspecified(self.len);
        copy.copy_from_slice(self);
        copy
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
