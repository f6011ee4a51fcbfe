"""What a network may predict (noise, velocity or clean data), and how each is turned into clean data.

With z = a z0 + b eps (a = signal, b = noise, a^2 + b^2 = 1): epsilon predicts eps (Ho et al. 2020, Eq. 14), x0 predicts z0, and
v predicts a eps - b z0 (Salimans & Ho 2022, section 4).
"""

from __future__ import annotations

from torch import Tensor

from diffatlas_pipeline.diffusion.levels import noise, signal

PREDICTIONS = ("epsilon", "v", "x0")
_SMALLEST_SIGNAL = 1e-3  # epsilon prediction divides by the signal, which vanishes at level 1


def target_of(prediction: str, clean: Tensor, eps: Tensor, level: Tensor) -> Tensor:
    """What the network's output should be. All tensors broadcast; ``level`` per sample and channel, say (B, c, 1, 1, 1)."""
    if prediction == "epsilon":
        return eps
    if prediction == "x0":
        return clean
    if prediction == "v":
        return signal(level) * eps - noise(level) * clean
    raise ValueError(f"prediction '{prediction}' is unknown; known: {', '.join(PREDICTIONS)}")


def clean_of(prediction: str, output: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
    """The clean data that a network's ``output`` for ``noisy`` at ``level`` stands for; the inverse of :func:`target_of`."""
    if prediction == "epsilon":
        return (noisy - noise(level) * output) / signal(level).clamp_min(_SMALLEST_SIGNAL)
    if prediction == "x0":
        return output
    if prediction == "v":
        return signal(level) * noisy - noise(level) * output
    raise ValueError(f"prediction '{prediction}' is unknown; known: {', '.join(PREDICTIONS)}")
