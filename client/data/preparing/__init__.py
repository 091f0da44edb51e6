"""Columns prepared by statistics of all institutions together, which nobody has of another (docs/decisions/0051)."""
