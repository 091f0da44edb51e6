"""What a federation leaves to the ecosystem: merged folders, adapters, model cards, evaluation."""
