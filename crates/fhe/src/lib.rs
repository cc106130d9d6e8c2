//! RLWE core and CKKS: parameters, keys for evaluation, encoding, blind evaluation, noise forecast, wire format.
