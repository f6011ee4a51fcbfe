"""DiffAtlas pipeline: self-configuring segmentation with a generative atlas of image and segmentation."""

__version__ = "0.1.0"
