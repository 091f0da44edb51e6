"""Heart disease and TCGA-BRCA beside FLamby's published figures: what `benchmarks/clinical.py` needs."""
