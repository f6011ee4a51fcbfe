"""Registration of atlases to a target, and label fusion; knows nothing of plans, methods or training."""
