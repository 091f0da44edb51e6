"""Ceremony: the key is made, handed over, and both are proven by identities, bundles, rotation and custody."""
