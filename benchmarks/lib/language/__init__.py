"""SmolLM2 on the answers of GSM8K: federations as cells, and what is measured of their models."""
