"""Pairwise masks, manifests and their keys: what an institution does against collusion and a coordinator that cheats."""
