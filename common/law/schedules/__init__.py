"""Schedules of pruning, one a file."""
