"""Weights with zeros: which may lose entries, by what score, by what mask, and by thresholds that are trained."""
