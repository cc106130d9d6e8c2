//! The edge machine's command line as a library.
