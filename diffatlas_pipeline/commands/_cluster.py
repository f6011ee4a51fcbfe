"""A command shared out among the workers of a cluster, each of which runs it for a part of the work."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from diffatlas_pipeline import cluster, console
from diffatlas_pipeline.cluster import Lost
from diffatlas_pipeline.errors import UserError

PARTS_PER_SLOT = 2  # so that a worker that is done early finds more to do
_SAID = re.compile(r"^(?:Error|Warning): .*(?:\n  .+)*", re.MULTILINE)
_WRITTEN = re.compile(r"^(\d+) segmentation\(s\) written to", re.MULTILINE)
_USER, _SOME_FAILED = 2, 1  # exit codes


def predict_in_parts(words: Sequence[str], on_gpu: bool) -> None:
    """``DiffAtlas_predict words``, in parts. UserError if a part was lost; exits with the worst code of the parts."""
    count = PARTS_PER_SLOT * cluster.slots()
    lines = [["predict", *_here(words), "--num-parts", str(count), "--part-id", str(index)] for index in range(count)]
    texts = _run(lines, [f"part {index} of {count}" for index in range(count)], "Segmenting", "parts", on_gpu)
    print(f"{sum(int(found) for text in texts for found in _WRITTEN.findall(text))} segmentation(s) written in {count} parts")


def train_folds(words: Sequence[str], named: str, folds: Sequence[str], on_gpu: bool) -> None:
    """``DiffAtlas_train words``, which name ``named``, with each of ``folds`` in its place."""
    places = (named, f"--split={named}")
    lines = [["train", *(w.replace(named, fold) if w in places else w for w in _here(words))] for fold in folds]
    _run(lines, folds, "Training", "folds", on_gpu)


def _here(words: Sequence[str]) -> list[str]:
    """``words`` without the cluster, as a worker is to run them."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--scheduler")
    return parser.parse_known_args(list(words))[1]


def _run(lines: Sequence[Sequence[str]], names: Sequence[str], title: str, unit: str, on_gpu: bool) -> list[str]:
    """What each printed. Warnings and errors are shown; exits with the worst code that is not 0."""
    texts, worst, lost = [], 0, []
    with console.bar(title, len(lines), unit) as bar:
        for index, found in cluster.run_commands(lines, on_gpu):
            if isinstance(found, Lost):
                lost.append(f"{names[index]}: {found.reason}")
                continue
            texts.append(found.text)
            for said in dict.fromkeys(_SAID.findall(found.text)):
                print(said, file=sys.stderr)
            if found.code not in (0, _SOME_FAILED, _USER):
                print(f"{names[index]} ended with code {found.code}. It said:\n{found.text}", file=sys.stderr)
            worst = max(worst, abs(found.code))
            bar.advance()
    if lost:
        raise UserError(f"{' '.join(lost)} The others are done. Run the same command again: what is finished is kept.")
    if worst:
        sys.exit(worst)
    return texts
