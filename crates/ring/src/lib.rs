//! Arithmetic in Z_q[X]/(X^N+1) in RNS form: kernels, NTT, base conversion, samplers.
