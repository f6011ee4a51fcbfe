"""nnU-Net's trainer, ended by wall-clock time. benchmarks.nnunet copies this file into nnU-Net's own environment."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

try:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
except ModuleNotFoundError:  # outside that environment only the learning rate is looked at
    nnUNetTrainer = object

SECONDS, THREADS = "DIFFATLAS_NNUNET_SECONDS", "DIFFATLAS_NNUNET_THREADS"  # environment variables
SUMMARY = "training.json"
EXPONENT = 0.9


def learning_rate(initial: float, elapsed: float, limit: float) -> float:
    """nnU-Net's polynomial decay, initial · (1 − t)^0.9, with t the share of the time ``limit`` (s) in place of the
    share of the epochs.
    """
    return initial * max(0.0, 1 - elapsed / limit) ** EXPONENT


class nnUNetTrainerByTime(nnUNetTrainer):
    """Trains for a number of seconds with all of nnU-Net's defaults, and writes ``checkpoint_final.pth``.

    The clock starts with the first iteration, when data and network are ready. There are no epochs and no validation.
    """

    dataloader_val: Any

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> torch.nn.Module:
        """As nnU-Net's own. Its commands take a thread for each core of the machine; this takes those it was given."""
        torch.set_num_threads(int(os.environ[THREADS]))
        return nnUNetTrainer.build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )

    def run_training(self) -> None:
        limit = float(os.environ[SECONDS])
        self.on_train_start()
        self.dataloader_val._finish()  # its processes would go on taking the cores
        self.dataloader_val = None
        self.network.train()
        losses: list[float] = []
        start = time.monotonic()
        while not losses or time.monotonic() - start < limit:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.initial_lr, time.monotonic() - start, limit)
            losses.append(float(self.train_step(next(self.dataloader_train))["loss"]))
        seconds = time.monotonic() - start
        self.current_epoch = 1
        self.on_train_end()
        self._summarise(losses, seconds)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Nothing: test cases are predicted afterwards."""

    def _summarise(self, losses: list[float], seconds: float) -> None:
        """``training.json`` beside the checkpoint; losses are means of up to ten iterations."""
        unit = 1 if sys.platform == "darwin" else 1024
        on_cuda = self.device.type == "cuda"
        summary = {
            "iterations": len(losses),
            "seconds": round(seconds, 1),
            "seconds_per_iteration": round(seconds / len(losses), 4),
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3),
            "peak_gpu_gb": round(torch.cuda.max_memory_allocated() / 1e9, 3) if on_cuda else None,
            "batch": self.batch_size,
            "patch": " x ".join(map(str, self.configuration_manager.patch_size)),
            "first_loss": round(sum(losses[:10]) / len(losses[:10]), 4),
            "last_loss": round(sum(losses[-10:]) / len(losses[-10:]), 4),
        }
        (Path(self.output_folder) / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


class nnUNetTrainerByTimeNoMirroring(nnUNetTrainerByTime):
    """Never mirrors, neither in training nor in prediction: for structures that differ between left and right."""

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, Any, Any, None]:
        *others, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return (*others, None)
