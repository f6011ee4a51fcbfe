"""DiffAtlas pipeline: self-configuring segmentation with a generative atlas of image and segmentation.

The public functions are imported when they are first used, so that importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from diffatlas_pipeline.errors import UserError

if TYPE_CHECKING:
    from diffatlas_pipeline.api.best_configuration import find_best_configuration
    from diffatlas_pipeline.api.evaluation import evaluate
    from diffatlas_pipeline.api.model import load_model
    from diffatlas_pipeline.api.preparation import plan_and_preprocess
    from diffatlas_pipeline.api.sharing import export_model, install_model
    from diffatlas_pipeline.api.training import train

__version__ = "0.1.0"
__all__ = [
    "UserError",
    "__version__",
    "evaluate",
    "export_model",
    "find_best_configuration",
    "install_model",
    "load_model",
    "plan_and_preprocess",
    "train",
]
_PLACES = {  # modules of the room api
    "evaluate": "evaluation",
    "export_model": "sharing",
    "find_best_configuration": "best_configuration",
    "install_model": "sharing",
    "load_model": "model",
    "plan_and_preprocess": "preparation",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.api.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
