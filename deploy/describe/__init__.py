"""Descriptions of configurations before anything is run: parameters, bytes, memory, time."""
