"""Speed and accuracy, measured by commands that anyone can repeat."""
