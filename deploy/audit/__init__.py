"""Audit of a recorded run by a second implementation of protocol 4, written from docs/specification.md alone."""
