"""Federations on one machine: founding, the two engines, and the run."""
