"""What an operator runs: the command line, the key ceremony, simulations, containers."""
