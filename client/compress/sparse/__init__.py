"""Zeros in a model: calibration, pruning by one method or another, and thresholds that are learnt."""
