"""Families of models whose layers a reducer can stand between, one a file."""
