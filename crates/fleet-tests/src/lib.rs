//! End-to-end tests of backend and edge agents as real processes over loopback TLS; see `tests/`.
//!
//! `cargo test --release -p subrosa-fleet-tests -- --ignored` builds the programs and runs them all; what is skipped for want of a component
//! (Debian: nats-server, postgresql, chromium, chromium-driver) is printed as skipped. `SUBROSA_PROGRAMS=DIR` takes the programs from there instead of building them.
