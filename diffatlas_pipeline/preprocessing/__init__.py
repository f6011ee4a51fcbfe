"""Normalisation, labels to and from signed distance maps, stored cases."""
