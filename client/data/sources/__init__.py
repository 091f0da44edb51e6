"""Data sources, one kind a file."""
