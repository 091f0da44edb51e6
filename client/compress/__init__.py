"""Smaller models: zeros (`sparse`), cut shapes (`cutting`), one skill (`narrow`)."""
