"""The denoiser: what a network is shown of a noisy state, what its output stands for, and what that is compared with.

The state at a level is z = a z0 + b eps with a = cos(pi/2 level), b = sin(pi/2 level), a^2 + b^2 = 1 (Eq. 1). A network
may predict the noise eps (Ho et al. 2020, Eq. 14), the clean data z0, or the velocity v = a eps - b z0 (Salimans & Ho
2022, section 4). Given z, each of the three tells the other two, so the error of one that the network does not put out
is that of its output times a weight. Scaling of the input, parametrisation of the output and target of the loss belong
together, as in Karras et al. 2022, Eq. 7 and 8.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffatlas_pipeline.diffusion.levels import noise, signal
from diffatlas_pipeline.fields import at_least, one_of

PREDICTIONS = ("epsilon", "v", "x0")
ERRORS = ("output", *PREDICTIONS)
INPUT_SCALINGS = ("none", "signal")
_LARGEST_WEIGHT = 5.0  # of an error that the output tells, as in Hang et al. 2023 (min-SNR), section 3.4
_SMALLEST_SIGNAL = 1e-3  # epsilon prediction divides by the signal, which vanishes at level 1


@dataclass(frozen=True)
class Objective:
    """What a network of masks learns.

    ``prediction``: its output is the noise ("epsilon"), the velocity ("v") or the clean state ("x0"). ``error``: the
    squared error is that of the output, or of the noise, velocity or clean state that the output tells, by a weight of
    at most 5.
    ``input_scaling``: it is shown the state as it is ("none"), or times cos(pi/2 level) ("signal"), so that pure noise
    becomes silence. ``segmentation_weight`` is the weight of cross-entropy + soft Dice of the labels decoded from the
    predicted distances, beside the squared error.
    """

    prediction: str = field(default="x0", metadata=one_of(*PREDICTIONS))
    input_scaling: str = field(default="none", metadata=one_of(*INPUT_SCALINGS))
    segmentation_weight: float = field(default=0.0, metadata=at_least(0))
    error: str = field(default="output", kw_only=True, metadata=one_of(*ERRORS))


@dataclass(frozen=True)
class JointObjective(Objective):
    """What a network of images and masks learns: ``image_weight`` is the weight of the image's squared error."""

    image_weight: float = field(default=1.0, metadata=at_least(0))


class Denoiser:
    """How a network denoises by an :class:`Objective`.

    States are (B, c, X, Y, Z); ``level`` broadcasts against them, with one level per sample and channel: (B, c, 1, 1,
    1).
    """

    def __init__(self, objective: Objective) -> None:
        self.prediction = objective.prediction
        self.input_scaling = objective.input_scaling
        self.measured = objective.prediction if objective.error == "output" else objective.error

    def seen(self, noisy: Tensor, level: Tensor) -> Tensor:
        """What the network is shown of a ``noisy`` state.

        With "signal" it is, but for a constant, the best linear guess at a clean state of unit variance: a z.
        """
        return noisy * signal(level) if self.input_scaling == "signal" else noisy

    def clean(self, output: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        """The clean state that the network's ``output`` for ``noisy`` stands for; the inverse of :meth:`target`."""
        if self.prediction == "epsilon":
            return (noisy - noise(level) * output) / signal(level).clamp_min(_SMALLEST_SIGNAL)
        if self.prediction == "v":
            return signal(level) * noisy - noise(level) * output
        return output

    def target(self, clean: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        """What the network's output should be for the state made of ``clean`` data and noise ``eps``."""
        if self.prediction == "epsilon":
            return eps
        if self.prediction == "v":
            return signal(level) * eps - noise(level) * clean
        return clean

    def error(self, output: Tensor, clean: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        """Mean squared error of each sample and channel (B, c): Eq. 6 before its mean over channels."""
        off = (output - self.target(clean, eps, level)).square().mean(dim=(2, 3, 4))
        return off if self.measured == self.prediction else off * self._weight(level)[:, :, 0, 0, 0]

    def _weight(self, level: Tensor) -> Tensor:
        """Squared error of what is measured, per squared error of the output: eps = (z - a z0) / b, v = (a z - z0) /
        b.
        """
        a, b = (part.square().clamp_min(_SMALLEST_SIGNAL**2) for part in (signal(level), noise(level)))
        of_clean = {"x0": torch.ones_like(a), "epsilon": b / a, "v": b}  # error of the clean state per error of each
        return (of_clean[self.prediction] / of_clean[self.measured]).clamp(max=_LARGEST_WEIGHT)
