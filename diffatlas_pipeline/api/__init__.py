"""What a notebook calls and a command wraps."""
