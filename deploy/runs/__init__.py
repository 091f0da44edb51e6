"""Run folders: what a simulation leaves behind, written and read."""
