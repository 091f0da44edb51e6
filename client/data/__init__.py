"""Samples, and the sources that a configuration can name: arrays, tables, texts, images."""
