"""Promises of the pipeline, each against the real fault: damaged files, killed and stopped processes, full disks."""
