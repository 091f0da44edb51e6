"""Decisions of score rounds, one a file."""
