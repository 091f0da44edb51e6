"""Cutting: which parts of a model can be removed together, which may go, and the smaller model of the same class."""
