"""A finished federation for the ecosystem: merged folders, adapters, model cards, evaluation."""
