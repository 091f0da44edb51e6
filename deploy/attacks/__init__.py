"""Privacy benchmark: published attacks on the bytes that really cross the wire."""
