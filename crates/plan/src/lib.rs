//! From a network to a program: packing, levels, ranges, parameters, forecast of error.
