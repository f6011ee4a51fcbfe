"""DiffAtlas_train: train one fold of a planned data set; goes on by itself after an interruption."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffatlas_pipeline.commands import _common
from diffatlas_pipeline.commands._cluster import train_folds
from diffatlas_pipeline.commands._ranks import are_started, run_ranks, silent_followers
from diffatlas_pipeline.errors import UserError

if TYPE_CHECKING:
    from diffatlas_pipeline.datasets.workspace import Workspace
    from diffatlas_pipeline.training.job import TrainingOutcome
    from diffatlas_pipeline.training.options import TrainingOptions


def main(argv: list[str] | None = None) -> None:
    parser = _common.command_parser(
        "Train a model on one fold of a planned data set. A training that was interrupted goes on where it stopped.",
        "DiffAtlas_train 001 fold0 --max-time 30m",
    )
    parser.add_argument("dataset", help="data set: number, folder name or path")
    parser.add_argument(
        "fold",
        nargs="?",
        help="`fold0` ... `fold4` (or `0` ... `4`); `all-folds`, each of them in turn, with the mean Dice of all held-out "
        "cases at the end; `all`, one model of all cases; or another name in the splits file (default: `--split`)",
    )
    parser.add_argument(
        "--recipe",
        default="default",
        help="`default`, which every method has; of `diffatlas` and `icmd` also `paper`, the published method, and "
        "`paper-noise`, with noise as output, for [plans of a GPU](../explanation/method.md#what-the-network-predicts); "
        "of `rba` also `affine`, `majority` and `staple`, [other ways to register and to "
        "fuse](../explanation/compared-methods.md), each a model of its own; or, but for `rba`, one that you added to "
        "`plans.json` (default: %(default)s)",
    )
    parser.add_argument(
        "--method",
        default="diffatlas",
        help="[what to train](../explanation/compared-methods.md): `diffatlas`, `icf` (feed-forward), `icmd` (mask diffusion), "
        "`rba` (registered atlases, no training) or `mean` (mean distance map, no training) (default: %(default)s)",
    )
    parser.add_argument(
        "--any-contrast",
        action="store_true",
        help="also learn from contrasts synthesised from the labels, for [scans of other "
        "modalities](../how-to/other-modality.md) or sequences. The recipe is then called `any-contrast`, or "
        "`paper-any-contrast`",
    )
    parser.add_argument(
        "--given-labels",
        action="store_true",
        help="also learn to [complete what a reader has drawn](../how-to/annotate.md): parts of slices, or some of the "
        "structures; slices drawn whole are followed by every model. The recipe is then called `given-labels`, "
        "`paper-given-labels` or `any-contrast-given-labels`",
    )
    parser.add_argument(
        "--low-resolution",
        action="store_true",
        help="train the network that finds the structures in [large scans](../how-to/large-scans.md), where there is a second "
        "plan for it; it lies in the folder of the other",
    )
    parser.add_argument(
        "--max-time",
        metavar="TIME",
        help="train for this long (`90s`, `30m`, `2h`, or plain seconds) instead of the planned iterations. Sampled "
        "validations within the training count; segmenting the validation fold at the end does not",
    )
    parser.add_argument(
        "--iterations",
        type=int,
        metavar="N",
        help="train for N iterations. Together with `--max-time`: whichever ends first (default: from the plan)",
    )
    parser.add_argument(
        "--num-cases",
        type=int,
        metavar="K",
        help="use only K of the fold's training cases, drawn with `--seed`. The fold is then called `fold0_4cases` (default: "
        "all)",
    )
    parser.add_argument(
        "--split", metavar="NAME", help="a split named in the splits file; another way to give the argument `fold`"
    )
    parser.add_argument(
        "--unlabelled-from",
        metavar="NAME",
        help="the scans without labels to use: the training cases of this split that neither train nor validate, without "
        "their labels (default: those of `imagesUn`)",
    )
    parser.add_argument(
        "--num-unlabelled", type=int, metavar="N", help="use only N of them, drawn with `--seed` (default: all)"
    )
    parser.add_argument(
        "--teacher",
        metavar="FOLD",
        help="let this trained fold of the same model label [the scans without labels](../how-to/unlabelled-scans.md), and "
        "train on these, too",
    )
    parser.add_argument(
        "--registrations",
        type=Path,
        metavar="FOLDER",
        help="keep what the teacher's registration of training scans finds in this folder, and use what is there: students "
        "of several seeds need it once. The labels are the same",
    )
    parser.add_argument(
        "--init-from",
        type=Path,
        metavar="MODEL",
        help="a trained model to begin with, of the same method: its folder, a zip file of it, or the folder of one of its "
        "folds. Labels and channels are matched by name, [others begin "
        "afresh](../how-to/few-labels.md#begin-with-another-model) (default: random weights)",
    )
    parser.add_argument(
        "--splits-file", type=Path, metavar="FILE", help="use the splits of this JSON file (default: the planned ones)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of weights, batches, noise, and of the choice of `--num-cases`. With another one than 0 the fold is "
        "called `fold0_seed1`, so that trainings with different seeds lie side by side (default: %(default)s)",
    )
    _common.add_device(parser)
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        metavar="N",
        help="train by N processes, each with a GPU, or with `--device cpu` with its share of the cores, that "
        "[share each batch](../how-to/gpu-and-cluster.md#several-gpus-for-one-training) (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that prepare batches; 0 prepares them in the training process (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="`float32`, `bfloat16`, or `auto`: the faster one, as measured. A resumed training keeps what it began with "
        "(default: %(default)s)",
    )
    parser.add_argument("--compile", action="store_true", help="use `torch.compile`; what cannot be compiled runs as usual")
    parser.add_argument(
        "--no-validation",
        action="store_true",
        help="do not segment the validation cases, neither during training nor at the end",
    )
    parser.add_argument("--overwrite", action="store_true", help="start again, deleting what this fold has")
    _common.add_scheduler(parser)
    _common.add_workspace(parser)
    words = sys.argv[1:] if argv is None else argv
    _common.run(lambda arguments: _train(arguments, words), parser, argv)


def _train(arguments: argparse.Namespace, words: Sequence[str]) -> None:
    from diffatlas_pipeline.training.cross_validation import check_processes, run_trainings

    if arguments.num_gpus < 1:
        raise UserError(f"`num_gpus` {arguments.num_gpus}: must be at least 1.")
    options, workspace = _options(arguments), _common.workspace_of(arguments)
    if arguments.num_gpus > 1 and not are_started():
        check_processes(options, workspace, arguments.num_gpus)
        run_ranks("train", words, arguments.num_gpus, arguments.device == "cpu")
        return
    if arguments.scheduler:
        _train_on_cluster(options, workspace, words)
    with silent_followers():
        _say_what_is_next(run_trainings(options, workspace))


def _train_on_cluster(options: TrainingOptions, workspace: Workspace, words: Sequence[str]) -> None:
    """All folds at a time, as far as the cluster has room."""
    from diffatlas_pipeline.training.cross_validation import ALL_FOLDS, check_processes, folds_of

    if options.fold != ALL_FOLDS:
        raise UserError(f"`scheduler`: a cluster trains several folds at a time: give {ALL_FOLDS} instead of {options.fold}.")
    check_processes(options, workspace, 1)
    folds = [str(one.fold) for one in folds_of(options, workspace)]
    train_folds(words, ALL_FOLDS, folds, on_gpu=options.device.startswith("cuda"))


def _options(arguments: argparse.Namespace) -> TrainingOptions:
    if arguments.split and arguments.fold and arguments.split != arguments.fold:
        raise UserError(f"The argument '{arguments.fold}' and --split {arguments.split} name two splits. Give one of them.")

    from diffatlas_pipeline.training.options import TrainingOptions
    from diffatlas_pipeline.training.schedule import seconds_of

    return TrainingOptions(
        dataset=arguments.dataset,
        fold=arguments.split or arguments.fold,
        method=arguments.method,
        recipe=arguments.recipe,
        any_contrast=arguments.any_contrast,
        given_labels=arguments.given_labels,
        low_resolution=arguments.low_resolution,
        max_time_s=seconds_of(arguments.max_time) if arguments.max_time else None,
        iterations=arguments.iterations,
        num_cases=arguments.num_cases,
        splits_file=arguments.splits_file,
        unlabelled_from=arguments.unlabelled_from,
        num_unlabelled=arguments.num_unlabelled,
        teacher=arguments.teacher,
        registrations=arguments.registrations,
        init_from=arguments.init_from,
        seed=arguments.seed,
        device=arguments.device,
        workers=arguments.workers,
        precision=arguments.precision,
        compile=arguments.compile,
        validation=not arguments.no_validation,
        overwrite=arguments.overwrite,
    )


def _say_what_is_next(trained: Sequence[TrainingOutcome]) -> None:
    from diffatlas_pipeline.datasets.workspace import LOW_RESOLUTION
    from diffatlas_pipeline.training.job import WHOLE

    first, *others = trained
    if others:
        print(f"Next: DiffAtlas_predict -i INPUT_FOLDER -o OUTPUT_FOLDER -m {first.whole} (it averages all folds)")
        return
    made = first
    if made.was_trained:
        print(f"{made.model / made.fold} is trained already. Use --overwrite to train it again.")
    if made.lacks == LOW_RESOLUTION:
        print("It sees little of a scan at a time. Train --low-resolution, too: prediction is much faster with it.")
    if made.lacks == WHOLE:
        print("Next: the same command without --low-resolution")
        return
    if made.was_trained:
        print("Next: DiffAtlas_predict -i INPUT -o OUTPUT")
        return
    if made.better_with_atlases:
        print("It has learnt from few cases: --with-atlases is likely to segment better, and takes longer.")
    print(f"Next: DiffAtlas_predict -i INPUT_FOLDER -o OUTPUT_FOLDER -m {made.whole} -f {made.fold}")
