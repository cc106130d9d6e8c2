//! The time as the registry keeps it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Seconds since 1970.
pub(crate) fn seconds() -> i64 {
    now() / 1000
}
