"""Radially averaged power spectra of images and distance maps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import fft

from diffatlas_pipeline.planning.fingerprint import PowerSpectrum

BINS = 64
HIGHEST_FREQUENCY = np.sqrt(0.75)  # cycles/voxel, the corner of a 3-D spectrum


@dataclass(frozen=True)
class RadialPower:
    """Summed power (BINS,) and number of coefficients (BINS,) of one or more arrays; partial sums add up."""

    power: np.ndarray
    count: np.ndarray

    def __add__(self, other: RadialPower) -> RadialPower:
        return RadialPower(self.power + other.power, self.count + other.count)


def no_power() -> RadialPower:
    return RadialPower(np.zeros(BINS), np.zeros(BINS))


def radial_power(array: np.ndarray) -> RadialPower:
    """Power of ``array`` (X, Y, Z) per wave number, its mean removed, by an orthonormal Fourier transform.

    White noise of variance 1 has power 1 in every bin. Axes of one voxel carry no frequency (2-D images).
    """
    centred = np.asarray(array, dtype=np.float32) - np.float32(np.mean(array, dtype=np.float64))
    power = np.abs(fft.fftn(centred, norm="ortho")) ** 2
    axes = [np.fft.fftfreq(n) ** 2 for n in array.shape]
    frequency = np.sqrt(axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :])
    index = np.minimum((frequency * (BINS / HIGHEST_FREQUENCY)).astype(np.int64), BINS - 1).ravel()
    power.flat[0] = 0.0
    counts = np.bincount(index, minlength=BINS).astype(np.float64)
    counts[0] -= 1  # the mean is no frequency
    return RadialPower(np.bincount(index, weights=power.ravel(), minlength=BINS), counts)


def power_spectrum(parts: Iterable[RadialPower]) -> PowerSpectrum:
    """The spectrum of all ``parts`` together; empty bins are left out. ValueError when there is no coefficient at
    all.
    """
    total = sum(parts, start=no_power())
    filled = total.count > 0
    if not filled.any():
        raise ValueError("no Fourier coefficient to average")
    centres = (np.arange(BINS) + 0.5) * HIGHEST_FREQUENCY / BINS
    power = total.power[filled] / total.count[filled]
    weight = total.count[filled] / total.count.sum()
    return PowerSpectrum(_rounded(centres[filled]), _rounded(power), _rounded(weight))


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    """Ten digits: readable, and equal on machines whose Fourier transforms differ in the last bit."""
    return tuple(float(f"{value:.10g}") for value in values)
