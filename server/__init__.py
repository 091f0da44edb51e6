"""Blind coordinator: it adds uploads that it cannot open, and keeps a journal; no key, no torch."""
