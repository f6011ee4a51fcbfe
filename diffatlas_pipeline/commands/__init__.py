"""One file per console script; the only place that wires rooms together."""
