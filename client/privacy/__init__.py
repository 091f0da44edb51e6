"""Differential privacy at an institution: accounting, DP-SGD and gradients of single samples."""
