"""One network evaluation of a whole volume: windows in batches, blended into one prediction, row by row."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from torch import Tensor

from diffatlas_pipeline.diffusion.solvers import Parts
from diffatlas_pipeline.errors import ModelError
from diffatlas_pipeline.inference.tiling import importance, windows
from diffatlas_pipeline.methods.base import Stitch, Volumes, WindowFunction
from diffatlas_pipeline.scratch import EVERYTHING, IN_MEMORY, release
from diffatlas_pipeline.volumes.grids import Triple


class Stitcher(Stitch):
    """Runs a window function over all windows of a volume and blends the results with Gaussian weights.

    A solver calls it once per step on the whole-volume state, so neighbouring windows agree while they are generated.
    Windows that begin at the same plane across the first axis are a row. When a row has run, nothing more is added to
    the planes before the next one: so sums are kept of one row only, whatever the size of the volume. Windows run on
    ``device``, where the sums are kept, too. When the device is out of memory, the sums move to the CPU, then batches
    are halved; both decisions stay for the following calls.
    """

    def __init__(
        self,
        patch: Triple,
        overlap: float = 0.5,
        batch_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}: must be at least 1")
        self.patch = patch
        self.overlap = overlap
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.buffer_device = self.device
        self._importance = importance(patch)
        self.scratch = IN_MEMORY

    def __call__(self, run: WindowFunction, volume: Volumes) -> Tensor:
        """``run`` maps (B, c, *patch) to (B, k, *patch); ``volume`` (c, X, Y, Z) -> (k, X, Y, Z) float32, same device.

        A volume smaller than the patch is padded with its edge values and the result cropped back. A volume that is one
        window is a plain call. ModelError if a single window does not fit into the device's memory.
        """
        found: Tensor | None = None
        for where, part in self.rows(run, volume):
            if where == EVERYTHING:
                return part
            if found is None:
                found = self.scratch.empty((len(part), *_all(volume)[0].shape[1:])).to(part)
            found[where] = part
            release()
        assert found is not None
        return found

    def rows(self, run: WindowFunction, volume: Volumes) -> Parts:
        """:meth:`__call__`, but each part as soon as it is known: where it lies, and what is found there. ``volume``
        may be changed there then.
        """
        volumes = _all(volume)
        x, y, z = volumes[0].shape[1:]
        if (shape := self._padded((x, y, z))) != (x, y, z):
            yield EVERYTHING, self._of_padded(run, volumes, shape)
            return
        starts = windows(shape, self.patch, self.overlap)
        if len(starts) == 1:
            yield EVERYTHING, self._one(run, _joined(volumes)).to(volumes[0].device)
            return
        rows = [list(row) for _, row in itertools.groupby(starts, key=lambda start: start[0])]
        ends = [*(row[0][0] for row in rows[1:]), x]
        sums: Tensor | None = None
        norm = torch.zeros((0, y, z))
        for row, end in zip(rows, ends, strict=True):
            first = row[0][0]
            sums, norm = self._row(run, volumes, row, sums, norm)
            done = end - first
            yield (slice(None), slice(first, end)), (sums[:, :done] / norm[:done].to(sums.device)).to(volumes[0].device)
            sums, norm = sums[:, done:], norm[done:]

    def _padded(self, shape: Triple) -> Triple:
        x, y, z = (max(size, window) for size, window in zip(shape, self.patch, strict=True))
        return x, y, z

    def _of_padded(self, run: WindowFunction, volumes: tuple[Tensor, ...], shape: Triple) -> Tensor:
        sizes = volumes[0].shape[1:]
        before = [(large - small) // 2 for large, small in zip(shape, sizes, strict=True)]
        box = [[-first, large - first] for first, large in zip(before, shape, strict=True)]
        padded = crop_and_pad_nd(_joined(volumes), box, pad_mode="replicate")
        inside = [[first, first + size] for first, size in zip(before, sizes, strict=True)]
        return crop_and_pad_nd(self(run, padded), inside)

    @torch.no_grad()
    def _one(self, run: WindowFunction, volume: Tensor) -> Tensor:
        try:
            return run(volume[None].to(self.device))[0].float()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        raise self._too_large()

    @torch.no_grad()
    def _row(
        self, run: WindowFunction, volumes: tuple[Tensor, ...], row: Sequence[Triple], before: Tensor | None, norm: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weighted sums (k, x, Y, Z) of the windows of a ``row`` and of what those ``before`` left there, and the sums
        (x, Y, Z) of their weights.
        """
        wide = (self.patch[0], *volumes[0].shape[2:])
        weights = torch.zeros(wide)
        weights[: len(norm)] = norm
        total = None if before is None else _longer(before, wide)
        done = 0
        while done < len(row):
            batch = row[done : done + self.batch_size]
            failed = False
            try:
                windows_in = torch.stack([self._window(volumes, start) for start in batch])
                windows_out = run(windows_in).float()
                if total is None:
                    total = torch.zeros((windows_out.shape[1], *wide), device=self.buffer_device)
                weighted = (windows_out * self._importance.to(windows_out.device)).to(self.buffer_device)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                failed = True  # handled outside: the exception keeps the failed call's tensors alive
            if failed:
                total = self._use_less_memory(total)
                continue
            assert total is not None
            for start, window in zip(batch, weighted, strict=True):
                within = self._slices((0, *start[1:]))
                total[within] += window
                weights[within[1:]] += self._importance
            done += len(batch)
        assert total is not None
        return total, weights

    def _window(self, volumes: tuple[Tensor, ...], start: Triple) -> Tensor:
        return _joined([volume[self._slices(start)] for volume in volumes]).to(self.device)

    def _use_less_memory(self, total: Tensor | None) -> Tensor | None:
        if self.buffer_device.type != "cpu":
            self.buffer_device = torch.device("cpu")
        elif self.batch_size > 1:
            self.batch_size = max(1, self.batch_size // 2)
        else:
            raise self._too_large()
        moved = None if total is None else total.to(self.buffer_device)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return moved

    def _too_large(self) -> ModelError:
        size = "x".join(str(n) for n in self.patch)
        return ModelError(f"One window of {size} voxels does not fit into the memory of '{self.device}'. Use `device='cpu'`.")

    def _slices(self, start: Triple) -> tuple[slice, ...]:
        return (slice(None), *(slice(first, first + size) for first, size in zip(start, self.patch, strict=True)))


def _all(volume: Volumes) -> tuple[Tensor, ...]:
    return volume if isinstance(volume, tuple) else (volume,)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The channels of all ``parts``; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat([*parts])


def _longer(sums: Tensor, wide: Triple) -> Tensor:
    """``sums`` (k, x, Y, Z) followed by zeros, (k, *wide)."""
    made = sums.new_zeros((len(sums), *wide))
    made[:, : sums.shape[1]] = sums
    return made


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device said that its memory is full (CUDA's own exception, or MPS's plain RuntimeError)."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error)
