"""DiffAtlas_train: train one fold of a planned data set; goes on by itself after an interruption."""

from __future__ import annotations

import argparse
from pathlib import Path

from diffatlas_pipeline.commands import _common
from diffatlas_pipeline.errors import UserError


def main(argv: list[str] | None = None) -> None:
    parser = _common.command_parser(
        "Train a model on one fold of a planned data set. A training that was interrupted goes on where it stopped.",
        "DiffAtlas_train 001 fold0 --max-time 30m",
    )
    parser.add_argument("dataset", help="data set number, name or path")
    parser.add_argument(
        "fold",
        nargs="?",
        help="fold0 ... fold4 (or 0 ... 4), all-folds for each of them, all for one model of all "
        "cases, or a split named in splits.json",
    )
    parser.add_argument(
        "--recipe",
        default="default",
        help="default; of diffatlas and icmd also paper (the published method) and paper-noise; of rba also affine, majority, "
        "staple; or one of your own in plans.json (default: %(default)s)",
    )
    parser.add_argument(
        "--method",
        default="diffatlas",
        help="diffatlas, icf (feed-forward), icmd (mask diffusion), rba (registered atlases) or mean (default: %(default)s)",
    )
    parser.add_argument(
        "--any-contrast",
        action="store_true",
        help="learn from contrasts synthesised from the labels, too, for scans of other modalities or sequences",
    )
    parser.add_argument(
        "--given-labels",
        action="store_true",
        help="learn to complete what a reader has drawn, too: some slices, or some of the structures",
    )
    parser.add_argument(
        "--max-time", metavar="TIME", help="train for this long, e.g. 90s, 30m, 2h, instead of the planned iterations"
    )
    parser.add_argument("--iterations", type=int, metavar="N", help="train for N iterations instead of the planned number")
    parser.add_argument("--num-cases", type=int, metavar="K", help="use only K of the fold's training cases, drawn with --seed")
    parser.add_argument("--split", metavar="NAME", help="a split named in splits.json; another way to give the argument fold")
    parser.add_argument(
        "--unlabelled-from",
        metavar="NAME",
        help="the scans without labels to use: this split's training cases, as images only (default: those of imagesUn)",
    )
    parser.add_argument("--num-unlabelled", type=int, metavar="N", help="use only N of them, drawn with --seed")
    parser.add_argument(
        "--teacher", metavar="FOLD", help="let this trained fold label the scans without labels, and train on these, too"
    )
    parser.add_argument(
        "--registrations",
        type=Path,
        metavar="FOLDER",
        help="keep what the teacher's registration finds in this folder, and use what is there: for several seeds",
    )
    parser.add_argument(
        "--init-from",
        type=Path,
        metavar="MODEL",
        help="begin with the weights of this trained model (a folder, a zip file, or the folder of one fold) instead of random "
        "ones; labels are matched by name",
    )
    parser.add_argument(
        "--splits-file", type=Path, metavar="FILE", help="use the splits of this JSON file instead of the planned ones"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, batches and noise (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that prepare batches (default: %(default)s)"
    )
    parser.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="auto: what is faster here (default)"
    )
    parser.add_argument("--compile", action="store_true", help="use torch.compile; falls back to eager where it fails")
    parser.add_argument("--no-validation", action="store_true", help="do not segment the validation cases")
    parser.add_argument("--overwrite", action="store_true", help="start again, deleting what this fold has")
    _common.add_workspace(parser)
    _common.run(_train, parser, argv)


def _train(arguments: argparse.Namespace) -> None:
    if arguments.split and arguments.fold and arguments.split != arguments.fold:
        raise UserError(f"The argument '{arguments.fold}' and --split {arguments.split} name two splits. Give one of them.")

    from diffatlas_pipeline.training.cross_validation import run_trainings
    from diffatlas_pipeline.training.options import TrainingOptions
    from diffatlas_pipeline.training.schedule import seconds_of

    options = TrainingOptions(
        dataset=arguments.dataset,
        fold=arguments.split or arguments.fold,
        method=arguments.method,
        recipe=arguments.recipe,
        any_contrast=arguments.any_contrast,
        given_labels=arguments.given_labels,
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
    first, *others = run_trainings(options, _common.workspace_of(arguments))
    if others:
        print(f"Next: DiffAtlas_predict -i INPUT_FOLDER -o OUTPUT_FOLDER -m {first.model} (it averages all folds)")
        return
    made = first
    if made.was_trained:
        print(f"{made.model / made.fold} is trained already. Use --overwrite to train it again.")
        print("Next: DiffAtlas_predict -i INPUT -o OUTPUT")
        return
    if made.better_with_atlases:
        print("It has learnt from few cases: --with-atlases is likely to segment better, and takes longer.")
    print(f"Next: DiffAtlas_predict -i INPUT_FOLDER -o OUTPUT_FOLDER -m {made.model} -f {made.fold}")
