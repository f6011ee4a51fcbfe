"""DiffAtlas_export_model: a trained model as one zip file to pass on."""

from __future__ import annotations

import argparse
from pathlib import Path

from diffatlas_pipeline.commands import _common
from diffatlas_pipeline.commands._model_choice import add_model_choice, chosen_model
from diffatlas_pipeline.errors import UserError


def main(argv: list[str] | None = None) -> None:
    parser = _common.command_parser(
        "Pack a trained model into one zip file, which DiffAtlas_install_model and DiffAtlas_predict -m take. Training scans\n"
        "and the names of cases stay behind, unless you ask for them.",
        "DiffAtlas_export_model -d 001 -o model.zip --licence CC-BY-4.0",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="zip file to write")
    choice = add_model_choice(parser)
    choice.add_argument(
        "-f", "--folds", nargs="+", metavar="FOLD", help="folds to pack (default: those that `DiffAtlas_predict` takes)"
    )
    parser.add_argument(
        "--with-scans",
        action="store_true",
        help="also pack the few training scans that the model keeps, and the names of its cases: patients' data. `rba` and "
        "`mean` need it",
    )
    parser.add_argument("--licence", default="", metavar="TEXT", help="what others may do with it, for the model card")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    _common.add_workspace(parser)
    _common.run(_export, parser, argv)


def _export(arguments: argparse.Namespace) -> None:
    from diffatlas_pipeline.api.sharing import export_model

    model = chosen_model(arguments)
    if isinstance(model, Path):
        raise UserError(f"{model}: a file, packed already. Copy it, or give a model folder as `model`.")
    manifest = export_model(
        model,
        arguments.output,
        folds=arguments.folds,
        with_scans=arguments.with_scans,
        licence=arguments.licence,
        overwrite=arguments.overwrite,
    )
    size = arguments.output.stat().st_size / 1e6
    print(f"Packed {manifest.dataset}/{manifest.model} ({', '.join(manifest.folds)}) into {arguments.output}, {size:.1f} MB.")
    if manifest.training_scans:
        print("It holds training scans and names of cases: pass it on only to those who may see them.")
    else:
        print("It holds no training scan, so it takes no --with-atlases and no --adapt-contrast (--with-scans packs them).")
    if not manifest.licence:
        print("Nobody can know what they may do with it: say so with --licence.")
    print(f"Install it with: DiffAtlas_install_model {arguments.output}")
