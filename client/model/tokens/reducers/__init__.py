"""Reducers of tokens, one a file."""
