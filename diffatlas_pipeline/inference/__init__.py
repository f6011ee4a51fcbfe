"""Tiling, stitched sampling, predictor, export to native space."""
