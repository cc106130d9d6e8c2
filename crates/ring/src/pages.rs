//! Advice to the operating system about memory.

#![allow(unsafe_code, reason = "one system call")]

/// Size of a large page on the systems that have them.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

/// Asks for large pages behind a buffer that is read as a stream: fewer address translations, no stop at each 4 KiB. To be
/// called before the memory is first written. Refusals are ignored, they only cost time.
#[cfg(target_os = "linux")]
pub(crate) fn prefer_large_pages(bytes: &mut [u8]) {
    let skip = bytes.as_ptr().align_offset(LARGE_PAGE);
    let len = bytes.len().saturating_sub(skip) / LARGE_PAGE * LARGE_PAGE;
    if let Some(whole) = bytes.get_mut(skip..).filter(|_| len > 0) {
        // SAFETY: the range lies inside the slice and holds whole pages; the advice does not change their contents.
        unsafe { libc::madvise(whole.as_mut_ptr().cast(), len, libc::MADV_HUGEPAGE) };
    }
}

/// Does nothing: this system chooses its pages itself.
#[cfg(not(target_os = "linux"))]
pub(crate) fn prefer_large_pages(_: &mut [u8]) {}
