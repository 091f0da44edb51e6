"""Reports, plots and progress of a run."""
