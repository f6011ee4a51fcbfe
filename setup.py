"""Packaging and console scripts."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "diffatlas_pipeline/__init__.py").read_text(encoding="utf-8")).group(1)

COMMANDS = {
    "DiffAtlas_check": "check",
    "DiffAtlas_plan_and_preprocess": "plan_and_preprocess",
    "DiffAtlas_train": "train",
    "DiffAtlas_predict": "predict",
    "DiffAtlas_evaluate": "evaluate",
    "DiffAtlas_generate": "generate",
    "DiffAtlas_benchmark": "benchmark",
    "DiffAtlas_find_best_configuration": "find_best_configuration",
    "DiffAtlas_report": "report",
    "DiffAtlas_quickstart": "quickstart",
    "DiffAtlas_convert": "convert",
    "DiffAtlas_info": "info",
    "DiffAtlas_export_model": "export_model",
    "DiffAtlas_install_model": "install_model",
}

COMPLETION = ["shtab>=1.12"]
DICOM = ["highdicom>=0.24", "pydicom>=3.0"]
CLUSTER = ["distributed>=2024.8"]
TEST = [
    *CLUSTER,
    *COMPLETION,
    *DICOM,
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "playwright>=1.49",
    "setuptools>=77",  # builds the wheel that is tested
]

setup(
    name="diffatlas-pipeline",
    version=VERSION,
    description="Self-configuring medical image segmentation with a generative atlas (joint image-mask diffusion)",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["diffatlas_pipeline", "diffatlas_pipeline.*", "dataset_conversion"]),
    package_data={
        "": ["py.typed"],
        "diffatlas_pipeline.benchmark": ["*.j2"],
        "diffatlas_pipeline.report": ["templates/*"],
    },
    install_requires=[
        "torch>=2.4",
        "numpy>=1.26",
        "scipy>=1.12",
        "scikit-image>=0.22",
        "pillow>=10",
        "tifffile>=2023.7",
        "nibabel>=5.2",
        "SimpleITK>=2.3",
        "batchgenerators>=0.25",
        "batchgeneratorsv2>=0.3",
        "acvl-utils>=0.2.5",
        "blosc2>=3.0",
        "pandas>=2.1",
        "safetensors>=0.4",
        "matplotlib>=3.8",
        "Jinja2>=3.1",
        "jupyterlab-niivue>=0.2.7,<0.3",  # the viewer of the report; needs no other package
        "tqdm>=4.66",
        "filelock>=4.0",
    ],
    extras_require={
        "test": TEST,
        "dev": [*TEST, "ruff>=0.12", "mypy>=1.15"],
        "cluster": CLUSTER,
        "dicom": DICOM,
        "tensorboard": ["tensorboard>=2.15"],
        "completion": COMPLETION,  # only to print it; what is printed works without
    },
    entry_points={
        "console_scripts": [f"{name}=diffatlas_pipeline.commands.{module}:main" for name, module in COMMANDS.items()]
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
