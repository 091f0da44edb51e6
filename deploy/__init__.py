"""Programs of an operator: the command line, the key ceremony, simulations, containers."""
