"""Patches from stored cases, augmentation, loaders."""
