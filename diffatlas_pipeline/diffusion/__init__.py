"""Noise levels, denoiser (scaling, parametrisation, loss target), solvers, guidance."""
