"""Keys of an institution by epoch, and the vault that keeps them sealed on disk."""
