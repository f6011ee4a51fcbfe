"""The model folder: only this room reads and writes its parts."""
