//! Settings of the process, made before anything else runs.

/// Keeps freed memory for the next step. By default glibc gives every large buffer back to the system and gets a new one, zeroed page by
/// page, which costs a fifth of the time of a step.
pub(crate) fn keep_large_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code)]
    // SAFETY: mallopt changes settings of the allocator only, under its own lock, with values from its manual; no other thread runs yet.
    // A setting that is refused leaves things as they were.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        libc::mallopt(libc::M_TOP_PAD, 1 << 26);
    }
}

/// Tells candle, whose threads are its own and which asks this variable alone, how many to start.
pub(crate) fn limit_candle_threads(threads: u16) {
    #[allow(unsafe_code)]
    // SAFETY: no other thread runs yet that could read the environment at this moment.
    unsafe {
        std::env::set_var("RAYON_NUM_THREADS", threads.to_string());
    }
}
