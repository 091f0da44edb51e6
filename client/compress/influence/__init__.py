"""Influence of training samples on validation loss, layer by layer (LayerIF, arXiv 2505.23811; DataInf, arXiv 2310.00902)."""
