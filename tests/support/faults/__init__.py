"""Faults drawn from a seed and played on a deployment of real processes; `tools/faults.py` is the command."""
