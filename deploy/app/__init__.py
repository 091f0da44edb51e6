"""The Flower app bundle: written from this installation, named by its hash, checked before each task."""
