"""Cryptography of protocol 4 in numpy: ring, ciphertexts, tags, masks (docs/specification.md, sections 5 to 9)."""
