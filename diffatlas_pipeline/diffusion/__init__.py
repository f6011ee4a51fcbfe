"""Noise levels, denoiser contract (parametrisation), solvers, guidance."""
