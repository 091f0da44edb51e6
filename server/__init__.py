"""The blind coordinator: it adds what it cannot open, and keeps a journal; no key, no torch."""
