"""Architectures whose axes are known, one a file."""
