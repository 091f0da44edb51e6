"""Sources of tallies, one a file (`dictpfl.client.training.tally`)."""
