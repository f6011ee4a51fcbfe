"""DiffAtlas_generate: new pairs of image and segmentation from a trained joint model."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from diffatlas_pipeline import console
from diffatlas_pipeline.commands import _common
from diffatlas_pipeline.commands._model_choice import add_model_choice, chosen_model


def main(argv: list[str] | None = None) -> None:
    parser = _common.command_parser(
        "Generate new pairs of image and segmentation from a trained joint model, as a raw data set, and compare them with\n"
        "the training cases. Pairs that are there already are kept.",
        "DiffAtlas_generate -d 001 --recipe paper -n 20 -o generated/",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="folder to write to. One named `DatasetXXX_Name` becomes the raw data set; in any other one it is made",
    )
    parser.add_argument(
        "-n",
        "--count",
        type=int,
        default=20,
        metavar="N",
        help="number of pairs, with those that are there (default: %(default)s)",
    )
    parser.add_argument(
        "--shape",
        type=int,
        nargs="+",
        metavar="VOXELS",
        help="voxels along X, Y, Z at the planned spacing (default: the median of the training cases that the model keeps)",
    )
    choice = add_model_choice(parser)
    choice.add_argument("-f", "--fold", dest="folds", metavar="FOLD", help="fold to use (default: the only one)")
    sampling = parser.add_argument_group("how to sample")
    sampling.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="sampling steps; 0 means all T steps of the plan (default: 50, all with another solver)",
    )
    sampling.add_argument("--solver", help="`dpmpp_2m`, `ddpm` or `ddim` (default: `dpmpp_2m`)")
    sampling.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the noise. A pair depends on it and on its own number alone (default: %(default)s)",
    )
    _common.add_device(parser)
    parser.add_argument(
        "--precision",
        default="auto",
        help="`float32`, `bfloat16`, or `auto`: bfloat16 where the device has instructions for it (default: %(default)s)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="generate pairs again that are there already, and delete what lies beyond `--count`",
    )
    _common.add_workspace(parser)
    _common.run(_generate, parser, argv)


def _generate(arguments: argparse.Namespace) -> None:
    from diffatlas_pipeline.api.model import load_model

    model = load_model(
        chosen_model(arguments),
        arguments.device,
        folds=arguments.folds,
        seed=arguments.seed,
        precision=arguments.precision,
    )
    generation = model.prepare_generation(
        arguments.output,
        arguments.count,
        steps=arguments.steps,
        solver=arguments.solver,
        shape=arguments.shape,
        overwrite=arguments.overwrite,
        workspace=arguments.workspace,
    )
    voxels = "x".join(map(str, generation.shape))
    print(
        f"{generation.count} pair(s) of {voxels} voxels, model {model.path} ({model.folds[0]}), {generation.sampler.solver} "
        f"with {generation.steps} step(s), on {model.device}"
    )
    for warning in generation.warnings:
        console.warn(warning)
    done = generation.run()
    if done.made < done.pairs:
        print(f"{done.pairs - done.made} pair(s) were there already and were kept (--overwrite generates them again).")
    if done.page is None:
        print(f"Not compared with training cases: {console.in_words(done.missing)}.")
    else:
        print(f"Compared with the training cases: {done.page}, {done.sheet}, {done.statistics}")
    print(f"{done.made} pair(s) written to {done.folder}")
    print(f"Next: DiffAtlas_plan_and_preprocess -d {shlex.quote(str(done.folder))}{_common.same_workspace(arguments)}")
