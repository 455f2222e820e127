//! Promises, simulation and cluster tests of Remuda.
