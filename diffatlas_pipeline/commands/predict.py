"""DiffAtlas_predict: segment new scans with a trained model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffatlas_pipeline import console
from diffatlas_pipeline.commands import _common
from diffatlas_pipeline.commands._cluster import predict_in_parts
from diffatlas_pipeline.commands._model_choice import add_model_choice, chosen_model
from diffatlas_pipeline.errors import UserError

if TYPE_CHECKING:
    from diffatlas_pipeline.api.folder_prediction import FolderPrediction, FolderResult
    from diffatlas_pipeline.api.model import Model


def main(argv: list[str] | None = None) -> None:
    parser = _common.command_parser(
        "Segment scans with a trained model. The segmentations lie on exactly the scans' own grids, named as the cases.\n"
        "Cases whose output is there already are kept.",
        "DiffAtlas_predict -i scans/ -o segmentations/",
    )
    parser.add_argument(
        "-i",
        "--input",
        type=Path,
        nargs="+",
        required=True,
        help="folder of scans named `case.nii.gz` or `case_0000.nii.gz` ([several channels](dataset-format.md#files): "
        "`_0000`, `_0001`, ...), or of DICOM series [in folders of any depth](../how-to/dicom-and-nrrd.md#dicom-in); a "
        "file; a list of files; or several of these. A list is a `.txt` file with a name a line, or a `.csv` file with "
        "a column `image`; names are relative to it. Channels that a scan lacks [are "
        "generated](../how-to/missing-channel.md) by models that have learnt to",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="folder for the segmentations; of one scan also [a file](predict.md#label-files), such as `single.nii.gz`",
    )
    _add_model_and_sampling(parser)
    parser.add_argument(
        "--given-labels",
        type=Path,
        metavar="FOLDER",
        help="folder of what a reader has drawn of some scans, named as the cases (of one scan also a file): label values, 0 "
        "for background, 255 where nobody has looked. It is kept, and the rest is [fitted to "
        "it](../how-to/annotate.md). Any model follows whole slices; one trained with `--given-labels` all that is drawn",
    )
    parser.add_argument(
        "--modality",
        metavar="CT|MRI",
        help="what the scans are, `CT` or `MRI`, if not what the model was trained on. Without it the headers of DICOM "
        "series [are believed](../how-to/foreign-scans.md#the-header-is-believed) (default: as trained)",
    )
    parser.add_argument(
        "--adapt-contrast",
        choices=("auto", "atlases", "curve", "off"),
        default="auto",
        help="give each scan [the contrast of training scans](../how-to/other-modality.md) that the model keeps: `atlases` "
        "by registering them to it, `curve` by a curve of intensities; `off` leaves it as it is. `auto` means `atlases` "
        "if `--modality` says that the scans are of a kind that the model has not learnt, else `off` (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--with-atlases",
        action=argparse.BooleanOptionalAction,
        help="late fusion: average the network's distance maps with those of the kept training cases, registered to the "
        "scan. [Better with few labels](../how-to/few-labels.md), slower (default: on with `--adapt-contrast atlases`, "
        "else off)",
    )
    parser.add_argument(
        "--registrations",
        type=Path,
        metavar="FOLDER",
        help="keep what the registration of training scans finds in this folder, and use what is there: several models with "
        "the same training scans need it once. The results are the same, and the seconds in `prediction.json` are those "
        "of the first time",
    )
    parser.add_argument(
        "--save-distance-maps", action="store_true", help="also write the signed distances in mm, one file per label"
    )
    parser.add_argument(
        "--save-uncertainty",
        action="store_true",
        help="also write how probable an error is [at each voxel](../how-to/uncertainty.md#the-label-of-a-voxel)",
    )
    parser.add_argument(
        "--save-probabilities",
        action="store_true",
        help="also write [the probabilities of all labels](predict.md#probabilities), one `.npz` per case",
    )
    parser.add_argument(
        "--no-postprocessing",
        action="store_true",
        help="leave out the [post-processing](predict.md#post-processing) that was chosen on validation cases",
    )
    parser.add_argument(
        "--save-generated-channels",
        action="store_true",
        help="also write the [channels that were missing](../how-to/missing-channel.md), as they were generated",
    )
    parser.add_argument(
        "--save-reconstruction",
        action="store_true",
        help="also write each scan [as the model makes it](../how-to/foreign-scans.md#see-where) from noise, and what is "
        "left of it",
    )
    parser.add_argument(
        "--dicom",
        nargs="+",
        choices=("seg", "rtstruct"),
        help="also write segmentations of DICOM series [as DICOM objects](dicom-output.md) that refer to these: voxels "
        "(`seg`), contours (`rtstruct`), or both",
    )
    parser.add_argument(
        "--statistics", action="store_true", help="also write the volumes of all cases as [a table](predict.md#label-files)"
    )
    _common.add_device(parser)
    parser.add_argument(
        "--precision",
        default="auto",
        help="`float32`, `bfloat16`, or `auto`: bfloat16 where the device has instructions for it (default: %(default)s)",
    )
    parser.add_argument(
        "--max-memory",
        type=float,
        metavar="GB",
        help="take at most so much memory; what does not fit is kept [in files](predict.md#large-scans) (default: all)",
    )
    parser.add_argument(
        "--no-low-resolution",
        action="store_true",
        help="segment scans as a whole, though the model has learnt to [look for the structures at low "
        "resolution](../how-to/large-scans.md) first",
    )
    parser.add_argument("--overwrite", action="store_true", help="segment cases again whose output is there already")
    _add_parts(parser)
    _common.add_scheduler(parser)
    _common.add_workspace(parser)
    words = sys.argv[1:] if argv is None else argv
    _common.run(lambda arguments: _predict(arguments, words), parser, argv)


def _add_parts(parser: argparse.ArgumentParser) -> None:
    """The spellings with one dash are nnU-Net's."""
    parts = parser.add_argument_group("one of several processes that segment into one folder")
    parts.add_argument(
        "--num-parts",
        "-num_parts",
        type=int,
        default=1,
        metavar="N",
        help="share the scans among N processes, [one of which](predict.md#several-processes-at-a-time) this is (default: "
        "%(default)s)",
    )
    parts.add_argument(
        "--part-id",
        "-part_id",
        type=int,
        default=0,
        metavar="I",
        help="which of the N it is: 0 to N - 1 (default: %(default)s)",
    )


def _add_model_and_sampling(parser: argparse.ArgumentParser) -> None:
    choice = add_model_choice(parser)
    choice.add_argument(
        "-f",
        "--folds",
        nargs="+",
        metavar="FOLD",
        help="folds to use; several are averaged. Needed if there are others beside cross-validation folds (default: all "
        "that are trained)",
    )
    sampling = parser.add_argument_group("how to sample (default: as the recipe says)")
    sampling.add_argument(
        "--steps", type=int, metavar="N", help="sampling steps; 0 means all T steps of the plan (default: the recipe's)"
    )
    sampling.add_argument("--solver", help="`ddpm`, `ddim` or `dpmpp_2m` (default: the recipe's)")
    sampling.add_argument(
        "--draws",
        type=int,
        metavar="N",
        help="segmentations to average. Where the recipe takes a single step, several draws take two, unless `--steps` is "
        "given (default: the recipe's)",
    )
    sampling.add_argument(
        "--guidance-level",
        type=float,
        metavar="U",
        help="how noisy the given image may be at most: 0 clean, 1 as noisy as the mask (default: the recipe's)",
    )
    sampling.add_argument("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")


def _predict(arguments: argparse.Namespace, words: Sequence[str]) -> None:
    if absent := [str(path) for path in arguments.input if not path.exists()]:
        raise UserError(f"{', '.join(absent)}: no such file or folder. Give scans as `input`.")
    if arguments.scheduler:
        if arguments.num_parts > 1:
            raise UserError("`num_parts` and `scheduler`: the workers of a cluster have parts already. Give one of them.")
        predict_in_parts(words, on_gpu=arguments.device.startswith("cuda"))
        return

    from diffatlas_pipeline.inference.batch import timing_table

    model = _load(arguments)
    prediction = model.prepare_folder(
        arguments.input,
        arguments.output,
        modality=arguments.modality,
        adapt_contrast=arguments.adapt_contrast,
        with_atlases=arguments.with_atlases,
        save_distance_maps=arguments.save_distance_maps,
        save_uncertainty=arguments.save_uncertainty,
        save_generated_channels=arguments.save_generated_channels,
        save_reconstruction=arguments.save_reconstruction,
        statistics=arguments.statistics,
        overwrite=arguments.overwrite,
        given_labels=arguments.given_labels,
        dicom=arguments.dicom,
        save_probabilities=arguments.save_probabilities,
        num_parts=arguments.num_parts,
        part_id=arguments.part_id,
    )
    _announce(model, prediction)
    result = prediction.run()
    table = timing_table(result.outcomes)
    if table:
        print(table)
    _report(result, prediction)


def _load(arguments: argparse.Namespace) -> Model:
    from diffatlas_pipeline.api.model import load_model

    return load_model(
        chosen_model(arguments),
        arguments.device,
        folds=arguments.folds,
        steps=arguments.steps,
        solver=arguments.solver,
        draws=arguments.draws,
        guidance_level=arguments.guidance_level,
        seed=arguments.seed,
        precision=arguments.precision,
        registrations=arguments.registrations,
        postprocessing=not arguments.no_postprocessing,
        max_memory=arguments.max_memory,
        low_resolution=not arguments.no_low_resolution,
    )


def _announce(model: Model, prediction: FolderPrediction) -> None:
    """What is about to be done."""
    sampling = f", {model.sampling}" if model.sampling else ""
    some = f"{len(prediction.cases)} case(s)" + (f" of {prediction.total}, {prediction.part}" if prediction.part else "")
    print(f"{some}, model {model.path} ({', '.join(model.folds)}){sampling}, on {model.device}")
    if memory := prediction.memory:
        print(memory)
    if prediction.segmenter.predictor.looks_first:
        print("Structures are found at low resolution, and sampled where they are (else: --no-low-resolution).")
    if steps := model.postprocessing:
        print(f"Post-processing, chosen on validation cases (without it: --no-postprocessing): {steps}.")
    for warning in prediction.warnings:
        console.warn(warning)
    if prediction.drawings:
        print(f"{len(prediction.drawings)} of {len(prediction.cases)} case(s) are completed from what is drawn of them.")
    if lacking := sum(bool(files.missing) for files in prediction.cases):
        print(f"{lacking} of {len(prediction.cases)} case(s) lack a channel: it is generated, with the segmentation.")
    segmenter, use = prediction.segmenter, prediction.segmenter.use
    if segmenter.modality and segmenter.predictor.method.any_contrast and use.adapt == "off":
        print("The model has learnt any contrast: the scans are shown to it as they are, without registration.")
    if use.adapt != "off":
        print(f"The scans are given the contrast of the training scans (--adapt-contrast {use.adapt}).")
    if use.late_fusion:
        count = len(prediction.segmenter.atlases)
        print(f"Training scans are registered to each scan, the most alike of {count} (--with-atlases).")


def _report(result: FolderResult, prediction: FolderPrediction) -> None:
    """Warnings, kept and failed cases, the last line; exits with 1 if a case failed."""
    for outcome in result.outcomes:
        for warning in outcome.warnings:
            console.warn(f"{outcome.case}: {warning}")
    kept, failed, output = result.of("kept"), result.of("failed"), prediction.destination
    if kept:
        print(f"{len(kept)} case(s) were there already and were kept (--overwrite segments them again).")
    if result.kept_differ:
        print("Warning: kept ones were made with another model, other settings or another precision.")
    if failed:
        print(f"Error: {len(failed)} of {len(result.outcomes)} case(s) failed:", file=sys.stderr)
        for outcome in failed:
            print(f"  {outcome.case}: {console.in_words(outcome.message)}", file=sys.stderr)
    where = output.file or output.folder
    print(f"{len(result.of('segmented'))} segmentation(s) written to {where}, details in {result.record}")
    if failed:
        sys.exit(1)
    after = "when all parts are done, " if prediction.part else ""
    print(f"Next: {after}DiffAtlas_evaluate -p {where} -r REFERENCE{'' if output.file else '_FOLDER'}")
