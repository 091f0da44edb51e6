"""Layer types that tables can be put into, one a file (a door: `decomposition.layers`)."""
