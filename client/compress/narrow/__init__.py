"""Narrow models: one skill out of a general model, and what is left of the others (Michaud, Parker-Sartori, Tegmark 2025)."""
