"""Institutions' own data, prepared before a federation as all agreed."""
