"""The model folder: its only reader and writer."""
