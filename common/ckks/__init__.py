"""CKKS: checked parameters, keys, and one capability a module (seal, add, open)."""
