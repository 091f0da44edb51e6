"""Attacks that ship with the software, from papers and of this project's own: a file each."""
