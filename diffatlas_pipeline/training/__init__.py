"""A training from its options to a model folder: cases, pseudo-labels, loop, EMA, checkpoints, log, validation."""
