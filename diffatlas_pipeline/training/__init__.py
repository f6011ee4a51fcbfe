"""Loop, EMA, checkpoints, logging."""
