"""Scores that institutions send in score rounds, one a file."""
