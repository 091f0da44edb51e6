"""Bytes of protocol 4: streams, packed words, blobs, digits, key files (docs/specification.md, sections 2 to 6)."""
