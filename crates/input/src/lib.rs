//! Readers for input files and the declared preprocessing.
