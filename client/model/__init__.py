"""Models: built in or from a hub, decomposed into dictionary and lookup table, and merged again."""
