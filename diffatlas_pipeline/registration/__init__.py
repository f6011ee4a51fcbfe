"""Registration of atlases to a target, and fusion of what they say; knows nothing of plans, methods or training."""
