"""Checks of a recorded run, by subject; each makes lines of the report."""
