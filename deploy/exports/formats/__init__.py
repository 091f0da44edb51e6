"""Formats of exported models, one a file (a door: `dictpfl export --format`)."""
