"""Allocators of ranks, one a file."""
