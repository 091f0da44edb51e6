"""Replay of shared state from opened sums (docs/specification.md, sections 10 to 12)."""
