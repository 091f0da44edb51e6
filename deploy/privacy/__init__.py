"""Attacks on a federation, on the bytes and arrays of a real run: what each party can see, and what it can make of it."""
