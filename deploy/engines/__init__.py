"""Ways to run the two Flower apps on one machine: in this process (`local`), or in Flower's runtime (`flower`)."""
