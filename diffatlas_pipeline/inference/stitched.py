"""One network evaluation of a whole volume: windows in batches, blended into one prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from torch import Tensor

from diffatlas_pipeline.errors import ModelError
from diffatlas_pipeline.inference.tiling import importance, windows
from diffatlas_pipeline.volumes.grids import Triple

WindowFunction = Callable[[Tensor], Tensor]


class Stitcher:
    """Runs a window function over all windows of a volume and blends the results with Gaussian weights.

    A solver calls it once per step on the whole-volume state, so neighbouring windows agree while they are generated.
    Windows run on ``device``, where the sums are kept, too. When the device is
    out of memory, the sums move to the CPU, then batches are halved; both decisions stay for the following calls.
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
        self._norms: dict[Triple, Tensor] = {}

    @torch.no_grad()
    def __call__(self, run: WindowFunction, volume: Tensor) -> Tensor:
        """``run`` maps (B, c, *patch) to (B, k, *patch); ``volume`` (c, X, Y, Z) -> (k, X, Y, Z) float32, same device.

        A volume smaller than the patch is padded with its edge values and the result cropped back. A volume that is one
        window is a plain call. ModelError if a single window does not fit into the device's memory.
        """
        x, y, z = volume.shape[1:]
        shape = self._padded((x, y, z))
        if shape != (x, y, z):
            before = [(large - small) // 2 for large, small in zip(shape, (x, y, z), strict=True)]
            box = [[-first, large - first] for first, large in zip(before, shape, strict=True)]
            padded = crop_and_pad_nd(volume, box, pad_mode="replicate")
            inside = [[first, first + size] for first, size in zip(before, (x, y, z), strict=True)]
            return crop_and_pad_nd(self(run, padded), inside)
        starts = windows(shape, self.patch, self.overlap)
        result = self._one(run, volume) if len(starts) == 1 else self._blend(run, volume, starts, shape)
        return result.to(volume.device)

    def _padded(self, shape: Triple) -> Triple:
        x, y, z = (max(size, window) for size, window in zip(shape, self.patch, strict=True))
        return x, y, z

    def _one(self, run: WindowFunction, volume: Tensor) -> Tensor:
        try:
            return run(volume[None].to(self.device))[0].float()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        raise self._too_large()

    def _blend(self, run: WindowFunction, volume: Tensor, starts: Sequence[Triple], shape: Triple) -> Tensor:
        total: Tensor | None = None
        done = 0
        while done < len(starts):
            batch = starts[done : done + self.batch_size]
            failed = False
            try:
                windows_in = torch.stack([volume[self._slices(start)].to(self.device) for start in batch])
                windows_out = run(windows_in).float()
                if total is None:
                    total = torch.zeros((windows_out.shape[1], *shape), device=self.buffer_device)
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
                total[self._slices(start)] += window
            done += len(batch)
        assert total is not None
        return total.div_(self._norm(starts, shape).to(total.device))

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

    def _norm(self, starts: Sequence[Triple], shape: Triple) -> Tensor:
        """Sum of the weights (X, Y, Z): kept for the last shape, since a solver asks for the same one at every step."""
        if shape not in self._norms:
            norm = torch.zeros(shape)
            for start in starts:
                norm[self._slices(start)[1:]] += self._importance
            self._norms = {shape: norm.to(self.buffer_device)}
        return self._norms[shape]

    def _slices(self, start: Triple) -> tuple[slice, ...]:
        return (slice(None), *(slice(first, first + size) for first, size in zip(start, self.patch, strict=True)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device said that its memory is full (CUDA's own exception, or MPS's plain RuntimeError)."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error)
