"""Studies: further federations on the parties of a standing one, proposed, approved by each institution, and keyed for those alone."""
