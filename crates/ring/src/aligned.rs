//! Memory for polynomials, aligned to cache lines (and so to the widest vectors).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
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
        if words.len() >= LEAST_KEPT {
            free_buffers().made(words.len());
        }
        let start = aligned_start(&words);
        AlignedVec { words, start, len }
    }

    /// A buffer that was dropped, if one fits without wasting more than half of it.
    fn reused(len: usize) -> Option<Self> {
        if len < LEAST_KEPT {
            return None;
        }
        let words = free_buffers().take(len + SLACK)?;
        let start = aligned_start(&words);
        Some(AlignedVec { words, start, len })
    }
}

impl Drop for AlignedVec {
    /// Keeps the memory for a later buffer.
    fn drop(&mut self) {
        if self.words.len() >= LEAST_KEPT {
            let words = std::mem::take(&mut self.words);
            free_buffers().put(words);
        }
    }
}

/// Words from which on a buffer is worth keeping: allocators give larger ones back to the system at once, and touching
/// fresh pages costs more than the arithmetic done on them.
const LEAST_KEPT: usize = 1 << 12;
/// Words that are kept in any case: 64 MiB.
const ALWAYS_KEPT: usize = 1 << 23;

/// The process's free buffers. One list for all threads: what one thread makes, another often drops.
static FREE: Mutex<FreeBuffers> =
    Mutex::new(FreeBuffers { buffers: VecDeque::new(), words: 0, in_use: 0, most_in_use: 0 });

/// Gives the memory of dropped buffers back: for processes that go on after work that needed much.
pub fn release_free_buffers() {
    let mut free = free_buffers();
    free.most_in_use = free.in_use;
    let buffers = std::mem::take(&mut free.buffers);
    free.words = 0;
    drop(free);
    drop(buffers);
}

fn free_buffers() -> MutexGuard<'static, FreeBuffers> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Buffers that were dropped, the latest last: it is the likeliest to be in the caches still. They are kept as long as, with those in use,
/// they take no more than was in use at the same time before: so the process never needs more memory than without them.
struct FreeBuffers {
    buffers: VecDeque<Vec<u64>>,
    /// Words in `buffers`.
    words: usize,
    /// Words in buffers that could be kept.
    in_use: usize,
    most_in_use: usize,
}

impl FreeBuffers {
    /// A new buffer was made.
    fn made(&mut self, words: usize) {
        self.used(words);
        self.shrink();
    }

    fn used(&mut self, words: usize) {
        self.in_use += words;
        self.most_in_use = self.most_in_use.max(self.in_use);
    }

    fn take(&mut self, len: usize) -> Option<Vec<u64>> {
        let index = self.buffers.iter().rposition(|words| (len..2 * len).contains(&words.len()))?;
        let words = self.buffers.remove(index)?;
        self.words -= words.len();
        self.used(words.len());
        Some(words)
    }

    fn put(&mut self, words: Vec<u64>) {
        self.in_use = self.in_use.saturating_sub(words.len());
        self.words += words.len();
        self.buffers.push_back(words);
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.words > ALWAYS_KEPT.max(self.most_in_use - self.in_use) {
            let Some(oldest) = self.buffers.pop_front() else { return };
            self.words -= oldest.len();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn free() -> FreeBuffers {
        FreeBuffers { buffers: VecDeque::new(), words: 0, in_use: 0, most_in_use: 0 }
    }

    #[test]
    fn as_much_is_kept_as_was_in_use_at_once() {
        let mut free = free();
        let many = 4 * ALWAYS_KEPT / LEAST_KEPT;
        (0..many).for_each(|_| free.made(LEAST_KEPT));
        (0..many).for_each(|_| free.put(vec![0; LEAST_KEPT]));
        assert_eq!((free.words, free.in_use, free.most_in_use), (4 * ALWAYS_KEPT, 0, 4 * ALWAYS_KEPT));
        // A new buffer of another size takes the place of kept ones.
        free.made(3 * ALWAYS_KEPT);
        assert_eq!((free.words, free.in_use), (ALWAYS_KEPT, 3 * ALWAYS_KEPT));
        free.put(vec![0; 3 * ALWAYS_KEPT]);
        assert_eq!(free.words, 4 * ALWAYS_KEPT);
        assert!(free.take(3 * ALWAYS_KEPT).is_some() && free.take(3 * ALWAYS_KEPT).is_none());
        assert_eq!((free.words, free.in_use), (ALWAYS_KEPT, 3 * ALWAYS_KEPT));
    }

    #[test]
    fn little_is_kept_in_any_case() {
        let mut free = free();
        free.made(LEAST_KEPT);
        free.put(vec![0; LEAST_KEPT]);
        assert!(free.take(2 * LEAST_KEPT).is_none() && free.take(LEAST_KEPT / 2).is_none());
        // What is taken counts as in use, however little was made.
        assert_eq!(free.take(LEAST_KEPT).map(|words| words.len()), Some(LEAST_KEPT));
        assert_eq!((free.words, free.in_use, free.most_in_use), (0, LEAST_KEPT, LEAST_KEPT));
    }
}
