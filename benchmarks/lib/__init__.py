"""Parts that several benchmarks share: machines, shapes, federations, rivals, pages. A script finds them beside itself."""
