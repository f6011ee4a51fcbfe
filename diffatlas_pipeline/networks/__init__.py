"""Noise-conditioned 3-D / 2-D U-Net; knows nothing of diffusion."""
