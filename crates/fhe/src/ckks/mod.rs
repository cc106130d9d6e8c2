//! CKKS (Cheon-Kim-Kim-Song 2016/421, RNS variant 2018/931): approximate arithmetic on vectors of complex numbers. Its ciphertexts are
//! computed on by [`crate::Evaluator`].

mod encoder;

pub use encoder::Encoder;
