"""Parts for dictpfl, one a file."""
