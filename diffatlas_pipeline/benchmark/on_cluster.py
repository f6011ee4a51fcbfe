"""Commands of cells as processes of the workers of a cluster."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffatlas_pipeline import cluster
from diffatlas_pipeline.children import ChildrenStopped
from diffatlas_pipeline.cluster import Lost
from diffatlas_pipeline.errors import UserError


class OnCluster:
    """Runs commands as :class:`~diffatlas_pipeline.children.Children` does, by the workers of the cluster of
    ``scheduler``; with ``on_gpu`` each takes one of their GPUs. They see the variables ``environment`` that tell where
    things are.
    """

    def __init__(self, scheduler: str, environment: Mapping[str, str], on_gpu: bool) -> None:
        self._scheduler, self._environment, self._on_gpu = scheduler, dict(environment), on_gpu
        self._stopping = False

    def do(self, command: str, words: Sequence[str], log: Path) -> int:
        """Exit code of ``DiffAtlas_<command> words``; what it prints is added to ``log`` when it has ended.

        ChildrenStopped if told to stop, UserError if the cluster is lost.
        """
        if self._stopping:
            raise ChildrenStopped
        with cluster.on(self._scheduler):
            try:
                ((_, found),) = cluster.run_commands([[command, *words]], self._on_gpu, self._environment)
            except UserError as error:
                if self._stopping:
                    raise ChildrenStopped from error
                raise
        code, text = (1, f"Error: {found.reason}\n") if isinstance(found, Lost) else (found.code, found.text)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {shlex.join([f'DiffAtlas_{command}', *words])}\n{text}")
        return code

    def stop(self) -> None:
        """Wait for none of them any more, and start no more. What a worker is at, it ends."""
        self._stopping = True
        cluster.disconnect()
