"""Helpers of tests: oracles, federations in one process and in many, a key ceremony, all to be imported from here."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository's own folder."""
