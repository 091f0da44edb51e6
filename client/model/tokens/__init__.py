"""Fewer tokens for a model to read: reducers before its stack of layers and between them, and the families that they know."""
